"""Only a reranker that is better serves; what serves is visible, has its own floor, and can be rolled back."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker
from rag.errors import BadInput, CollectionError, ModelUnavailable
from rag.settings import load_settings
from rag.training.command import print_verdict
from rag.training.groups import TrainingGroup, question_digest
from rag.training.measure import OrderFigures, choose_floor, floor_figures, ndcg_at, order_figures
from rag.training.promote import judge
from rag.training.registry import PromotedReranker, RerankerRegistry
from rag.types import EngineInfo, Passage, Relevance
from rag.wiring import list_rerankers, open_named_reranker, open_rerankers, policy_for, promoted_rerankers
from tests.contracts.tiny_models import save_cross_encoder


class Knowing:
    """Scores the passages that it knows to be right `right`, others `wrong`."""

    def __init__(self, name: str, knows: Sequence[str], *, right: float = 0.9, wrong: float = 0.2) -> None:
        self.info = EngineInfo("reranker", name, "r1")
        self._knows, self._right, self._wrong = knows, right, wrong

    def score(self, query, passages, *, progress=None):
        scores = [self._right if passage.text in self._knows else self._wrong for passage in passages]
        return [Relevance(order=score, score=score) for score in scores]


def held_out(n_answerable: int = 10, n_unanswerable: int = 5) -> list[TrainingGroup]:
    """The right passage of every question is the last of eight that recall found."""
    answerable = [
        TrainingGroup(
            f"question {number}",
            (f"right {number}",),
            tuple(f"wrong {number} {rank}" for rank in range(1, 8)),
            positive_ranks=(8,),
            negative_ranks=tuple(range(1, 8)),
        )
        for number in range(n_answerable)
    ]
    unknown = [
        TrainingGroup(f"unknown {number}", (), ("other a", "other b"), negative_ranks=(1, 2))
        for number in range(n_unanswerable)
    ]
    return answerable + unknown


def decide(current, new, groups=None, **more):
    options = {"current_floor": 0.4, "usual_floor": 0.4, "learnt": set()} | more
    return judge(held_out() if groups is None else groups, current, new, **options)


ALL_RIGHT = [f"right {number}" for number in range(100)]


def test_a_clearly_better_reranker_is_promoted() -> None:
    verdict = decide(Knowing("old", []), Knowing("new", ALL_RIGHT))
    assert verdict.promoted
    assert (verdict.answerable, verdict.unanswerable) == (10, 5)
    ndcg, precision, recall = verdict.comparisons
    assert [one.measure for one in verdict.comparisons] == ["nDCG@5", "P@5", "R@5"]
    # The old one leaves recall's order, where the right passage stands at 8 of 8.
    assert (ndcg.recalled, ndcg.current, ndcg.new) == (0.0, 0.0, 1.0)
    assert (precision.new, recall.new) == (pytest.approx(1 / 5), 1.0)
    assert (ndcg.better, ndcg.worse) == (10, 0)
    # All ten differences have one sign: of 2^10 sign changes only two are as far from 0, one of them above it. The
    # test draws 10,000 sign changes at random.
    assert ndcg.chance == pytest.approx(1 / 2**10, abs=1e-3)


@pytest.mark.parametrize("knows", [ALL_RIGHT[:2], []])
def test_a_gain_that_may_be_luck_is_not_enough(knows: list[str]) -> None:
    verdict = decide(Knowing("old", []), Knowing("new", knows))
    assert not verdict.promoted
    assert "may be luck" in verdict.why if knows else "no better" in verdict.why


def test_a_worse_reranker_is_not_promoted() -> None:
    verdict = decide(Knowing("old", ALL_RIGHT), Knowing("new", []))
    assert not verdict.promoted
    assert "lower" in verdict.why


def test_the_floor_is_chosen_for_the_new_reranker() -> None:
    # Its right passages have 0.3, which the usual floor would refuse; out-of-corpus questions get 0.2.
    verdict = decide(Knowing("old", []), Knowing("new", ALL_RIGHT, right=0.3, wrong=0.2))
    assert 0.2 < verdict.new_floor.floor <= 0.3
    assert (verdict.new_floor.answerable_refused, verdict.new_floor.unanswerable_refused) == (0, 5)
    assert verdict.current_floor.answerable_refused == 10


def test_all_figures_are_shown_on_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    groups = held_out(100, 50)
    verdict = decide(Knowing("old", ALL_RIGHT[50:]), Knowing("new", ALL_RIGHT[:70], right=0.35), groups)
    print_verdict(verdict, "contracts-1", Console(width=80))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "100 answerable and 50 unanswerable held-out questions" in lines[0]
    # Of 100 questions the old one knows the last 50, the new one the first 70: 50 got better, 30 worse.
    [ndcg] = [line for line in lines if line.startswith("nDCG@5")]
    interval = verdict.comparisons[0].difference
    for figure in ("0.000", "0.500", "0.700", "+0.200", f"{interval.low:+.3f} to {interval.high:+.3f}", "50, 30"):
        assert figure in ndcg
    [refused] = [line for line in lines if line.startswith("answerable, refused")]
    assert "50 of 100" in refused
    assert f"{verdict.new_floor.answerable_refused} of 100" in refused


def test_questions_that_it_has_learnt_from_can_not_promote_it() -> None:
    with pytest.raises(BadInput, match="has learnt from 1 of these 15"):
        decide(Knowing("old", []), Knowing("new", ALL_RIGHT), learnt={question_digest("Question 3?")})


def test_too_few_questions_show_nothing() -> None:
    with pytest.raises(BadInput, match="at least 5"):
        decide(Knowing("old", []), Knowing("new", ALL_RIGHT), groups=held_out(4, 50))


def test_a_right_passage_that_recall_missed_counts_against_both() -> None:
    groups = [
        TrainingGroup(f"q{number}", (text, "missed"), ("wrong",), positive_ranks=(2, None), negative_ranks=(1,))
        for number, text in enumerate(ALL_RIGHT[:6])
    ]
    recall = decide(Knowing("old", []), Knowing("new", ALL_RIGHT), groups=groups).comparisons[2]
    assert (recall.current, recall.new) == (0.5, 0.5)


def test_measures_are_what_their_formulas_say() -> None:
    from math import log2

    figures = order_figures([False, True, False, False, False, True], n_relevant=2)
    ideal = 1 / log2(2) + 1 / log2(3)
    assert figures == OrderFigures((1 / log2(3)) / ideal, 1 / 5, 1 / 2)
    assert ndcg_at([0.5, 1.0], [1.0, 0.5], 10) == pytest.approx((0.5 + 1 / log2(3)) / (1 + 0.5 / log2(3)))
    assert ndcg_at([0.0], [0.0], 10) == 0.0


def test_a_floor_weighs_both_kinds_of_mistakes_by_their_share() -> None:
    answerable = [0.1] + [0.6] * 19
    # 0.56 to 0.60 refuse both unanswerable questions and one of twenty others; 0.56 is nearest to the usual floor.
    assert choose_floor(answerable, [0.5, 0.55], usual=0.4).floor == 0.56
    # Up to 0.10 all pass: shares of mistakes 0 + 1; up to 0.50 the first is refused: 1/2 + 1; then 1/2 + 0.
    assert choose_floor([0.1, 0.9], [0.5] * 3, usual=0.4).floor == 0.51
    assert choose_floor([0.9], [], usual=0.4).floor == choose_floor([], [0.9], usual=0.4).floor == 0.4
    assert floor_figures(0.6, answerable, [0.6]).answerable_refused == 1  # the floor itself passes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_cross_encoder(tmp_path / "out" / "model", "bert")


def record(model: Path, name: str = "insurance-1", floor: float = 0.31) -> PromotedReranker:
    revision = CrossEncoderReranker.load(model, device="cpu").info.revision
    return PromotedReranker(name, revision, floor, "2026-01-02T03:04:05+00:00", {"why": "it is better"})


def test_a_promoted_reranker_serves_with_its_floor_until_it_is_rolled_back(tmp_path: Path, model: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "data", rerank_cache_mb=0.0)
    registry = promoted_rerankers(settings)
    before = open_rerankers(settings)[0]
    assert policy_for(settings, before).floor == 0.4
    registry.add(record(model), model)

    reranker = open_rerankers(settings)[0]
    assert reranker.info.name == "insurance-1"
    assert reranker.info.why == "promoted on 2026-01-02: it is better"
    assert policy_for(settings, reranker).floor == 0.31
    # The floor is this reranker's alone, and gives way to a person's own.
    assert policy_for(settings, before).floor == 0.4
    assert policy_for(load_settings(data_dir=tmp_path / "data", floor=0.5), reranker).floor == 0.5
    # A reranker that the settings name serves regardless.
    assert open_named_reranker("embedded", settings).info.name == before.info.name
    assert open_named_reranker("promoted", settings).info.name == "insurance-1"

    listed = {row.setting: row for row in list_rerankers(settings)}["promoted"]
    assert (listed.state, listed.what) == ("ready", "insurance-1, trained and promoted here")

    undone, now = registry.roll_back()
    assert (undone.name, now) == ("insurance-1", None)
    listed = {row.setting: row for row in list_rerankers(settings)}["promoted"]
    assert (listed.state, listed.remedy) == ("needs training", "python -m rag train")
    assert open_rerankers(settings)[0].info == before.info
    with pytest.raises(BadInput, match="none was promoted"):
        open_named_reranker("promoted", settings)
    with pytest.raises(BadInput, match="nothing to roll back"):
        registry.roll_back()


def test_rolling_back_returns_to_the_promoted_one_before(tmp_path: Path, model: Path) -> None:
    registry = RerankerRegistry(tmp_path / "rerankers")
    other = save_cross_encoder(tmp_path / "other", "bert", seed=1)
    registry.add(record(model, "first"), model)
    registry.add(record(other, "second", 0.5), other)
    assert [one.name for one in registry.serving()] == ["first", "second"]
    undone, now = registry.roll_back()
    assert (undone.name, now.name if now else "") == ("second", "first")
    registry.add(record(other, "second", 0.45), other)  # and forward again
    assert registry.floor_for("second", record(other).revision) == 0.45
    assert json.loads((tmp_path / "rerankers" / "promoted.json").read_text())["rolled_back"] == []


def test_a_model_that_changed_after_it_was_measured_does_not_serve(tmp_path: Path, model: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "data")
    registry = promoted_rerankers(settings)
    registry.add(record(model), model)
    shutil.copy(
        save_cross_encoder(tmp_path / "x", "bert", seed=5) / "model.safetensors", registry.folder / "insurance-1"
    )
    with pytest.raises(ModelUnavailable, match="not the one that was measured.*rollback"):
        open_rerankers(settings)


def test_a_name_is_one_models_name(tmp_path: Path, model: Path) -> None:
    registry = RerankerRegistry(tmp_path / "rerankers")
    registry.add(record(model), model)
    other = save_cross_encoder(tmp_path / "other", "bert", seed=1)
    with pytest.raises(BadInput, match="take another --name"):
        registry.add(record(other), other)
    assert CrossEncoderReranker.load(registry.folder / "insurance-1").info.revision == record(model).revision


@pytest.mark.parametrize("name", ["embedded", "promoted", "../out", "", "a b"])
def test_names_that_mean_something_else_are_refused(tmp_path: Path, model: Path, name: str) -> None:
    with pytest.raises(BadInput, match="can't be called"):
        RerankerRegistry(tmp_path / "rerankers").add(record(model, name), model)
    assert not (tmp_path / "rerankers").exists()


def test_a_copy_that_breaks_off_leaves_what_served(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = RerankerRegistry(tmp_path / "rerankers")
    registry.add(record(model, "first"), model)

    def full(source: Path, destination: Path) -> None:
        destination.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(CollectionError, match="No space left"):
        registry.add(record(model, "second"), model)
    assert [one.name for one in registry.serving()] == ["first"]
    assert sorted(path.name for path in registry.folder.iterdir() if not path.name.startswith(".")) == [
        "first",
        "promoted.json",
    ]


def test_a_damaged_registry_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "rerankers"
    folder.mkdir(parents=True)
    (folder / "promoted.json").write_text('{"serving": [')
    with pytest.raises(CollectionError, match="promoted.json"):
        open_rerankers(load_settings(data_dir=tmp_path / "data"))


def test_real_rerankers_are_compared_on_real_passages(tmp_path: Path, embedded_reranker: CrossEncoderReranker) -> None:
    ignorant = CrossEncoderReranker.load(save_cross_encoder(tmp_path / "ignorant", "bert"), device="cpu")
    facts = {
        "How long is the waiting period for critical illness?": "The waiting period for critical illness is 180 days.",
        "How many days do I have to return an item?": "You can return an item for a refund within seven days.",
        "How much ibuprofen may adults take?": "Adults take 200 to 400 mg of ibuprofen every six hours.",
        "When are premiums due?": "Premiums are due on the first day of each month.",
        "Is shipping free?": "Shipping is free for orders above fifty euros.",
        "What does error E5 mean?": "E5 means that water is not pumped off: clean the filter.",
        "Who insures braces?": "The dental plan insures orthodontic braces after eighteen months.",
    }
    groups = []
    for question, fact in facts.items():
        others = tuple(other for other in facts.values() if other != fact)
        groups.append(TrainingGroup(question, (fact,), others, positive_ranks=(7,), negative_ranks=tuple(range(1, 7))))
    verdict = decide(ignorant, embedded_reranker, groups=groups)
    assert verdict.comparisons[0].new > 0.9
    assert verdict.promoted
    assert not decide(embedded_reranker, ignorant, groups=groups).promoted
    assert EMBEDDED_RERANKER_FOLDER.name == verdict.new.name
    assert embedded_reranker.score("q", [Passage("p", "x")])
