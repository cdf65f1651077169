"""Joined questions: how they are made, and what the real engines make of them whole, in parts and alone."""

import json
from pathlib import Path

import pytest

from rag.__main__ import main
from rag.evaluation.joined import Joined, JoinedRow, Kind, _share, join_questions
from rag.evaluation.sets import UNANSWERABLE, Question

PASSAGES = {
    "critical": "The waiting period for critical illness is 180 days from the date on which the contract begins.",
    "dental": "Cleaning of the teeth by a dental hygienist is paid twice in each calendar year.",
    "cash": "The daily amount of hospital cash is paid from the first night in hospital, for at most a year.",
    "shop": "Parcels are sent with the post and reach you within three working days.",
}
QUESTIONS = {
    "critical": "How long is the waiting period for critical illness?",
    "dental": "How often is the cleaning by a dental hygienist paid?",
}
UNKNOWN = ["What is the boiling point of water on Mars?", "Who won the chess tournament of the village of Ulm?"]


def question(name: str, text: str, *gold: str) -> Question:
    return Question(name, text, dict.fromkeys(gold, 1), group="" if gold else UNANSWERABLE)


@pytest.fixture
def labelled_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    rows = {
        "corpus.jsonl": [{"_id": name, "title": "", "text": text} for name, text in PASSAGES.items()],
        "queries.jsonl": [{"_id": name, "text": text} for name, text in QUESTIONS.items()],
        "unanswerable.jsonl": [{"_id": f"u{number}", "text": text} for number, text in enumerate(UNKNOWN)],
    }
    for file, lines in rows.items():
        (folder / file).write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    (folder / "qrels.tsv").write_text("".join(f"{name}\t{name}\t1\n" for name in QUESTIONS))
    return folder


def test_two_questions_of_different_passages_become_one_text() -> None:
    [joined] = join_questions(
        [question("a", "How long is A?", "1"), question("b", "Who pays for B?", "2"), question("c", "B price", "3")],
        limit=None,
        seed=37,
    )
    texts = [one.text for one in joined.questions]
    assert sorted(texts) == ["How long is A?", "Who pays for B?"], "a list of words is no question"
    assert joined.kind == "both answerable"
    first, second = texts
    assert joined.text in (f"{first} {second}", f"{first[:-1]}, and {second[0].lower()}{second[1:]}")


def test_what_one_passage_answers_is_not_joined_nor_what_is_two_questions_already() -> None:
    same = [question("a", "How long is A?", "1"), question("b", "Who pays for A?", "1", "2")]
    assert join_questions(same, limit=None, seed=37) == []
    double = [question("a", "How long is the A? What is the B?", "1"), question("b", "Who pays for C?", "2")]
    assert join_questions(double, limit=None, seed=37) == []


def test_a_smaller_limit_takes_the_first_of_a_larger_one_and_the_seed_decides() -> None:
    questions = [question(str(n), f"What is thing {n}?", str(n)) for n in range(20)]
    questions += [question(f"u{n}", f"What is riddle {n}?") for n in range(5)]
    few, many = (join_questions(questions, limit=limit, seed=1) for limit in (2, 4))
    assert [len(few), len(many)] == [2 + 2, 4 + 4]
    assert [few[:2], few[2:]] == [many[:2], many[4:6]]
    assert all(one.questions[0].answerable != one.questions[1].answerable for one in many[4:])
    assert join_questions(questions, limit=4, seed=1) == many != join_questions(questions, limit=4, seed=2)


def test_every_part_weighs_the_same_in_a_share() -> None:
    a, b, unknown = question("a", "A?", "1"), question("b", "B?", "2"), question("u", "U?")

    def row(kind: Kind, first: Question, second: Question, right: tuple[bool, bool]) -> JoinedRow:
        return JoinedRow(Joined("", kind, (first, second)), "split", 2, right)

    rows = [
        row("both answerable", a, b, (True, False)),
        row("one answerable", unknown, a, (False, True)),
        row("one answerable", b, unknown, (True, True)),
    ]
    assert _share(rows, "split", answerable=True)["mean"] == (1 + 1 + 1) / (2 + 1 + 1)
    assert _share(rows, "split", answerable=False)["mean"] == (0 + 1) / (1 + 1)
    assert _share(rows, "whole", answerable=False)["mean"] is None


def test_splitting_covers_both_parts_and_refuses_the_unknown_one(
    labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["joined", str(labelled_folder), "--data-dir", str(tmp_path / "data")]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    both, one = report["kinds"]["both answerable"], report["kinds"]["one answerable"]
    assert (both["n"], both["n_split"]) == (1, 1)
    assert (one["n"], one["n_split"]) == (2, 2)
    for figures in (both, one):
        assert figures["rightly_covered"]["split"] == figures["rightly_covered"]["alone"]
        assert figures["rightly_covered"]["split"]["mean"] == 1
    assert one["rightly_refused"]["split"] == one["rightly_refused"]["alone"]
    assert one["rightly_refused"]["split"]["mean"] == 1
    assert both["rightly_refused"]["split"]["mean"] is None
    assert report["split_by"] == "rule"
    assert main([*command, "--limit", "1"]) == 0
    assert "Two questions of tiny joined into one, floor 0.4, split by rule" in capsys.readouterr().out


def test_a_set_without_questions_to_join_is_refused(labelled_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (labelled_folder / "queries.jsonl").write_text('{"_id": "critical", "text": "waiting period"}\n')
    (labelled_folder / "unanswerable.jsonl").unlink()
    assert main(["joined", str(labelled_folder)]) == 2
    assert "no two questions that can be joined" in capsys.readouterr().err
