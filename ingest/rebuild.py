"""A new index for a collection from its kept originals: after damage, or to cut and embed with other settings.

The earlier index stays in its place until the new one is whole; originals are only read. A run that was stopped
continues. On a Qdrant server, documents that the collection lacks are brought in again. Nobody may have the collection
open meanwhile: `ingest.reindex` does the same while it answers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ingest.files import DOCUMENT_ID, bare_name, content_id, write_durably
from ingest.write import FileOutcome, Ingester, names_folder, storage_errors
from rag.data_folder import EMBEDDER_FILE, WHOLE, check_format, home_in, next_folder, put_in_place, whole_note
from rag.embedder_choice import EmbedderChoice
from rag.errors import BadInput, FileRefused
from rag.ports import Embedder, Index
from rag.settings import Settings
from rag.wiring import hold_collection, open_index

PLAN_FILE = "plan.json"
"""In the rebuilt folder: what it is made with. A stopped run with other settings starts anew."""


@dataclass(frozen=True, slots=True)
class Original:
    """A kept file of a collection."""

    document_id: str
    path: Path
    source: str
    """As the person named it; from the id where its name is not known."""


def find_originals(files_dir: Path) -> list[Original]:
    """The originals of a collection by id, without those whose removal had begun: it is not undone."""
    found = []
    for path in sorted(files_dir.iterdir()) if files_dir.is_dir() else ():
        if DOCUMENT_ID.fullmatch(path.stem) and not (files_dir / f".{path.stem}.leaving").exists():
            found.append(Original(path.stem, path, _name_of(path)))
    return found


def rebuild(
    settings: Settings,
    embedder: Embedder,
    *,
    choice: EmbedderChoice | None = None,
    begin: Callable[[int], None] = lambda n_originals: None,
    took: Callable[[FileOutcome], None] = lambda outcome: None,
) -> list[FileOutcome]:
    """Make the index of the settings' collection again; how each original ended, by id.

    Args:
        settings: Where it lies, and how it is cut.
        embedder: What embeds it.
        choice: Noted as the collection's own embedder from now on; None: it has none but the settings'.
        begin: Called with the number of originals.
        took: Called with each outcome.

    An original that is refused stays where it is, and is tried again by the next rebuild.

    Raises:
        BadInput: No original is kept.
        CollectionLocked: The collection is open, here or in another process.
        CollectionError, IndexUnavailable: It can't be written.
    """
    check_format(settings.data_dir)
    originals = find_originals(settings.collection_dir / "files")
    if not originals:
        raise BadInput(
            f"no original files of collection {settings.collection!r} are kept in {settings.collection_dir / 'files'}: "
            "check RANK37_DATA_DIR and RANK37_COLLECTION, or restore a backup (`python -m rag restore FILE`)"
        )
    begin(len(originals))
    outcomes = []
    if settings.qdrant_url:
        index = open_index(settings, embedder.identity)
        try:
            outcomes = list(_taken(originals, Ingester.from_settings(settings, embedder, index), index, took))
        finally:
            index.close()
        return outcomes
    with storage_errors(settings.collection_dir), hold_collection(settings):
        rebuilt = begin_rebuilt(settings, embedder, choice)
        aside = settings.model_copy(update={"data_dir": rebuilt})
        index = open_index(aside, embedder.identity)
        try:
            ingester = Ingester.from_settings(aside, embedder, index)
            for outcome in _taken(originals, ingester, index, took):
                outcomes.append(outcome)
                if outcome.document_id is not None:  # the copy that ingestion made
                    ingester.original(outcome.document_id).unlink(missing_ok=True)
        finally:
            index.close()
        names = names_folder(settings.collection_dir / "files")
        names.mkdir(exist_ok=True)
        for original in originals:
            write_durably(names / f"{original.document_id}.json", json.dumps({"source": original.source}).encode())
        declare_whole(rebuilt, settings)
        put_in_place(settings.collection_dir)
    return outcomes


def begin_rebuilt(settings: Settings, embedder: Embedder, choice: EmbedderChoice | None) -> Path:
    """The folder for a new index, as a data folder: one that a stopped run with the same plan left, else an empty one.

    Raises OSError.
    """
    rebuilt = next_folder(settings.collection_dir)
    home, file = home_in(rebuilt, settings.collection_dir), rebuilt / PLAN_FILE
    plan = json.dumps(
        {
            "embedder": asdict(embedder.identity),
            "choice": choice.as_json() if choice else None,
            "chunk_tokens": settings.chunk_tokens,
            "chunk_overlap_tokens": settings.chunk_overlap_tokens,
            "reranker": settings.reranker,
        }
    ).encode()
    if file.exists() and file.read_bytes() == plan and (home / "index").exists():
        return rebuilt
    if rebuilt.exists():
        shutil.rmtree(rebuilt)
    home.mkdir(parents=True)
    if choice is not None:
        write_durably(home / EMBEDDER_FILE, json.dumps(choice.as_json()).encode())
    write_durably(file, plan)
    return rebuilt


def declare_whole(rebuilt: Path, settings: Settings) -> None:
    """From now on the new index is the collection's, whatever happens. Raises OSError."""
    write_durably(rebuilt / WHOLE, whole_note(rebuilt, settings.collection_dir))
    with suppress(OSError):  # what a kill leaves of the folder is then nothing to continue
        (rebuilt / PLAN_FILE).unlink()


def planned_choice(rebuilt: Path) -> EmbedderChoice | None:
    """The embedder that was chosen for an index that is not whole yet; None where none was, or it can't be read."""
    try:
        return EmbedderChoice.of(json.loads((rebuilt / PLAN_FILE).read_bytes())["choice"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _taken(
    originals: list[Original], ingester: Ingester, index: Index, took: Callable[[FileOutcome], None]
) -> Iterator[FileOutcome]:
    """Each original's outcome, and nobody replaces another: two folders can hold files of one name."""
    every_id = {original.document_id for original in originals}
    for original in originals:
        outcome = _take(original, every_id, ingester, index)
        took(outcome)
        yield outcome


def _take(original: Original, every_id: set[str], ingester: Ingester, index: Index) -> FileOutcome:
    stored = index.document(original.document_id)
    if stored is not None and stored.state == "ready":
        message = "is in already"
        return FileOutcome(original.source, "unchanged", message=message, document_id=original.document_id)
    refused = damage_to(original, max_bytes=ingester.max_file_bytes)
    if refused is not None:
        return refused
    outcome = ingester.ingest(original.path, source=original.source, keep=every_id)
    return replace(outcome, file=original.source)


def damage_to(original: Original, *, max_bytes: int) -> FileOutcome | None:
    """Why an original is not what was kept once; None: it is."""
    try:
        if content_id(original.path, max_bytes=max_bytes) == original.document_id:
            return None
        message = f"{original.path} is damaged: its content is another than when it was kept; add the file again"
        return FileOutcome(original.source, "refused", "damaged", message)
    except FileRefused as refusal:
        return FileOutcome(original.source, "refused", refusal.reason, str(refusal))


def _name_of(path: Path) -> str:
    try:
        noted = json.loads((names_folder(path.parent) / f"{path.stem}.json").read_bytes())
        return bare_name(noted["source"])
    except (OSError, ValueError, KeyError, TypeError):  # of format 1, or damaged: the file itself is what counts
        return path.name
