"""`rerank`: passages ordered for a question, by ours and by peers on the same float32 weights.

Times are of passages of 65 to 305 tokens; results are compared on those, and on what is recalled for real questions.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bench.large_model import LAYERS, save_large
from bench.machine import OWN_LIBRARIES, versions
from bench.material import SAMPLES, RerankCase, long_passages, questions_of, recalled_cases, texts_of
from bench.peers.opening import open_all
from bench.peers.rerankers import (
    RERANKER_PACKAGES,
    Ranked,
    export_to_onnx,
    reranker_openers,
    save_in_float32,
)
from bench.rounds import Turns, cpu_ratios_of, ratios_of, take_turns, times_of
from bench.scores import agreement
from bench.words import figure, listed_versions, seconds_of, share_of, table_of_reasons
from rag.evaluation.tables import Table
from rag.ports import Progress, Reranker
from rag.settings import Settings
from rag.types import Passage, Relevance

if TYPE_CHECKING:
    from rag.engines.late_fusion import LateFusionReranker

OURS = "rank37"
"""As it serves: late interaction says which passages the cross-encoder must read; passages known to it."""
NEW = "rank37, passages new to it"
WHOLE = "rank37, cross-encoder alone, on all passages"
"""The same computation as the peers'."""
REFERENCE = "sentence-transformers"
LARGE_PEERS = ("sentence-transformers", "FlagEmbedding")
CASCADE_SHARE = 5
"""The large model reads every fifth passage of a cascade: 20 of 100."""

Order = Callable[[RerankCase], Ranked]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench rerank`."""
    parser.add_argument("--set", type=Path, default=SAMPLES, help="folder of PDFs or of BEIR's layout (data)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (5), each with another question")
    parser.add_argument("--passages", type=int, default=100, help="passages a question (100)")
    parser.add_argument("--questions", type=int, default=0, help="real questions to compare results on (0)")
    parser.add_argument("--peers", nargs="*", help="only these peers")
    parser.add_argument("--large", action="store_true", help="at bge-reranker-v2-m3's size, with random weights")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"layers of the large model ({LAYERS})")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "rerank-large" if options.large else "rerank"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """Times, ratios and agreement."""
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

    embedder = SentenceTransformerEmbedder.embedded()
    texts = texts_of(options.set, embedder)
    passages = tuple(long_passages(texts, embedder.count_passage_tokens, count=options.passages))
    questions = questions_of(options.set, max(options.rounds + 1, options.questions))
    cases = [RerankCase(question, passages) for question in questions]
    floor = Settings().floor
    with tempfile.TemporaryDirectory(prefix="rank37-bench-") as folder:
        own, weights = _own(Path(folder), texts, options)
        wanted = options.peers if options.peers is not None else list(LARGE_PEERS) if options.large else None
        openers = reranker_openers(weights, lambda: export_to_onnx(weights, Path(folder) / "onnx"))
        peers, not_run = open_all({name: opener for name, opener in openers.items() if _is_wanted(name, wanted)})
        contestants: dict[str, Order] = {name: _ours(reranker) for name, reranker in own.items()}
        contestants |= {name: _theirs(rerank) for name, rerank in peers.items()}
        contestants, failed = _able(contestants, RerankCase(questions[0], passages[:3]))
        if NEW in own:  # what it serves with remembers passages that were near before
            for case in cases:
                own[OURS].score(case.question, passages)
        turns = take_turns(
            contestants,
            cases[: options.rounds],
            options.rounds,
            warm_up=RerankCase(questions[-1], passages[:8]),
            show=show,
        )
        compared = {}
        if options.questions and not options.large:
            show(f"comparing results on {options.questions} questions")
            recalled = recalled_cases(texts, questions[: options.questions], embedder, count=options.passages)
            compared = _compared(own[OURS], recalled, floor)
    return {
        "set": options.set.name,
        "passages": len(passages),
        "tokens": _lengths(embedder.count_passage_tokens([passage.text for passage in passages])),
        "large": options.large,
        "layers": options.layers if options.large else None,
        "ours": {name: asdict(reranker.info) for name, reranker in own.items()},
        "times": times_of(turns),
        "ratio": ratios_of(turns, OURS),
        "cpu_ratio": cpu_ratios_of(turns, OURS),
        "cascade_ratio": _cascade_ratio(turns),
        "reference": REFERENCE,
        "floor": floor,
        "agreement": {
            name: agreement(turns[REFERENCE].outcomes, turn.outcomes, floor=floor).as_json()
            for name, turn in turns.items()
            if REFERENCE in turns and name != REFERENCE
        },
        "recalled": compared,
        "not_run": not_run | failed,
        "versions": versions([*OWN_LIBRARIES, *RERANKER_PACKAGES]),
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    what = f"bge-reranker-v2-m3's size ({result['layers']} layers, random weights)" if result["large"] else "MiniLM-L6"
    tokens = result["tokens"]
    rows = []
    for name, times in result["times"].items():
        agreed = result["agreement"].get(name, {})
        rows.append(
            (
                name,
                seconds_of(times["median_s"]),
                f"{seconds_of(times['least_s'])} to {seconds_of(times['most_s'])}",
                figure(result["ratio"].get(name), "x"),
                seconds_of(times["cpu_median_s"]),
                figure(result["cpu_ratio"].get(name), "x"),
                share_of(agreed.get("top_5_overlap")),
                figure(agreed.get("largest_difference"), digits=4),
                _flips(agreed),
            )
        )
    notes = [
        f"{result['passages']} passages of {tokens['least']} to {tokens['most']} tokens (mean {tokens['mean']:.0f}) of "
        f"{result['set']}; all peers load the same weights in float32. Times as long as {OURS}: the median over "
        f"rounds. Results against {result['reference']} in float32; floor {result['floor']}.",
        "; ".join(
            f"{name}: {info['name']} in {info['precision']}" + (f", {info['why']}" if info["why"] else "")
            for name, info in result["ours"].items()
        )
        + ".",
    ]
    if NEW in result["times"]:
        notes.append(
            f"'{OURS}' serves with late interaction, which peers don't have: it orders otherwise on purpose, scores "
            "every passage by it, and reads with the cross-encoder what may be among the best. Passages are read ahead "
            f"while nobody asks; '{NEW}' is a first question after a start. '{WHOLE}' computes what the peers compute."
        )
    if result["cascade_ratio"]:
        notes.append(
            "; ".join(
                f"{name} in full takes {ratio:.1f} times as long as the cascade"
                for name, ratio in result["cascade_ratio"].items()
            )
            + "."
        )
    found = [
        Table(
            f"Reranking {result['passages']} passages, {what}",
            (
                "",
                "median",
                "from to",
                "times ours",
                "CPU",
                "CPU times ours",
                "top 5 shared",
                "largest difference",
                "floor decisions flipped",
            ),
            tuple(rows),
            tuple(notes),
        )
    ]
    if result["recalled"]:
        found.append(_recalled_table(result))
    return [*found, *table_of_reasons(result["not_run"]), listed_versions(result["versions"])]


def _own(folder: Path, texts: Sequence[str], options: argparse.Namespace) -> tuple[dict[str, Reranker], Path]:
    """Our rerankers by name, and the folder of the same weights in float32."""
    from rag.engines.cascade import CascadeReranker
    from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker
    from rag.engines.late_fusion import LateFusionReranker, embedded_reranker

    embedded = embedded_reranker()
    if options.large:
        weights = save_large(folder / "large", texts, layers=options.layers)
        large = CrossEncoderReranker.load(weights)
        cascade = CascadeReranker(embedded, large, max(options.passages // CASCADE_SHARE, 1))
        return {OURS: large, f"{OURS} cascade": cascade}, weights
    own: dict[str, Reranker] = {OURS: embedded}
    if isinstance(embedded, LateFusionReranker):
        own |= {NEW: _Forgetful(embedded), WHOLE: embedded.cross_encoder}
    return own, save_in_float32(EMBEDDED_RERANKER_FOLDER, folder / EMBEDDED_RERANKER_FOLDER.name)


class _Forgetful:
    """A reranker with late interaction that keeps no vectors of passages: each question is like the first."""

    def __init__(self, reranker: LateFusionReranker) -> None:
        self._reranker = reranker
        self.info = reranker.info

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """As in `Reranker`."""
        return self._reranker.with_empty_memory().score(query, passages, progress=progress)

    def estimate_seconds(self, n_passages: int) -> float | None:
        """As in `Reranker`."""
        return None


def _ours(reranker: Reranker) -> Order:
    def order(case: RerankCase) -> Ranked:
        found = reranker.score(case.question, case.passages)
        places = sorted(range(len(found)), key=lambda number: (found[number].score is None, -found[number].order))
        scores = [one.score for one in found]
        known = tuple(score for score in scores if score is not None)
        return Ranked(tuple(places), known if len(known) == len(scores) else None)

    return order


def _theirs(rerank: Callable[[str, Sequence[str]], Ranked]) -> Order:
    return lambda case: rerank(case.question, case.texts)


def _is_wanted(name: str, wanted: Sequence[str] | None) -> bool:
    return wanted is None or name in wanted


def _able(contestants: Mapping[str, Order], case: RerankCase) -> tuple[dict[str, Order], dict[str, str]]:
    """Those that order a small case; some libraries load a model and fail only when they use it."""

    def tried(order: Order) -> Callable[[], Order]:
        def run() -> Order:
            order(case)
            return order

        return run

    return open_all({name: tried(order) for name, order in contestants.items()})


def _compared(ours: Reranker, cases: Sequence[RerankCase], floor: float) -> dict[str, Any]:
    """Agreement with the same in float32, every passage read, on what is recalled for real questions."""
    from rag.engines.cross_encoder import CrossEncoderReranker
    from rag.engines.late_fusion import LateFusionReranker

    assert isinstance(ours, LateFusionReranker)
    in_float32 = CrossEncoderReranker.embedded(precision="float32")
    reference = _ours(ours.with_cross_encoder(in_float32).reading_all())
    served = _ours(ours)
    return agreement([reference(case) for case in cases], [served(case) for case in cases], floor=floor).as_json()


def _recalled_table(result: Mapping[str, Any]) -> Table:
    agreed = result["recalled"]
    rows = (
        ("questions with the same top 5", share_of(agreed["same_top_5_share"])),
        ("mean overlap of the top 5", share_of(agreed["top_5_overlap"])),
        ("largest difference of a score", figure(agreed["largest_difference"], digits=4)),
        ("floor decisions flipped", _flips(agreed)),
    )
    title = f"{agreed['questions']} real questions, {result['passages']} passages recalled for each"
    return Table(title, ("", "as it serves, against float32 and all read"), rows)


def _flips(agreed: Mapping[str, Any]) -> str:
    if agreed.get("flipped") is None:
        return ""
    return f"{agreed['flipped']} of {agreed['decisions']}"


def _cascade_ratio(turns: Mapping[str, Turns[Ranked]]) -> dict[str, float]:
    name = f"{OURS} cascade"
    return ratios_of(turns, name) if name in turns else {}


def _lengths(tokens: Sequence[int]) -> dict[str, float]:
    return {"least": min(tokens), "mean": fmean(tokens), "most": max(tokens)}
