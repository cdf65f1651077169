"""`python -m bench scaling`: the plan follows from the measured bytes, and quantized search is really measured."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from bench import scaling
from rag.errors import BadInput
from rag.evaluation.tables import as_markdown

ANIMALS = ("otter", "heron", "badger", "lynx", "stoat", "osprey", "marten", "bittern", "beaver", "kestrel", "weasel")
PLACES = ("river", "marsh", "forest", "meadow", "coast", "moor", "hedge", "quarry", "orchard", "valley")
SIGHTS = ("dawn", "noon", "dusk")


@pytest.fixture(scope="module")
def labelled_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """330 passages and 30 questions in BEIR's layout."""
    folder = tmp_path_factory.mktemp("sets") / "sightings"
    folder.mkdir()
    rows = [(animal, place, time) for animal in ANIMALS for place in PLACES for time in SIGHTS]
    corpus = [
        {"_id": f"d{n}", "title": "", "text": f"The {animal} was seen by the {place} at {time}."}
        for n, (animal, place, time) in enumerate(rows)
    ]
    queries = [
        {"_id": f"q{n}", "text": f"Where was the {rows[n * 11][0]} seen at {rows[n * 11][2]}?"} for n in range(30)
    ]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = "".join(f"q{n}\td{n * 11}\t1\n" for n in range(30))
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return folder


def test_the_plan_follows_from_the_bytes() -> None:
    full = scaling.planned(1_000_000, "none", 384, 4000)
    graph = 16 * 2 * 4 * 1.1
    assert full["ram_gb"] == pytest.approx((384 * 4 * 1.5 + graph) / 1000, abs=1e-4)
    assert full["disk_gb"] == 4.0
    assert full["nodes"] == 1
    short = scaling.planned(100_000_000, "scalar", 384, 4000)
    assert short["ram_gb"] == pytest.approx(100 * (384 * 1.5 + graph) / 1000, abs=1e-3)
    assert short["disk_gb"] == pytest.approx(100 * (4000 + 384) / 1000)
    copies = 2 * short["ram_gb"] / (64 * 0.75)
    assert short["nodes"] == max(3, int(-(-copies // 1)))


def test_bytes_and_recall_are_measured(labelled_set: Path, tmp_path: Path) -> None:
    options = Namespace(sets=[labelled_set], questions=20, passages=None, vectors=tmp_path / "vectors.npz")
    result = scaling.measure(options, lambda line: None)
    assert (result["chunks"], result["questions"], result["dimension"]) == (330, 20, 384)
    disk = result["disk_bytes_a_chunk"]
    assert disk["all"] == pytest.approx(sum(value for name, value in disk.items() if name != "all"))
    assert disk["dense vectors"] >= 384 * 4
    recall = {one["quantization"]: one["recall_at_100"] for one in result["recall"]}
    assert set(recall) == {"none", "scalar", "binary"}
    assert recall["none"] > 0.95
    assert recall["scalar"] > 0.9
    assert all(0 < value <= 1 for value in recall.values())
    page = "\n".join(as_markdown(table) for table in scaling.tables(result))
    assert f"{len(result['plan']) // 3 and 1_000_000_000:,}" in page
    assert "Recall of quantized vectors" in page

    again = scaling.measure(options, lambda line: None)
    assert again["recall"][0]["recall_at_100"] == pytest.approx(recall["none"], abs=0.05), "from the kept vectors"


def test_too_few_passages_are_refused(labelled_set: Path) -> None:
    with pytest.raises(BadInput, match="at least 200"):
        scaling.measure(Namespace(sets=[labelled_set], questions=5, passages=150, vectors=None), lambda line: None)
