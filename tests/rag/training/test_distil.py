"""A student comes nearer to its teacher, on questions that neither side of the training has seen."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification

from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker
from rag.errors import BadInput, EngineFault, RerankerUnavailable
from rag.json_lines import read_rows
from rag.settings import load_settings
from rag.training.distil import distil, labels_of_order, left_over, teach, without, write_as_they_come
from rag.training.groups import TrainingGroup, read_groups, write_groups
from rag.training.plan import TrainingPlan
from rag.training.resumable import lines_path
from rag.training.train import train
from rag.types import EngineInfo, Passage, Relevance
from rag.wiring import open_teacher

QUESTIONS = Path(__file__).parents[3] / "data" / "questions.jsonl"


@pytest.fixture(scope="module")
def groups() -> list[TrainingGroup]:
    """Real questions with their real evidence, and that of the five questions after them."""
    rows = [row for _, row in read_rows(QUESTIONS) if row["evidence"] and len(row["evidence"][0]["text"]) < 160][:60]
    texts = [row["evidence"][0]["text"] for row in rows]
    return [
        TrainingGroup(row["text"], (), tuple(dict.fromkeys(texts[(number + step) % len(texts)] for step in range(6))))
        for number, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first four layers of the embedded reranker with its head, which was made for the sixth."""
    folder = tmp_path_factory.mktemp("student") / "shallow"
    model = AutoModelForSequenceClassification.from_pretrained(EMBEDDED_RERANKER_FOLDER, dtype=torch.float32)
    model.bert.encoder.layer = model.bert.encoder.layer[:4]
    model.config.num_hidden_layers = 4
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED_RERANKER_FOLDER / name, folder / name)
    return folder


def likeness(student: CrossEncoderReranker, labelled: Sequence[TrainingGroup]) -> float:
    """Mean rank correlation with the teacher's labels."""
    found = []
    for group in labelled:
        orders = [one.order for one in student.score(group.query, [Passage(text, text) for text in group.passages])]
        found.append(spearmanr(orders, group.labels).statistic)
    return float(sum(found) / len(found))


def test_a_student_orders_more_like_its_teacher_on_unseen_questions(
    tmp_path: Path, groups: list[TrainingGroup], shallow: Path, embedded_reranker: CrossEncoderReranker
) -> None:
    labelled = list(distil(groups, embedded_reranker))
    learn, unseen = labelled[:44], labelled[50:]  # those between share passages with both sides
    plan = TrainingPlan(
        epochs=3, groups_per_step=4, learning_rate=1e-3, max_tokens=64, held_out=4, freeze_layers=3, bf16=False
    )
    train(learn, shallow, tmp_path / "out", plan)
    before = likeness(CrossEncoderReranker.load(shallow, device="cpu"), unseen)
    after = likeness(CrossEncoderReranker.load(tmp_path / "out" / "model", device="cpu"), unseen)
    assert after > before + 0.3


def test_labels_are_the_teachers_scores_best_first(
    groups: list[TrainingGroup], embedded_reranker: CrossEncoderReranker
) -> None:
    [group] = distil(groups[:1], embedded_reranker)
    assert sorted(group.passages) == sorted(groups[0].passages)
    assert all(first >= second for first, second in pairwise(group.labels))
    scores = embedded_reranker.score(group.query, [Passage(text, text) for text in group.passages])
    assert list(group.labels) == pytest.approx([one.score for one in scores], abs=1e-3)
    assert all(label >= 0.5 for label in group.positive_scores)
    assert all(label < 0.5 for label in group.negative_scores)
    assert not group.order_only


class Orderer:
    """Gives the reversed order and no scores, as RankGPT gives an order; breaks off where it is told to."""

    info = EngineInfo("reranker", "orderer")

    def __init__(self, breaks_at: str = "") -> None:
        self.breaks_at = breaks_at
        self.asked: list[str] = []

    def score(self, query, passages, *, progress=None):
        if query == self.breaks_at:
            raise RerankerUnavailable("the teacher is down")
        self.asked.append(query)
        return [Relevance(order=float(number), score=None) for number in range(len(passages))]


def test_an_order_without_scores_teaches_order_only() -> None:
    [group] = distil([TrainingGroup("q", ("a",), ("b", "c"))], Orderer())
    assert group.passages == ("c", "b", "a")
    assert group.labels == (1.0, 0.9, 0.8)
    assert group.order_only


def test_what_a_cascade_scored_comes_before_what_it_only_ordered() -> None:
    relevances = [Relevance(5.0, None), Relevance(-3.0, 0.1), Relevance(2.0, 0.9)]
    assert labels_of_order(relevances) == [0.8, 0.9, 1.0]


def test_behind_the_first_ten_all_is_alike() -> None:
    assert labels_of_order([Relevance(-float(number), None) for number in range(13)])[9:] == [0.1, 0.0, 0.0, 0.0]


def test_a_missing_label_is_an_error() -> None:
    class Short(Orderer):
        def score(self, query, passages, *, progress=None):
            return super().score(query, passages)[1:]

    with pytest.raises(EngineFault, match="1 labels for 2 passages"):
        list(distil([TrainingGroup("q", ("a",), ("b",))], Short()))


@pytest.mark.parametrize("name", ["labelled.jsonl", "labelled.jsonl.gz"])
def test_an_interrupted_labelling_goes_on_where_it_broke_off(tmp_path: Path, name: str) -> None:
    asked = [TrainingGroup(f"question {number}", ("a",), ("b",)) for number in range(4)]
    path = tmp_path / name
    with pytest.raises(RerankerUnavailable):
        write_as_they_come(distil(asked, Orderer("question 2")), path)
    assert not path.exists()
    with lines_path(path).open("ab") as file:
        file.write('{"query": "question 2", "pos": ["für'.encode()[:-1])  # as a kill leaves it
    done = left_over(path)
    assert [group.query for group in done] == ["question 0", "question 1"]
    teacher = Orderer()
    assert write_as_they_come(distil(without(asked, done), teacher), path) == 4
    assert teacher.asked == ["question 2", "question 3"]
    assert [group.query for group in read_groups(path)] == [group.query for group in asked]
    assert left_over(path) == []


def test_labelled_groups_are_rows_that_flagembedding_reads(tmp_path: Path) -> None:
    write_as_they_come(distil([TrainingGroup("q", ("a",), ("b",))], Orderer()), tmp_path / "labelled.jsonl")
    row = json.loads((tmp_path / "labelled.jsonl").read_text())
    assert {"query", "pos", "neg", "pos_scores"} <= row.keys()


def test_a_question_keeps_each_passage_once() -> None:
    [group] = distil([replace(TrainingGroup("q", ("a",), ("b",)), negatives=("a", "b"))], Orderer())
    assert sorted(group.passages) == ["a", "b"]


def test_a_group_keeps_its_labels_beside_its_teachers_order(tmp_path: Path) -> None:
    group = TrainingGroup(
        "How long is the waiting period for critical illness?",
        ("The waiting period for critical illness is 90 days.",),
        ("Bicycles are insured against theft.", "Critical illness cover pays once."),
        (1.0,),
        (0.0, 0.2),
    )
    settings = load_settings(data_dir=tmp_path)
    [taught] = teach([group], open_teacher("colbert", settings))
    assert replace(taught, teacher=()) == group
    right, unrelated, near = taught.teacher
    assert right > near > unrelated
    path = tmp_path / "taught.jsonl.gz"
    write_groups([taught], path)
    assert read_groups(path) == [taught]


def test_a_teachers_numbers_are_one_a_passage(tmp_path: Path) -> None:
    path = tmp_path / "groups.jsonl"
    path.write_text(json.dumps({"query": "q", "pos": ["a"], "neg": ["b"], "teacher": [0.5]}))
    with pytest.raises(BadInput, match="line 1: needs one number of the teacher for each passage"):
        read_groups(path)
