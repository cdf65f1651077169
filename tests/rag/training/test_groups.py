"""Training data on disk: what is read is what was written, and no question is on both sides of a split."""

import json
from pathlib import Path

import pytest

from rag.errors import BadInput
from rag.training.groups import (
    TrainingGroup,
    question_digest,
    read_groups,
    split_by_question,
    split_rows,
    unfinished_path,
    write_groups,
)
from tests.rag.training.training_data import tiny_groups, write_lines


def test_groups_are_read_as_they_were_written(tmp_path: Path) -> None:
    groups = [
        TrainingGroup("plain?", ("yes",), ("no", "never")),
        TrainingGroup("graded?", ("yes",), ("no",), (0.9,), (0.2,)),
        TrainingGroup("refused?", (), ("no", "Wartezeit – 30 €"), negative_ranks=(1, 2)),
        TrainingGroup("ranked?", ("yes", "missed"), ("no",), positive_ranks=(7, None), negative_ranks=(1,)),
        TrainingGroup("ordered?", ("a",), ("b",), (1.0,), (0.4,), order_only=True),
    ]
    for name in ("groups.jsonl", "groups.jsonl.gz"):
        assert write_groups(groups, tmp_path / name) == 5
        assert read_groups(tmp_path / name) == groups


def test_a_row_has_the_fields_that_flagembedding_reads(tmp_path: Path) -> None:
    write_groups([TrainingGroup("q", ("p",), ("n",), (1.0,), (0.1,))], tmp_path / "groups.jsonl")
    row = json.loads((tmp_path / "groups.jsonl").read_text())
    assert row == {"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1.0], "neg_scores": [0.1]}


def test_a_broken_off_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "groups.jsonl"
    write_groups(tiny_groups(1), path)

    def breaks():
        yield TrainingGroup("q", ("p",), ("n",))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_groups(breaks(), path)
    assert read_groups(path) == tiny_groups(1)
    assert unfinished_path(path).exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"query": "q", "pos": ["p"]}', "'neg' is missing"),
        ('{"query": "q", "pos": [], "neg": []}', "at least one"),
        ('{"query": "q", "pos": ["p"], "neg": ["n"], "neg_scores": [2], "pos_scores": [1]}', "score in [0, 1]"),
        ('{"query": "q", "pos": ["p"], "neg": [1]}', "lists of texts"),
        ('{"query": "q", "pos": ["p"], "neg": ["n"], "pos_ranks": [1]}', "one rank"),
        ("[1]", "JSON object"),
    ],
)
def test_a_row_that_is_no_group_is_named(tmp_path: Path, row: str, said: str) -> None:
    path = write_lines(tmp_path / "groups.jsonl", ['{"query": "q", "pos": ["p"], "neg": ["n"]}', row])
    with pytest.raises(BadInput, match="line 2") as error:
        read_groups(path)
    assert said in str(error.value)


def test_no_question_is_on_both_sides_however_often_it_occurs() -> None:
    groups = [TrainingGroup(f"question {number % 10}?", (f"p{number}",), ("n",)) for number in range(50)]
    groups += [TrainingGroup(f"Question {number}", (), ("n",)) for number in range(100, 110)]
    learnt, held_out = split_by_question(groups, 4, seed=1)
    digests = [{question_digest(group.query) for group in side} for side in (learnt, held_out)]
    assert not digests[0] & digests[1]
    assert sorted(map(repr, learnt + held_out)) == sorted(map(repr, groups))
    # 4 of 20 questions: a fifth of the 10 answerable and of the 10 unanswerable ones.
    assert [sum(bool(group.positives) for group in held_out), len(digests[1])] == [2 * 5, 4]
    assert split_by_question(groups, 4, seed=1) == (learnt, held_out)
    assert split_by_question(groups, 4, seed=2) != (learnt, held_out)


def test_the_smallest_split_has_a_question_on_each_side() -> None:
    learnt, held_out = split_by_question([TrainingGroup(f"{n}?", ("p",), ("n",)) for n in range(2)], 1, seed=0)
    assert len(learnt) == len(held_out) == 1


def test_rows_are_split_by_question_whatever_their_spelling() -> None:
    rows = [{"text": "What is covered?", "answerable": True}, {"question": "what is  covered", "label": "right"}]
    rows += [{"query": f"q{number}", "positive": "p"} for number in range(8)]
    rows += [{"text": f"u{number}", "answerable": False} for number in range(10)]
    learn, held_out = split_rows(rows, 0.3, seed=3)
    assert sum(row.get("answerable") is False for row in held_out) == 3  # 0.3 of 10
    covered = [any("overed" in str(row.values()) for row in side) for side in (learn, held_out)]
    assert covered.count(True) == 1
    assert len(learn) + len(held_out) == len(rows)
