"""`python -m rag train ...`: the steps of training at a terminal. It parses and prints; the steps are other files."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from rag.settings import load_settings


def add_train_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` and its steps to the commands of `python -m rag`."""
    train = commands.add_parser("train", help="train a reranker: mine negatives, fine-tune")
    steps = train.add_subparsers(required=True, metavar="STEP")

    mine = steps.add_parser("mine", help="hard negatives for labelled pairs, from recall over a pool of passages")
    mine.add_argument("--pairs", type=Path, required=True, help="JSONL[.gz] of query, positive, answers?, group?")
    mine.add_argument("--passages", type=Path, required=True, help="JSONL[.gz] of _id, title?, text: the pool")
    mine.add_argument(
        "--out", type=Path, required=True, help="JSONL[.gz] of query, pos, neg, as FlagEmbedding reads it"
    )
    mine.add_argument("--limit", type=int, help="at most so many pairs, chosen at random")
    mine.add_argument("--pool-limit", type=int, help="at most so many passages, chosen at random")
    mine.add_argument("--judge", help="a reranker that takes likely false negatives out: embedded, a name or a folder")
    mine.add_argument("--seed", type=int, default=37)
    mine.set_defaults(run=_mine)

    fine_tune = steps.add_parser("fine-tune", help="fine-tune a cross-encoder on mined groups")
    fine_tune.add_argument("groups", type=Path, nargs="+", help="JSONL[.gz] files that `mine` wrote")
    fine_tune.add_argument("--base", required=True, help="the model to start from: name or folder")
    fine_tune.add_argument("--out", type=Path, required=True, help="folder for the model and its checkpoints")
    fine_tune.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    _plan_arguments(fine_tune)
    fine_tune.set_defaults(run=_fine_tune)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    from rag.training.plan import TrainingPlan

    kinds: dict[str, Callable[[str], object]] = {"float": float, "int": int}
    for field in fields(TrainingPlan):
        name = "--" + field.name.replace("_", "-")
        if field.type in kinds:
            parser.add_argument(name, type=kinds[field.type], default=field.default)
        else:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)


def _mine(options: argparse.Namespace) -> int:
    from rag.evaluation.passage_index import read_passages
    from rag.terminal import progress_bars
    from rag.training.groups import read_pairs, write_groups
    from rag.training.mine import MiningPolicy, Pool, mine
    from rag.wiring import open_embedder, open_index, open_named_reranker

    choose = random.Random(options.seed)
    pairs, passages = read_pairs(options.pairs), read_passages(options.passages)
    if options.limit and options.limit < len(pairs):
        pairs = choose.sample(pairs, options.limit)
    if options.pool_limit and options.pool_limit < len(passages):
        wanted = {pair.positive for pair in pairs}
        needed = [passage for passage in passages if passage.text in wanted]
        others = [passage for passage in passages if passage.text not in wanted]
        passages = needed + choose.sample(others, min(len(others), max(0, options.pool_limit - len(needed))))
    with tempfile.TemporaryDirectory(prefix="rank37-pool-") as folder, progress_bars() as show:
        settings = load_settings(data_dir=Path(folder), collection="pool")
        embedder = open_embedder(settings)
        index = open_index(settings, embedder.identity)
        judge = open_named_reranker(options.judge, settings) if options.judge else None
        try:
            pool = Pool(passages, embedder, index)
            pool.fill(progress=lambda done, total: show("embedding passages", done, total))
            groups = mine(
                pairs,
                pool,
                embedder,
                MiningPolicy(seed=options.seed),
                judge=judge,
                progress=lambda done, total: show("mining questions", done, total),
            )
            count = write_groups(groups, options.out)
        finally:
            index.close()
    print(f"{count} groups of {len(pairs)} pairs in {options.out}")
    return 0


def _fine_tune(options: argparse.Namespace) -> int:
    from rag.training.groups import read_groups
    from rag.training.plan import TrainingPlan
    from rag.training.train import train

    groups = [group for path in options.groups for group in read_groups(path)]
    plan = TrainingPlan(**{field.name: getattr(options, field.name) for field in fields(TrainingPlan)})
    report = train(groups, options.base, options.out, plan, resume=options.resume)
    for name in report["after"]:
        print(f"{name}: {report['before'].get(name, float('nan')):.4f} -> {report['after'][name]:.4f}")
    print(f"the model is in {options.out / 'model'}")
    return 0
