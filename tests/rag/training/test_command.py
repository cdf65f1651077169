"""`python -m rag train` from labelled questions on real PDFs to a reranker that serves, and back."""

import json
import re
import shutil
from pathlib import Path

import pytest

import ingest.__main__
from rag.__main__ import main
from rag.engines.colbert import TokenEncoder
from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER
from rag.engines.late_fusion import FusionWeights, LateFusionReranker, LateInteraction, load_reranker, read_weights
from rag.json_lines import read_rows
from rag.settings import load_settings
from rag.training.groups import question_digest, read_groups
from rag.training.model_folder import read_learnt_questions
from rag.wiring import open_rerankers
from tests.contracts.tiny_models import CORPUS, save_cross_encoder
from tests.rag.training.training_data import passages, write_lines

DATA = Path(__file__).parents[3] / "data"
DOCUMENTS = ("insurance-dental-care.pdf", "shop-returns-and-refunds.pdf")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection `contracts` of two sample PDFs."""
    folder = tmp_path_factory.mktemp("data")
    files = [str(DATA / "pdfs" / name) for name in DOCUMENTS]
    assert ingest.__main__.main([*files, "--data-dir", str(folder), "--collection", "contracts"]) == 0
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample questions about those PDFs, and some that they do not answer."""
    rows = [row for _, row in read_rows(DATA / "questions.jsonl")]
    chosen = [row for row in rows if row.get("doc") in DOCUMENTS]
    chosen += [row for row in rows if not row["answerable"]][:6]
    assert len(chosen) > 20
    return write_lines(tmp_path_factory.mktemp("questions") / "questions.jsonl", [json.dumps(row) for row in chosen])


@pytest.fixture(autouse=True)
def in_data_dir(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK37_DATA_DIR", str(data_dir))
    monkeypatch.setenv("RANK37_RERANK_CACHE_MB", "0")


def run(*arguments: object) -> None:
    assert main(["train", *map(str, arguments)]) == 0


def test_from_labelled_questions_to_a_reranker_that_serves_and_back(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn, held_out = tmp_path / "learn.jsonl", tmp_path / "held-out.jsonl"
    run("split", questions, "--learn", learn, "--held-out", held_out, "--share", 0.5)
    asked = [{question_digest(row["text"]) for _, row in read_rows(path)} for path in (learn, held_out)]
    assert not asked[0] & asked[1]

    run("mine", "--questions", learn, "--collection", "contracts", "--out", tmp_path / "groups.jsonl")
    groups = read_groups(tmp_path / "groups.jsonl")
    assert any(group.positives for group in groups)
    assert any(not group.positives for group in groups)
    evidence = {row["text"]: row["evidence"] for _, row in read_rows(learn)}
    for group in groups:
        assert not set(group.positives) & set(group.negatives)
        assert bool(group.positives) is bool(evidence[group.query])
        assert all(passage.split("\n")[0] for passage in group.passages)  # the document's title, as in the product

    run("candidates", "--questions", held_out, "--collection", "contracts", "--depth", 8, "--out", tmp_path / "h.jsonl")
    measured = read_groups(tmp_path / "h.jsonl")
    assert {question_digest(group.query) for group in measured} <= asked[1]
    assert all(rank is None or 1 <= rank <= 8 for group in measured for rank in group.ranks)

    tiny = save_cross_encoder(tmp_path / "tiny", "bert")
    run("fine-tune", tmp_path / "groups.jsonl", "--base", tiny, "--out", tmp_path / "tuned", "--max-tokens", 64)
    assert read_learnt_questions(tmp_path / "tuned" / "model") == {question_digest(group.query) for group in groups}
    assert "held-out_ndcg@10" in capsys.readouterr().out

    # The tiny model knows nothing: it does not beat the embedded one, and nothing changes.
    run("promote", tmp_path / "tuned", "--groups", tmp_path / "h.jsonl", "--name", "tiny")
    shown = capsys.readouterr().out
    for words in ("nDCG@5", "P@5", "R@5", "not promoted"):
        assert words in shown, words
    assert open_rerankers(load_settings())[0].info.name == EMBEDDED_RERANKER_FOLDER.name

    # The other way round: the embedded model, calibrated, against the tiny one in use.
    strong = tmp_path / "strong"
    shutil.copytree(EMBEDDED_RERANKER_FOLDER, strong)
    run("calibrate", strong, "--groups", tmp_path / "h.jsonl", "--out", tmp_path / "calibrated")
    shown = capsys.readouterr().out
    for words in ("temperature", "bias", "expected calibration error", "before: n"):
        assert words in shown, words
    run("calibrate", strong, "--groups", tmp_path / "h.jsonl", "--late-interaction", "--out", tmp_path / "fused")
    weights = read_weights(tmp_path / "fused")
    assert weights is not None
    assert max(weights.logit, weights.max_sim, weights.cosine) > 0
    assert isinstance(load_reranker(tmp_path / "fused"), LateFusionReranker)
    run("export", tmp_path / "fused", "--out", tmp_path / "fused-half")
    assert read_weights(tmp_path / "fused-half") == weights
    monkeypatch.setenv("RANK37_RERANKER", str(tiny))
    run("promote", tmp_path / "calibrated", "--groups", tmp_path / "h.jsonl", "--name", "contracts-1", "--alpha", 0.2)
    assert "promoted: it is better" in capsys.readouterr().out
    monkeypatch.delenv("RANK37_RERANKER")
    serving = open_rerankers(load_settings())[0].info
    assert (serving.name, serving.stands_in_for) == ("contracts-1", "")
    assert "it is better" in serving.why

    run("rollback")
    assert "contracts-1 no longer serves" in capsys.readouterr().out
    assert open_rerankers(load_settings())[0].info.name == EMBEDDED_RERANKER_FOLDER.name

    run("export", tmp_path / "calibrated", "--out", tmp_path / "shipped", "--groups", tmp_path / "h.jsonl")
    assert " MB in " in capsys.readouterr().out


def test_late_interaction_says_what_need_not_be_read(
    tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = tmp_path / "all.jsonl"
    run("candidates", "--questions", questions, "--collection", "contracts", "--depth", 12, "--out", groups)
    late = LateInteraction(TokenEncoder.embedded())
    fused = save_cross_encoder(tmp_path / "fused", "bert")
    FusionWeights(*late.name_and_revision, 0.01, 12.0, 1.0, -8.0).write(fused)
    capsys.readouterr()
    run("foretell", fused, "--groups", groups, "--read", 6, "--below", 0.9, "--floor", 0.2, "--out", tmp_path / "quick")
    shown = capsys.readouterr().out
    # The sum is nearly what late interaction says: it foretells it well, and half of the passages are left unread.
    [(read, correlation)] = re.findall(r"reads (\d+)% .* correlation ([\d.]+)", shown)
    assert int(read) <= 60
    assert float(correlation) > 0.9
    assert "on the other side of the floor 0.2" in shown
    quick = load_reranker(tmp_path / "quick")
    scored = quick.score("How long is the waiting period for braces?", passages())
    assert sum(not relevance.foretold for relevance in scored) == 6


def test_a_stronger_reranker_labels_what_recall_finds(tmp_path: Path) -> None:
    asked = write_lines(
        tmp_path / "asked.jsonl",
        [json.dumps({"text": "How long is the waiting period for braces?"}), json.dumps({"text": "Gift cards?"})],
    )
    out = tmp_path / "labelled.jsonl"
    run(
        "distil", "--questions", asked, "--collection", "contracts", "--depth", 4, "--teacher", "embedded", "--out", out
    )
    groups = read_groups(out)
    assert [len(group.passages) for group in groups] == [4, 4]
    assert max(groups[0].labels) > 0.5


def test_labels_given_by_people_become_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = write_lines(
        tmp_path / "passages.jsonl",
        [json.dumps({"_id": one.id, "title": one.title, "text": one.text}) for one in passages()],
    )
    labels = write_lines(
        tmp_path / "labels.jsonl",
        [
            json.dumps({"question": "How long must I wait?", "passage": CORPUS[0], "label": "right"}),
            json.dumps({"question": "How long must I wait?", "passage": CORPUS[1], "label": "wrong"}),
            json.dumps({"question": "Is shipping free?", "label": "wrongly_refused"}),
        ],
    )
    run("mine", "--labels", labels, "--passages", pool, "--out", tmp_path / "groups.jsonl")
    [group] = read_groups(tmp_path / "groups.jsonl")
    assert group.positives == (CORPUS[0],)
    assert CORPUS[1] in group.negatives
    assert "1 groups of 2 questions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine", "--questions", "{questions}", "--collection", "no-such", "--out", "x"], "no collection 'no-such'"),
        (["mine", "--questions", "{questions}", "--passages", "{questions}", "--out", "x"], "use --collection"),
        (["mine", "--collection", "contracts", "--out", "x"], "no questions"),
        (["mine", "--questions", "missing.jsonl", "--collection", "contracts", "--out", "x"], "does not exist"),
        (["fine-tune", "missing.jsonl", "--base", "embedded", "--out", "x"], "does not exist"),
        (["fine-tune", "{groups}", "--base", "no/such-model", "--out", "x"], "models fetch no/such-model"),
        (["calibrate", "no-such", "--groups", "{groups}", "--out", "x"], "holds no model"),
        (["foretell", "no-such", "--groups", "{groups}", "--out", "x"], "holds no model"),
        (["foretell", "{plain}", "--groups", "{groups}", "--out", "x"], "calibrated without late interaction"),
        (["foretell", "{embedded}", "--groups", "{groups}", "--out", "x"], "3 questions: at least 20 are needed"),
        (["foretell", "{embedded}", "--groups", "{many}", "--read", "0", "--out", "x"], "read = 0: at least 1 passage"),
        (["foretell", "{embedded}", "--groups", "{many}", "--below", "1.5", "--out", "x"], "below = 1.5: take a score"),
        (["foretell", "{embedded}", "--groups", "{many}", "--floor", "4", "--out", "x"], "floor = 4.0: take a score"),
        (["promote", "no-such", "--groups", "{groups}", "--name", "embedded"], "can't be called 'embedded'"),
        (["split", "{questions}", "--learn", "x", "--held-out", "y", "--share", "1.5"], "between 0 and 1"),
        (["rollback"], "nothing to roll back"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(
    tmp_path: Path,
    questions: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "rollback":
        arguments = [*arguments, "--data-dir", str(tmp_path / "fresh")]
    row = '{"query": "q", "pos": ["p"], "neg": ["n"]}'
    paths = {
        "questions": questions,
        "groups": write_lines(tmp_path / "groups.jsonl", [row] * 3),
        "many": write_lines(tmp_path / "many.jsonl", [row] * 20),
        "embedded": EMBEDDED_RERANKER_FOLDER,
        "plain": save_cross_encoder(tmp_path / "plain", "bert"),
    }
    filled = [argument.format(**paths) for argument in arguments]
    assert main(["train", *filled]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "x").exists()
