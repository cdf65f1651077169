"""`python -m rag`: ask a question, look after models, evaluate, without a browser.

Each command parses its arguments here and calls the part that does the work. Exit status: 0 done (a refusal to answer
is done), 1 an outage or a missing model, 2 a bad argument or setting.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from rag.backup_command import EXIT_SOME_REFUSED, add_backup_commands
from rag.errors import BadInput, Rank37Error
from rag.evaluation.command import add_compare_command, add_evaluate_command
from rag.evaluation.floor_command import add_floor_commands
from rag.evaluation.joined_command import add_joined_command
from rag.evaluation.noise_command import add_noise_command
from rag.evaluation.quality_command import add_quality_command
from rag.keys_command import add_keys_command
from rag.optimize_command import add_optimize_command
from rag.people_command import add_people_command
from rag.settings import DEFAULT_RERANKER, Settings, load_settings
from rag.traces_command import add_traces_command
from rag.training.command import add_train_command

if TYPE_CHECKING:
    from rag.ports import Embedder, Index

EXIT_OUTAGE = 1
EXIT_BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except BadInput as error:
        print(f"rag: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Rank37Error as error:
        print(f"rag: {error}", file=sys.stderr)
        if error.trace is not None and error.trace.ranked:
            from rag.terminal import print_ranking

            print_ranking(error.trace, Console(stderr=True))
        for note in error.trace.notes if error.trace else ():
            print(f"rag: {note}", file=sys.stderr)
        return EXIT_OUTAGE
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rag", description="Questions of your own PDFs, at a terminal.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    ask = commands.add_parser("ask", help="answer one question from the collection, or refuse")
    ask.add_argument("question")
    _collection_arguments(ask)
    ask.add_argument("--json", action="store_true", help="print the result with both full rankings as JSON")
    ask.set_defaults(run=_ask)

    add_evaluate_command(commands, ingest_pdfs=_ingest_pdfs)
    add_compare_command(commands)
    add_floor_commands(commands, ingest_pdfs=_ingest_pdfs)
    add_noise_command(commands, ingest_pdfs=_ingest_pdfs)
    add_joined_command(commands, ingest_pdfs=_ingest_pdfs)

    add_quality_command(commands)

    rerankers = commands.add_parser("rerankers", help="list every reranker, whether it is ready, and where data go")
    rerankers.add_argument("--json", action="store_true", help="print the list as JSON")
    rerankers.set_defaults(run=_list_rerankers)

    add_train_command(commands)

    add_traces_command(commands)

    add_keys_command(commands)

    add_people_command(commands)

    add_backup_commands(commands, rebuild=_rebuild)

    add_optimize_command(commands)

    models = commands.add_parser("models", help="list the models in use, or fetch one from the hub")
    actions = models.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="say which models the settings ask for and whether they are here").set_defaults(
        run=_list_models
    )
    fetch = actions.add_parser("fetch", help="download a model into the local cache, with progress")
    fetch.add_argument("name", nargs="?", help=f"hub name; without one: {DEFAULT_RERANKER}")
    fetch.set_defaults(run=_fetch_model)
    return parser


def _collection_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, help="folder of the index and the files (RANK37_DATA_DIR)")
    parser.add_argument("--collection", help="which collection (RANK37_COLLECTION)")


def _ask(options: argparse.Namespace) -> int:
    from rag.export import result_as_json
    from rag.pipeline import answer_question
    from rag.terminal import print_result
    from rag.wiring import open_engines, open_recorder, policy_for

    settings = load_settings(data_dir=options.data_dir, collection=options.collection)
    quiet = Console(stderr=True)
    with nullcontext() if options.json or not quiet.is_terminal else quiet.status("asking"):
        engines = open_engines(settings)
        recorder = open_recorder(settings)
        try:
            if engines.index.count_chunks() == 0:
                raise BadInput(
                    f"collection {settings.collection!r} in {settings.data_dir} holds no documents: "
                    "add some with `python -m ingest PATH...`"
                )
            result = answer_question(
                options.question, engines, policy_for(settings, engines.reranker, engines.embedder)
            )
            result = recorder.answered(result)
            files = {stored.document.id: stored.document.source for stored in engines.index.documents()}
        except Rank37Error as error:
            recorder.failed(error)
            raise
        finally:
            engines.index.close()
            recorder.close()
    if options.json:
        print(json.dumps(result_as_json(result, files), ensure_ascii=False))
    else:
        print_result(result, Console())
    return 0


def _ingest_pdfs(
    settings: Settings, embedder: Embedder, index: Index, folder: Path, show: Callable[[str, int, int], None]
) -> None:
    """Bring the PDFs of a labelled set into its index; one that can't be read is named on stderr."""
    from ingest.files import find_pdfs
    from ingest.write import Ingester, ingest_files

    ingester = Ingester.from_settings(settings, embedder, index)
    files = list(find_pdfs([folder]))
    for done, outcome in enumerate(ingest_files(ingester, files), start=1):
        if outcome.status == "refused":
            print(f"rag: {outcome.file}: {outcome.message}", file=sys.stderr)
        show(f"ingesting {len(files)} documents", done, len(files))


def _rebuild(settings: Settings, embedder_name: str | None) -> int:
    """Make the collection's index again; one line an original, as it is done."""
    from ingest.rebuild import rebuild
    from rag.wiring import named_embedder, open_collection_embedder, open_embedder, own_embedder, pinned_choice

    choice = own_embedder(settings) if embedder_name is None else named_embedder(embedder_name, settings)
    if embedder_name is None or choice is None:
        embedder = open_collection_embedder(settings)
    else:
        embedder = open_embedder(choice.over(settings))

    def say(n_originals: int) -> None:
        by = f" with {embedder.identity.name}" if choice else ""
        print(f"Rebuilding collection {settings.collection!r} from {n_originals} original files{by}", flush=True)

    outcomes = rebuild(
        settings,
        embedder,
        choice=pinned_choice(choice, embedder) if choice else None,
        begin=say,
        took=lambda outcome: print(f"{outcome.status:9}  {outcome.file}: {outcome.message}", flush=True),
    )
    return EXIT_SOME_REFUSED if any(outcome.status == "refused" for outcome in outcomes) else 0


def _list_rerankers(options: argparse.Namespace) -> int:
    from rag.terminal import print_rerankers
    from rag.wiring import list_rerankers

    states = list_rerankers(load_settings())
    if options.json:
        print(json.dumps([asdict(state) for state in states], ensure_ascii=False))
    else:
        print_rerankers(states, Console())
    return 0


def _list_models(options: argparse.Namespace) -> int:
    from rag.settings import EMBEDDED
    from rag.wiring import default_reranker_state, promoted_rerankers

    settings = load_settings()
    promoted = promoted_rerankers(settings).current()
    print(f"embedder: {settings.embedder}")
    if settings.reranker is not None:
        print(f"reranker: {settings.reranker} (named in the settings)")
    elif promoted is not None:
        print(f"reranker: {promoted.name} (promoted on {promoted.promoted_at[:10]})")
    else:
        state = default_reranker_state(settings)
        print(f"reranker: {DEFAULT_RERANKER if state.on_this_machine else EMBEDDED} ({state.why})")
    return 0


def _fetch_model(options: argparse.Namespace) -> int:
    from rag.wiring import fetch_model

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(options.name or DEFAULT_RERANKER, total=None)
        name = fetch_model(
            options.name, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    print(f"{name} is on this machine; it is used from the next start on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
