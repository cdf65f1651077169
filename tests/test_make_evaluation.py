"""docs/make_evaluation.py: runs what is missing, keeps the JSON, and the page is made of it alone."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.rag.test_evaluation_answers import ROWS
from tests.rag.test_evaluation_answers import figures as pdf_report
from tests.rag.test_evaluation_noise import ASKED, TEXTS, write_rows


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parent.parent / "docs" / "make_evaluation.py"
    spec = importlib.util.spec_from_file_location("make_evaluation", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_set(folder: Path, question: str | None = None) -> Path:
    folder.mkdir(parents=True)
    write_rows(folder / "corpus.jsonl", [{"_id": name, "text": text} for name, text in TEXTS.items()])
    asked = {name: question or text for name, (text, _) in ASKED.items()}
    write_rows(folder / "queries.jsonl", [{"_id": f"q-{name}", "text": text} for name, text in asked.items()])
    (folder / "qrels.tsv").write_text("".join(f"q-{name}\t{name}\t1\n" for name in TEXTS), encoding="utf-8")
    return folder


def test_sets_are_found_and_put_where_they_belong(script: ModuleType, tmp_path: Path) -> None:
    write_set(tmp_path / "cover")
    write_set(tmp_path / "many" / "de")
    write_set(tmp_path / "chinese", "重大疾病的等待期是多久？")
    (tmp_path / "filings").mkdir()
    write_rows(tmp_path / "filings" / "questions.jsonl", [{"_id": "1", "text": "Why?"}])
    (tmp_path / "empty").mkdir()
    found = list(script.find_sets(tmp_path))
    assert {str(folder.relative_to(tmp_path)): script.section_of(folder) for folder in found} == {
        "chinese": "languages",
        "cover": "passages",
        "filings": "pdfs",
        "many/de": "languages",
    }
    with pytest.raises(SystemExit, match="no set named other in .*: there are chinese, cover, filings, many-de"):
        script.main([str(tmp_path), "--no-samples", "--noise", "other", "--out", str(tmp_path / "out")])


def test_commands_are_run_once_and_the_page_is_made_of_their_json(
    script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "sets" / "cover")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "sets"), "--no-samples", "--limit", "2", "--out", str(out)]
    arguments += ["--data-dir", str(tmp_path / "data"), "--questions", str(tmp_path / "whole")]
    assert script.main(arguments) == 0, capfd.readouterr().err
    [path] = (out / "evaluation").iterdir()
    kept = path.read_bytes()
    result = json.loads(kept)
    command = "python -m rag evaluate SETS/cover --no-answers --engines embedded --limit 2 --json"
    assert result["command"] == command
    [report] = result["reports"]
    assert report["n"] == 2
    assert "questions" not in report
    assert len(json.loads((tmp_path / "whole" / "evaluate-cover.jsonl").read_text())["questions"]) == 2
    page = (out / "evaluation.md").read_text(encoding="utf-8")
    assert command in page
    ndcg = " → ".join(f"{report[side]['nDCG@10']['mean']:.3f}" for side in ("before", "after"))
    assert f"| cover | 2 | 1.000 | {ndcg} |" in page
    assert str(tmp_path) not in page, "no path of this machine"

    capfd.readouterr()
    assert script.main(arguments) == 0
    assert "evaluate-cover: there already" in capfd.readouterr().err
    assert path.read_bytes() == kept, "not run again"

    # The page follows from the JSON files: another figure there is another figure here, without a command.
    report["after"]["nDCG@10"]["mean"] = 0.123
    path.write_text(json.dumps(result), encoding="utf-8")
    assert script.main(["--out", str(out)]) == 0
    assert "→ 0.123 |" in (out / "evaluation.md").read_text(encoding="utf-8")


def test_a_failed_command_is_told_and_leaves_nothing(
    script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_set(tmp_path / "sets" / "cover")
    (folder / "qrels.tsv").write_text("q-illness\tlost\t1\n", encoding="utf-8")
    out = tmp_path / "out"
    assert script.main([str(tmp_path / "sets"), "--no-samples", "--out", str(out)]) == 1
    assert "evaluate-cover: failed with exit status 2" in capfd.readouterr().err
    assert list((out / "evaluation").iterdir()) == []
    assert (out / "evaluation.md").is_file()


def test_sets_of_pdfs_have_their_tables_on_the_page(script: ModuleType) -> None:
    report = {key: value for key, value in pdf_report(ROWS).items() if key != "questions"}
    result = {"command": "python -m rag evaluate SETS/filings --answers --json", "section": "pdfs", "reports": [report]}
    page = script.page([result | {"made_at": "2026-01-02T03:04:05", "cpu_cores": 2, "seconds": 120}])
    assert "### filings" in page
    assert "--answers --json    # 2026-01-02, 2 CPU cores, 2 minutes" in page
    assert "| answerable: right | 1 of 5 | 0.200" in page
    assert "**filings: what the answers are worth**" in page


def test_english_sets_are_pooled_with_their_grades(script: ModuleType, tmp_path: Path) -> None:
    sets, out = tmp_path / "sets", tmp_path / "out"
    write_set(sets / "cover")
    write_set(sets / "graded")
    write_set(sets / "chinese", "重大疾病的等待期是多久？")
    arguments = [str(sets), "--no-samples", "--pool", "--limit", "1", "--min-relevance", "graded=1"]
    assert script.main([*arguments, "--out", str(out), "--data-dir", str(tmp_path / "data")]) == 0
    result = json.loads((out / "evaluation" / "evaluate-pooled.json").read_text())
    assert result["command"] == (
        "python -m rag evaluate SETS/cover SETS/graded --pool --no-answers --min-relevance graded=1 "
        "--engines embedded --limit 1 --json"
    )
    [report] = result["reports"]
    assert set(report["by_set"]) == {"cover", "graded"}
    page = (out / "evaluation.md").read_text(encoding="utf-8")
    assert "## The same sets in one index" in page
    assert "all passages in one index" in page
