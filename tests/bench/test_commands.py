"""Each benchmark runs on little material; tables and page are made of its JSON. No time is judged."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.__main__ import BENCHMARKS, KEPT, command_of, main
from bench.api import slope_kb
from bench.callers import judged
from bench.machine import machine, watched_memory
from bench.material import SAMPLES, copies_of
from bench.report import page, read_kept
from bench.roofline import Shape, operations
from bench.served import chromium
from ingest.files import content_id
from ingest.read_pdf import read_pdf


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    (folder / "pdfs").mkdir(parents=True)
    shutil.copy(SAMPLES / "pdfs" / "shop-shipping.pdf", folder / "pdfs")
    rows = [json.loads(line) for line in (SAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [row for row in rows if row.get("doc") == "shop-shipping.pdf"][:4]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    tables = import_module(f"bench.{result['bench']}").tables(result)
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    return result


def test_rerank_gives_ratios_agreement_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rerank", "--rounds", "2", "--passages", "4", "--questions", "2", "--keep", str(tmp_path)]
    result = run(capsys, *words, "--peers", "sentence-transformers", "FlashRank")
    assert set(result["ratio"]) >= {"sentence-transformers"}
    assert len(result["times"]["rank37"]["seconds"]) == 2
    assert result["agreement"]["rank37"]["decisions"] == 2 * 4
    assert result["recalled"]["questions"] == 2
    assert result["not_run"]["FlashRank"]
    assert result["versions"]["sentence-transformers"]

    assert read_kept(tmp_path) == {"rerank": result}
    written = page(read_kept(tmp_path))
    assert "--rounds 2 --passages 4" in written
    assert f"| FlashRank | {result['not_run']['FlashRank']} |" in written
    assert f"{result['ratio']['sentence-transformers']:.2f}x" in written


def test_ask_runs_without_the_frameworks_and_ours_agrees_with_itself(
    small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, "ask", "--set", str(small_set), "--rounds", "1", "--peers")
    assert set(result["times"]) == {"rank37", "rank37, passages new to it", "rank37, cross-encoder alone"}
    assert result["best_shared"]["rank37"] == result["best_shared"]["rank37, passages new to it"]
    assert result["stages_ms"]["rank37"].keys() == {"embed", "recall", "rerank"}


def test_ingest_cuts_the_same_chunks_in_whatever_process(small_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, "ingest", "--set", str(small_set), "--rounds", "1", "--peers")
    cut = result["reading_and_cutting"]
    assert cut["rank37"]["chunks"] == cut["rank37, in this process"]["chunks"] == result["whole"]["rank37"]["chunks"]
    assert result["embedding"]["passages"] == cut["rank37"]["chunks"]
    assert result["embedding"]["least_cosine"] > 0.98


def test_index_recalls_what_exact_search_finds_at_both_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sizes", "300", "600", "--queries", "4", "--peer-size", "300", "--peer-queries", "2"]
    result = run(capsys, "index", *words, "--folder", str(tmp_path))
    assert [own["chunks"] for own in result["ours"]] == [300, 600]
    assert [own["recall_at_100"] for own in result["ours"]] == [1.0, 1.0]
    assert [own["chunks"] for own in result["optimized"]] == [300, 600]
    assert min(own["recall_at_100"] for own in result["optimized"]) >= 0.98
    assert min(own["seconds"] for own in result["optimized"]) > 0
    assert [their["chunks"] for their in result["peer"]] == [300]
    assert [growth["data"] for growth in result["growth"]] == [600 / 300]
    assert list(tmp_path.iterdir()) == []


def test_load_answers_everybody(small_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, "load", "--set", str(small_set), "--people", "1", "3", "--each", "2")
    assert [(one["people"], one["questions"], one["errors"]) for one in result["runs"]] == [(1, 2, []), (3, 6, [])]
    assert result["p95_times_alone"]["1"] == 1.0


def test_the_api_stands_all_three_loads(small_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loads = ["--askers", "2", "--seconds", "1", "--at-once", "20", "--waiting", "2", "--compared", "1"]
    result = run(capsys, "api", "--set", str(small_set), *loads, "--questions", "9")
    sustained, spike, soak = result["sustained"], result["spike"], result["soak"]
    assert (sustained["errors"], spike["errors"], soak["errors"]) == ({}, {}, {})
    assert sustained["turned_away"] == soak["turned_away"] == 0
    assert sustained["requests"] == sum(kind["count"] for kind in sustained["kinds"].values())
    assert spike["served"] + spike["turned_away"] == 20
    assert spike["served"] >= 4 + 2  # RANK37_AT_WORK and RANK37_WAITING
    assert spike["same_answers"] == 1
    assert [look["questions"] for look in soak["looks"]] == list(range(10))
    assert all(look["memory_mb"] > 0 and look["files"] > 0 and look["threads"] > 0 for look in soak["looks"])
    assert result["logged_warnings"] == {}


def test_turning_away_is_right_only_where_it_is_said_when_to_come_back() -> None:
    away = judged("ask", httpx.Response(429, headers={"Retry-After": "7"}), 0.1)
    assert (away.retry_after_s, away.error, away.is_right) == (7, None, False)
    for reply in (httpx.Response(429), httpx.Response(500, headers={"Retry-After": "7"}), httpx.Response(404)):
        wrong = judged("ask", reply, 0.1)
        assert (wrong.retry_after_s, wrong.is_right) == (None, False)
        assert wrong.error is not None
        assert str(reply.status_code) in wrong.error


def test_memory_that_a_leak_takes_shows_in_the_slope_and_what_is_loaded_once_does_not() -> None:
    once = [{"questions": n, "memory_mb": 400.0 if n < 20 else 600.0} for n in range(60)]
    assert slope_kb(once, 20) == 0.0
    leak = [{"questions": n, "memory_mb": 400.0 + 0.25 * n} for n in range(60)]
    assert slope_kb(leak, 20) == pytest.approx(250.0)


def test_ray_brings_in_what_is_brought_in_without_it(small_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason='the extra "ray" is not installed')
    result = run(capsys, "ray", "--set", str(small_set), "--files", "2", "--workers", "1")
    local, ray = result["runs"]["without Ray"], result["runs"]["Ray, 1 worker"]
    assert result["files"] == 2
    assert local["chunks"] == ray["chunks"] > 0
    assert local["cpu_s"] > 0
    assert {"the command", "cutting", "embedding", "Ray's own"} <= ray["cpu_by_kind_s"].keys()
    assert not {"cutting", "embedding", "Ray's own"} & local["cpu_by_kind_s"].keys()


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests")
def test_clicks_are_timed_alone_and_while_files_are_ingested(
    small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, "clicks", "--set", str(small_set), "--turns", "1", "--rounds", "1", "--files", "40")
    assert result["times"].keys() == {"nothing else running", "while files are ingested"}
    for kinds in result["times"].values():
        assert {kind: len(taken["seconds"]) for kind, taken in kinds.items()} == {
            "to the Documents page": 1,
            "a switch on the page": 2,
            "to the Ask page": 1,
        }
        assert all(0 < second < 300 for taken in kinds.values() for second in taken["seconds"])


def test_copies_are_other_files_that_read_the_same(tmp_path: Path) -> None:
    original = SAMPLES / "pdfs" / "shop-shipping.pdf"
    first, second = copies_of([original], 2, tmp_path / "copies")
    assert len({content_id(path, max_bytes=10**9) for path in (original, first, second)}) == 3
    texts = [[page.text for page in read_pdf(path).pages] for path in (original, first, second)]
    assert texts[0] == texts[1] == texts[2]


def test_a_set_without_pdfs_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerank", "--set", str(tmp_path)]) == 2
    assert "holds no labelled set" in capsys.readouterr().err


def test_the_operations_of_a_pair_are_those_of_its_matrices_and_its_attention() -> None:
    shape = Shape(layers=6, width=384, inner=1536)
    matrices = 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    attention = 6 * 2 * (2 * 100 * 100 * 384)  # queries by keys, and weights by values
    assert operations(shape, [100]) == 2 * matrices * 100 + attention
    assert operations(shape, [100, 100]) == 2 * operations(shape, [100])


def test_the_command_of_a_result_can_be_typed_again() -> None:
    words = ["index", "--sizes", "10", "20", "--keep", "a folder", "--json"]
    assert command_of(words, 2) == "OMP_NUM_THREADS=2 python -m bench index --sizes 10 20"
    assert command_of(["ask", "--keep"], 1) == "OMP_NUM_THREADS=1 python -m bench ask"


def test_the_machine_is_named() -> None:
    found = machine()
    assert found["cores"] >= 1
    assert found["threads"] >= 1
    assert found["memory_gb"] > 0
    assert found["processor"]


def test_memory_that_was_given_back_is_still_the_peak() -> None:
    with watched_memory(0.005) as memory:
        held = bytearray(b"x") * 200_000_000
        del held
    assert memory.peak_mb >= memory.before_mb


def test_the_page_in_docs_is_what_the_kept_results_make() -> None:
    if not list(KEPT.glob("*.json")):
        pytest.skip("no results are kept yet")
    assert KEPT.with_suffix(".md").read_text(encoding="utf-8") == page(read_kept(KEPT))


def test_results_of_another_format_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rerank.json").write_text('{"format": 0, "bench": "rerank"}', encoding="utf-8")
    assert main(["report", "--kept", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 2
    assert "measure again" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_every_benchmark_is_in_the_readme() -> None:
    readme = (Path(__file__).resolve().parents[2] / "bench" / "README.md").read_text(encoding="utf-8")
    assert [name for name in BENCHMARKS if f"| `{name}` |" not in readme] == []
