"""Re-indexing an open collection with another embedder: it answers all the while, and nothing is lost on the way."""

from __future__ import annotations

import gc
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.__main__ import main as ingest_main
from ingest.library import Library, Workspace
from ingest.rebuild import rebuild
from ingest.reindex import Reindexing, ReindexView, stopped_choice
from ingest.samples import mark_samples_done
from ingest.write import Ingester
from rag.__main__ import main as rag_main
from rag.backup import back_up
from rag.data_folder import (
    EMBEDDER_FILE,
    WHOLE,
    begun_folder,
    drop_earlier,
    has_whole_rebuilt,
    home_in,
    homes_of,
    next_folder,
    put_in_place,
    rebuilt_folders,
    whole_note,
)
from rag.embedder_choice import EmbedderChoice
from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER
from rag.engines.token_index import TokenIndex
from rag.errors import BadInput, CollectionError, CollectionLocked, EmbedderMismatch, ModelUnavailable
from rag.evaluation.floor_report import floor_by_hand
from rag.ports import Embedder
from rag.settings import EMBEDDED, Settings
from rag.types import Answer, Event, Passage, StageStarted
from rag.wiring import (
    floor_in_use,
    floor_scope,
    floor_store,
    hold_collection,
    named_embedder,
    open_collection_embedder,
    open_embedder,
)
from tests.contracts.tiny_models import POSITIONS, save_embedder
from tests.ingest.written_pdfs import write_pdf

PARKING = "Parking permits cost forty crowns a month. They are sold at the town hall on the market square."
LENDING = "The library lends a book for three weeks. A reminder is sent by letter after the last day."
POOL = "The swimming pool opens at seven in the morning. Children under six swim for nothing."
QUESTION = "What does a parking permit cost?"
MINILM, MINILM_DIMENSION = "sentence-transformers/all-MiniLM-L6-v2", 384
TINY_DIMENSION = 32
WAIT_S = 120.0


class Models:
    """Loads each model once for all tests of this file, and can let one wait before it embeds."""

    def __init__(self) -> None:
        self.loaded: dict[tuple[str, str | None], Embedder] = {}
        self.asked: list[str] = []
        self.waits: Waiting | None = None

    def open(self, settings: Settings) -> Embedder:
        self.asked.append(settings.embedder)
        key = (settings.embedder, settings.embedder_passage_prompt)
        if key not in self.loaded:
            self.loaded[key] = open_embedder(settings)
        if self.waits is not None and settings.embedder == self.waits.embedder:
            return self.waits.over(self.loaded[key])
        return self.loaded[key]


class Waiting:
    """Lets an embedder wait before the given batch of passages, until it may go on."""

    def __init__(self, embedder: str, *, before_batch: int = 1) -> None:
        self.embedder = embedder
        self.reached = threading.Event()
        self.may_go_on = threading.Event()
        self._before_batch = before_batch
        self._batches = 0

    def over(self, inner: Embedder) -> Any:
        return _WaitingEmbedder(inner, self)

    def wait(self) -> None:
        self._batches += 1
        if self._batches == self._before_batch:
            self.reached.set()
            assert self.may_go_on.wait(WAIT_S)


class _WaitingEmbedder:
    def __init__(self, inner: Embedder, waiting: Waiting) -> None:
        self._inner, self._waiting = inner, waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def embed_passages(self, texts: Any, *, progress: Any = None) -> Any:
        self._waiting.wait()
        return self._inner.embed_passages(texts, progress=progress)


@pytest.fixture(scope="module")
def all_models() -> Models:
    return Models()


@pytest.fixture
def models(all_models: Models, monkeypatch: pytest.MonkeyPatch) -> Models:
    all_models.asked, all_models.waits = [], None
    monkeypatch.setattr("ingest.library.open_embedder", all_models.open)
    return all_models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another embedder: of 32 dimensions, with random weights."""
    return save_embedder(tmp_path_factory.mktemp("models") / "tiny-embedder", "bert")


@pytest.fixture
def choice(tiny: Path) -> EmbedderChoice:
    return EmbedderChoice(str(tiny.resolve()))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path / "data", reranker=EMBEDDED)
    mark_samples_done(settings.collection_dir)
    return settings


@pytest.fixture
def library(settings: Settings, models: Models) -> Iterator[Library]:
    library = Library(settings)
    yield library
    library.close()


@pytest.fixture
def town(library: Library, tmp_path: Path) -> Workspace:
    """A collection of two documents."""
    workspace = library.open(library.create("Town hall").key)
    add(workspace, tmp_path, "library.pdf", LENDING)
    add(workspace, tmp_path, "parking.pdf", PARKING)
    return workspace


def add(workspace: Workspace, folder: Path, name: str, text: str) -> str:
    """Add a document; gives its id."""
    data = write_pdf(folder / name, [text]).read_bytes()
    job = workspace.submit(name, data)
    assert workspace.queue.wait(WAIT_S)
    outcome = next(one for one in workspace.queue.jobs() if one.id == job.id).outcome
    assert outcome is not None
    assert outcome.document_id is not None
    return outcome.document_id


def sources(workspace: Workspace) -> list[str]:
    return sorted(one.document.source for one in workspace.engines.index.documents() if one.state == "ready")


def ended(reindexing: Reindexing) -> ReindexView:
    view = reindexing.wait(WAIT_S)
    assert view.state != "running"
    return view


def answer_to(workspace: Workspace, question: str = QUESTION) -> tuple[str, str]:
    """The answer's text, and the embedder that its trace names."""
    result = workspace.ask(question)
    assert isinstance(result.outcome, Answer), result.outcome
    return result.outcome.text, result.trace.engines[0].name


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_another_embedder_takes_over_and_a_restart_keeps_it(
    library: Library, town: Workspace, settings: Settings, choice: EmbedderChoice, tmp_path: Path
) -> None:
    added = {one.document.id: one.ingested_at for one in town.engines.index.documents()}
    view = ended(library.reindex(town.key, choice))
    assert (view.state, view.n_done, len(view.documents), view.error) == ("done", 2, 2, None)
    assert town.engines.embedder.identity.name == "tiny-embedder"
    assert town.engines.index.embedder.dimension == TINY_DIMENSION
    assert {one.document.id: one.ingested_at for one in town.engines.index.documents()} == added
    text, embedder = answer_to(town)
    assert "forty crowns" in text
    assert embedder == "tiny-embedder"

    pool = add(town, tmp_path, "pool.pdf", POOL)
    assert "seven" in answer_to(town, "When does the swimming pool open?")[0]
    town.delete_document(
        next(one for one in added if town.engines.index.document(one).document.source != "parking.pdf")
    )  # type: ignore[union-attr]  # it is there
    assert library.open().engines.index.embedder.dimension == MINILM_DIMENSION, "each collection has its own"
    library.close()

    again = Library(settings)
    try:
        after = again.open(town.key)
        assert after.engines.embedder.identity.name == "tiny-embedder"
        assert sources(after) == ["parking.pdf", "pool.pdf"]
        assert after.engines.index.document(pool) is not None
        assert "forty crowns" in answer_to(after)[0]
        assert again.open().engines.embedder.identity.name == MINILM
        assert (after.settings.collection_dir / EMBEDDER_FILE).exists()
        assert rebuilt_folders(after.settings.collection_dir) == []
    finally:
        again.close()


def test_it_answers_takes_uploads_and_deletes_while_it_is_reindexed(
    library: Library, town: Workspace, choice: EmbedderChoice, models: Models, tmp_path: Path
) -> None:
    models.waits = Waiting(choice.embedder, before_batch=2)
    lending = next(one.document.id for one in town.engines.index.documents() if one.document.source == "library.pdf")
    reindexing = library.reindex(town.key, choice)
    try:
        assert models.waits.reached.wait(WAIT_S)
        view = reindexing.view()
        assert (view.state, view.n_done, len(view.documents)) == ("running", 1, 2)
        assert [one.state for one in view.documents] == ["done", "running"]
        text, embedder = answer_to(town)
        assert "forty crowns" in text
        assert embedder == MINILM
        add(town, tmp_path, "pool.pdf", POOL)
        assert "seven" in answer_to(town, "When does the swimming pool open?")[0]
        town.delete_document(lending)
        newer = add(town, tmp_path, "parking.pdf", PARKING.replace("forty", "fifty"))
        with pytest.raises(BadInput, match="being re-indexed already"):
            library.reindex(town.key)
    finally:
        models.waits.may_go_on.set()
    assert ended(reindexing).state == "done"
    assert town.engines.index.embedder.dimension == TINY_DIMENSION
    assert sources(town) == ["parking.pdf", "pool.pdf"]
    assert town.engines.index.document(newer) is not None
    assert "fifty crowns" in answer_to(town)[0]
    candidates = town.ask("How long does the library lend a book?").trace.candidates
    assert all("reminder" not in candidate.chunk.text for candidate in candidates)
    assert {path.stem for path in (town.settings.collection_dir / "files").glob("*.pdf")} == {
        one.document.id for one in town.engines.index.documents()
    }


@pytest.mark.parametrize("stage", ["recall", "rerank"])
def test_a_question_ends_on_the_index_on_which_it_began(
    library: Library, town: Workspace, choice: EmbedderChoice, stage: str
) -> None:
    earlier = town.settings.collection_dir / "index"
    reached, may_go_on = threading.Event(), threading.Event()
    results = []

    def listen(event: Event) -> None:
        if event == StageStarted(stage):  # type: ignore[arg-type]  # a stage
            reached.set()
            assert may_go_on.wait(WAIT_S)

    asking = threading.Thread(target=lambda: results.append(town.ask(QUESTION, listen=listen)))
    asking.start()
    try:
        assert reached.wait(WAIT_S)
        assert ended(library.reindex(town.key, choice)).state == "done"
        assert answer_to(town)[1] == "tiny-embedder", "a new question is not kept waiting"
        assert earlier.exists()
    finally:
        may_go_on.set()
        asking.join(WAIT_S)
    [result] = results
    assert isinstance(result.outcome, Answer)
    assert "forty crowns" in result.outcome.text
    assert result.trace.engines[0].name == MINILM
    del result
    results.clear()
    gc.collect()
    until(lambda: not earlier.exists())
    assert answer_to(town)[1] == "tiny-embedder"


def test_cancelling_leaves_everything_as_it_was(
    library: Library, town: Workspace, choice: EmbedderChoice, models: Models
) -> None:
    models.waits = Waiting(choice.embedder)
    reindexing = library.reindex(town.key, choice)
    assert models.waits.reached.wait(WAIT_S)
    reindexing.cancel()
    models.waits.may_go_on.set()
    assert ended(reindexing).state == "cancelled"
    assert rebuilt_folders(town.settings.collection_dir) == []
    assert town.stopped_reindexing is None
    assert answer_to(town)[1] == MINILM
    assert ended(library.reindex(town.key, choice)).state == "done"


def test_a_stop_in_the_middle_keeps_the_earlier_index_and_is_continued(
    library: Library, town: Workspace, settings: Settings, choice: EmbedderChoice, models: Models
) -> None:
    models.waits = Waiting(choice.embedder, before_batch=2)
    reindexing = library.reindex(town.key, choice)
    assert models.waits.reached.wait(WAIT_S)
    reindexing.stop()
    models.waits.may_go_on.set()
    library.close()
    assert reindexing.view().state == "stopped"
    assert stopped_choice(town.settings.collection_dir) == choice

    models.waits = None
    again = Library(settings)
    try:
        after = again.open(town.key)
        assert answer_to(after)[1] == MINILM
        assert after.stopped_reindexing == choice
        view = ended(again.reindex(town.key, after.stopped_reindexing))
        assert view.state == "done"
        assert [one.outcome.status for one in view.documents if one.outcome] == ["unchanged", "ingested"]
        assert answer_to(after)[1] == "tiny-embedder"
        assert after.stopped_reindexing is None
    finally:
        again.close()


def test_what_was_begun_can_be_discarded(
    library: Library, town: Workspace, choice: EmbedderChoice, models: Models
) -> None:
    models.waits = Waiting(choice.embedder, before_batch=2)
    reindexing = library.reindex(town.key, choice)
    assert models.waits.reached.wait(WAIT_S)
    town.discard_reindexing()
    assert town.is_reindexing, "one that is under way is not discarded"
    reindexing.stop()
    models.waits.may_go_on.set()
    ended(reindexing)
    assert town.stopped_reindexing == choice
    town.discard_reindexing()
    assert town.stopped_reindexing is None
    assert rebuilt_folders(town.settings.collection_dir) == []


def test_a_kill_right_after_the_switch_keeps_the_new_index(
    library: Library, town: Workspace, settings: Settings, choice: EmbedderChoice, tmp_path: Path
) -> None:
    assert ended(library.reindex(town.key, choice)).state == "done"
    add(town, tmp_path, "pool.pdf", POOL)
    killed = tmp_path / "killed"
    shutil.copytree(settings.data_dir, killed)  # what a process that was killed leaves on disk
    with hold_collection(settings.model_copy(update={"collection": town.key, "data_dir": killed})):
        assert rebuilt_folders(killed / "collections" / town.key) == []
    after = Library(settings.model_copy(update={"data_dir": killed}))
    try:
        assert after.open(town.key).engines.embedder.identity.name == "tiny-embedder"
        assert sources(after.open(town.key)) == ["library.pdf", "parking.pdf", "pool.pdf"]
    finally:
        after.close()


def test_a_backup_after_a_kill_holds_the_new_index(
    library: Library, town: Workspace, settings: Settings, choice: EmbedderChoice, tmp_path: Path
) -> None:
    assert ended(library.reindex(town.key, choice)).state == "done"
    killed = settings.model_copy(update={"data_dir": tmp_path / "killed"})
    shutil.copytree(settings.data_dir, killed.data_dir)
    content = back_up(
        killed.data_dir,
        tmp_path / "backup.zip",
        hold=lambda name: hold_collection(killed.model_copy(update={"collection": name})),
    )
    assert content.collections == ("documents", town.key)
    assert (killed.data_dir / "collections" / town.key / EMBEDDER_FILE).exists()


def test_it_is_reindexed_again_and_back_without_a_restart(
    library: Library, town: Workspace, settings: Settings, choice: EmbedderChoice, models: Models
) -> None:
    folder = town.settings.collection_dir
    assert ended(library.reindex(town.key, choice)).state == "done"
    assert [path.name for path in rebuilt_folders(folder)] == ["rebuilt"]
    assert ended(library.reindex(town.key, EmbedderChoice(EMBEDDED))).state == "done"
    gc.collect()
    until(lambda: [path.name for path in rebuilt_folders(folder)] == ["rebuilt-2"])
    assert answer_to(town)[1] == MINILM
    assert town.engines.embedder is library.open().engines.embedder, "loaded once for both"
    assert models.asked.count(EMBEDDED) == 1
    with pytest.raises(CollectionLocked):
        rebuild(town.settings, town.engines.embedder)
    library.close()
    again = Library(settings)
    try:
        assert answer_to(again.open(town.key))[1] == MINILM
        assert rebuilt_folders(folder) == []
    finally:
        again.close()


def test_the_newest_whole_index_is_put_in_place_and_one_that_is_being_made_stays(tmp_path: Path) -> None:
    town = tmp_path / "town"

    def index_in(folder: Path, content: str) -> None:
        (folder / "index").mkdir(parents=True)
        (folder / "index" / "which").write_text(content)

    index_in(town, "earlier")
    for name, whole in (("rebuilt", True), ("rebuilt-2", False), ("rebuilt-10", True), ("rebuilt-11", False)):
        index_in(home_in(town / name, town), name)
        if whole:
            (town / name / WHOLE).write_bytes(whole_note(town / name, town))
    (town / "tokens").mkdir()
    assert homes_of(town) == [home_in(town / "rebuilt-10", town), home_in(town / "rebuilt", town), town]
    assert next_folder(town) == begun_folder(town) == town / "rebuilt-11"
    drop_earlier(town, home_in(town / "rebuilt-10", town))
    assert has_whole_rebuilt(town), "what serves is not dropped"

    put_in_place(town)

    assert (town / "index" / "which").read_text() == "rebuilt-10"
    assert not (town / "tokens").exists(), "the new index has none"
    assert [path.name for path in rebuilt_folders(town)] == ["rebuilt-11"]
    drop_earlier(town, town)
    assert (town / "index").exists(), "it is in its place, and serves"


def test_what_can_not_be_done_is_refused_before_anything_starts(
    library: Library, town: Workspace, settings: Settings, choice: EmbedderChoice, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name, error, said in (
        ("no-such/model", ModelUnavailable, "python -m rag models fetch no-such/model"),
        (str(tmp_path / "nowhere"), BadInput, "is no folder on this machine"),
        (str(tmp_path / "empty"), ModelUnavailable, "holds no complete model"),
        (str(EMBEDDED_RERANKER_FOLDER), BadInput, "is a cross-encoder"),
        ("  ", BadInput, "no embedder is named"),
    ):
        with pytest.raises(error, match=said):
            library.reindex(town.key, named_embedder(name, settings))
    too_long = POSITIONS + 1
    town.settings = settings.model_copy(update={"collection": town.key, "chunk_tokens": too_long})
    with pytest.raises(BadInput, match=f"chunks of {too_long} tokens can't be embedded whole: tiny-embedder"):
        library.reindex(town.key, choice)
    town.settings = settings.model_copy(update={"collection": town.key, "qdrant_url": "http://127.0.0.1:9"})
    with pytest.raises(BadInput, match=r"lies on a Qdrant server.*RANK37_COLLECTION"):
        library.reindex(town.key, choice)
    assert town.reindexing is None
    assert rebuilt_folders(town.settings.collection_dir) == []


def test_only_who_manages_a_collection_reindexes_it(library: Library) -> None:
    card = library.create("Ann's contracts", person="ann")
    library.share(card.key, ["bob"], "ann")
    with pytest.raises(BadInput, match="only its owner"):
        library.reindex(card.key, None, "bob")


def test_a_document_that_can_not_be_read_again_keeps_the_earlier_index(
    library: Library, town: Workspace, choice: EmbedderChoice
) -> None:
    stored = next(one for one in town.engines.index.documents() if one.document.source == "library.pdf")
    original = town.ingester.original(stored.document.id)
    bytes_before = original.read_bytes()
    original.write_bytes(bytes_before + b"more")
    view = ended(library.reindex(town.key, choice))
    assert view.state == "failed"
    assert "1 of 2 documents" in str(view.error)
    assert "library.pdf" in str(view.error)
    assert answer_to(town)[1] == MINILM
    original.unlink()
    with pytest.raises(CollectionError, match=r"library\.pdf are not kept.*add them again"):
        library.reindex(town.key, choice)
    original.write_bytes(bytes_before)
    view = ended(library.reindex(town.key, town.stopped_reindexing))
    assert view.state == "done"
    statuses = {one.file: one.outcome.status for one in view.documents if one.outcome}
    assert statuses == {"library.pdf": "ingested", "parking.pdf": "unchanged"}


def test_what_an_outage_left_unfinished_is_still_told_as_such(
    library: Library, town: Workspace, choice: EmbedderChoice
) -> None:
    finished = town.engines.index.documents()[0]
    town.ingester.index.begin_document(finished)
    assert ended(library.reindex(town.key, choice)).state == "done"
    states = {one.document.id: one.state for one in town.engines.index.documents()}
    assert states.pop(finished.document.id) == "ingesting"
    assert list(states.values()) == ["ready"]


def test_an_empty_collection_takes_another_embedder_at_once(
    library: Library, choice: EmbedderChoice, tmp_path: Path
) -> None:
    empty = library.open(library.create("Empty").key)
    view = ended(library.reindex(empty.key, choice))
    assert (view.state, view.documents) == ("done", ())
    add(empty, tmp_path, "parking.pdf", PARKING)
    assert answer_to(empty)[1] == "tiny-embedder"


def test_the_floor_is_the_default_again_with_another_embedder(
    library: Library, town: Workspace, choice: EmbedderChoice
) -> None:
    scope = floor_scope(town.settings, town.engines.reranker, town.engines.embedder)
    floor_store(town.settings).put(floor_by_hand(0.25, scope))
    assert town.policy.floor == 0.25
    assert ended(library.reindex(town.key, choice)).state == "done"
    assert town.policy.floor == 0.4
    floor = floor_in_use(town.settings, town.engines.reranker, town.engines.embedder)
    assert floor.source == "default"
    assert f"the embedder {MINILM}, not tiny-embedder" in floor.differences


def test_commands_open_the_collection_with_its_own_embedder(
    library: Library,
    town: Workspace,
    settings: Settings,
    choice: EmbedderChoice,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(library.reindex(town.key, choice)).state == "done"
    library.close()
    folder = ["--data-dir", str(settings.data_dir), "--collection", town.key]
    pool = write_pdf(tmp_path / "pool.pdf", [POOL])
    assert ingest_main([str(pool), *folder]) == 0
    assert rag_main(["ask", "When does the swimming pool open?", *folder, "--json"]) == 0
    assert '"tiny-embedder"' in capsys.readouterr().out
    assert rag_main(["rebuild", *folder]) == 0
    assert "3 original files with tiny-embedder" in capsys.readouterr().out
    assert rag_main(["rebuild", *folder, "--embedder", EMBEDDED]) == 0
    assert f"3 original files with {MINILM}" in capsys.readouterr().out
    again = Library(settings)
    try:
        assert again.open(town.key).engines.index.embedder.dimension == MINILM_DIMENSION
        assert sources(again.open(town.key)) == ["library.pdf", "parking.pdf", "pool.pdf"]
    finally:
        again.close()


def test_a_model_that_is_gone_or_another_one_is_named_with_the_remedy(
    library: Library, town: Workspace, settings: Settings, tmp_path: Path, models: Models
) -> None:
    own = save_embedder(tmp_path / "own-embedder", "bert", seed=1)
    own_choice = EmbedderChoice(str(own.resolve()))
    assert ended(library.reindex(town.key, own_choice)).state == "done"
    library.close()
    models.loaded.clear()
    shutil.rmtree(own)
    save_embedder(own, "bert", seed=2)
    again = Library(settings)
    try:
        with pytest.raises(EmbedderMismatch, match=r"another model now.*rag rebuild --collection town-hall"):
            again.open(town.key)
        shutil.rmtree(own)
        models.loaded.clear()
        gc.collect()
        with pytest.raises(ModelUnavailable, match=r"--collection town-hall --embedder NAME"):
            again.open(town.key)
        assert again.open().key == settings.collection, "the others open"
    finally:
        again.close()


def test_a_note_that_can_not_be_read_is_named_with_the_remedy(library: Library, town: Workspace) -> None:
    library.close()
    (town.settings.collection_dir / EMBEDDER_FILE).write_text("{")
    with pytest.raises(CollectionError, match=r"embedder\.json can't be read.*rag rebuild --embedder NAME"):
        open_collection_embedder(town.settings)


def test_a_deleted_collection_takes_its_reindexing_with_it(
    library: Library, town: Workspace, choice: EmbedderChoice, models: Models
) -> None:
    models.waits = Waiting(choice.embedder)
    reindexing = library.reindex(town.key, choice)
    assert models.waits.reached.wait(WAIT_S)
    threading.Timer(0.2, models.waits.may_go_on.set).start()
    library.delete(town.key)
    assert reindexing.view().state == "cancelled"
    assert not town.settings.collection_dir.exists()


def test_token_vectors_are_made_for_the_new_chunks_and_the_earlier_ones_go(
    tmp_path: Path, choice: EmbedderChoice, models: Models
) -> None:
    settings = Settings(data_dir=tmp_path / "data", reranker="colbert")
    mark_samples_done(settings.collection_dir)
    library = Library(settings)
    try:
        town = library.open()
        add(town, tmp_path, "parking.pdf", PARKING)
        assert ended(library.reindex(town.key, choice)).state == "done"
        assert stored_token_vectors(town) == 1
        assert "forty crowns" in answer_to(town)[0]
        gc.collect()
        until(lambda: not (settings.collection_dir / "tokens").exists())
    finally:
        library.close()
    # Another reranker is named now: a new index has none, and the earlier index's go with it.
    library = Library(settings.model_copy(update={"reranker": EMBEDDED}))
    try:
        assert (settings.collection_dir / "tokens").exists()
        assert ended(library.reindex(settings.collection, EmbedderChoice(EMBEDDED))).state == "done"
    finally:
        library.close()
    library = Library(settings.model_copy(update={"reranker": EMBEDDED}))
    library.close()
    assert not (settings.collection_dir / "tokens").exists()


def stored_token_vectors(workspace: Workspace) -> int:
    import numpy as np

    index = workspace.engines.index
    assert isinstance(index, TokenIndex)
    assert index.encoder is not None
    chunks = [chunk for one in index.documents() for chunk in index.chunks(one.document.id)]
    query = np.ones((1, index.encoder.identity.dimension), dtype=np.float32)
    return len(index.tokens.max_sim(query, [Passage(chunk.id, chunk.passage) for chunk in chunks]))


def test_ingestion_waits_only_for_the_switch_itself(town: Workspace, tmp_path: Path) -> None:
    """`at_rest` holds files back and lets them go on afterwards, in whatever index is then in place."""
    with town.ingester.at_rest():
        data = write_pdf(tmp_path / "pool.pdf", [POOL]).read_bytes()
        town.submit("pool.pdf", data)
        assert not town.queue.wait(0.3)
    assert town.queue.wait(WAIT_S)
    assert sources(town) == ["library.pdf", "parking.pdf", "pool.pdf"]
    assert isinstance(town.ingester, Ingester)
