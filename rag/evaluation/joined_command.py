"""`python -m rag joined` at a terminal: what splitting two-part questions is worth on a labelled set.

It parses, opens the set and prints, and computes no figure.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from rag.errors import BadInput
from rag.evaluation.command import IngestPdfs, opened_set, positive, settings_for_set, shown_progress
from rag.settings import load_settings


def add_joined_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], *, ingest_pdfs: IngestPdfs
) -> None:
    """Add `joined` to the commands of `python -m rag`."""
    joined = commands.add_parser(
        "joined",
        help="join two labelled questions into one and measure what splitting them is worth",
        description="Takes the sets that `python -m rag evaluate` takes. Asks each joined question whole, in parts, "
        "and each of its questions alone, up to the floor.",
    )
    joined.add_argument("set", type=Path, metavar="SET", help="folder of a labelled set")
    joined.add_argument(
        "--limit", type=positive, metavar="N", help="at most N joined questions of each kind, at random"
    )
    joined.add_argument("--seed", type=int, default=37, help="of the choice and the joining")
    joined.add_argument("--data-dir", type=Path, help="where the index is kept and reused (RANK37_DATA_DIR)")
    joined.add_argument("--progress", action="store_true", help="say how far it is, on stderr, also in a log")
    joined.add_argument("--json", action="store_true", help="print one JSON object")
    joined.set_defaults(run=partial(_joined, ingest_pdfs=ingest_pdfs))


def _joined(options: argparse.Namespace, *, ingest_pdfs: IngestPdfs) -> int:
    from rich.console import Console

    from rag.evaluation.joined import ask_joined, join_questions, joined_report, joined_table
    from rag.evaluation.sets import read_set
    from rag.evaluation.tables import print_table
    from rag.wiring import open_embedder

    labelled = read_set(options.set)
    joined = join_questions(labelled.questions, limit=options.limit, seed=options.seed)
    if not joined:
        raise BadInput(f"{options.set} has no two questions that can be joined: they need to begin as questions do")
    settings = load_settings(data_dir=options.data_dir)
    embedder = open_embedder(settings)
    chosen = settings_for_set(settings, None, labelled, embedder)
    with (
        shown_progress(options.progress) as show,
        opened_set(labelled, chosen, embedder, depth=settings.recall_limit, ingest_pdfs=ingest_pdfs, show=show) as (
            engines,
            policy,
            items_of,
        ),
    ):
        rows = ask_joined(joined, engines, policy, items_of, progress=partial(show, f"{labelled.name}, joined"))
        report = joined_report(labelled.name, rows, engines, policy)
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print_table(joined_table(report), Console())
    return 0
