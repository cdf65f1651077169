"""The collections of one data folder, open in one process: what the app and the API share.

One `Library` a process holds the models, once for all collections that use them; a `Workspace` is one open collection
with all that answers its questions and brings its files in. It draws nothing, and which engines there are is
`rag.wiring`'s choice.
"""

from __future__ import annotations

import atexit
import gc
import logging
import re
import shutil
import threading
import unicodedata
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from ingest.ahead import ReadAhead
from ingest.optimizing import Optimizing
from ingest.queue import IngestQueue, JobView
from ingest.reindex import Reindexing, discard_begun, stopped_choice
from ingest.samples import queue_samples
from ingest.statistics import disk_bytes
from ingest.turns import Turns
from ingest.write import Cutter, FileOutcome, Ingester
from rag.asker import asked_by
from rag.data_folder import drop_earlier, homes_of
from rag.embedder_choice import EmbedderChoice
from rag.errors import BadInput, CollectionError, Rank37Error
from rag.loading import Loading
from rag.pipeline import answer_question
from rag.ports import LLM, ChatStore, CollectionStore, Embedder, Engines, Index, Reranker
from rag.settings import COLLECTION_NAME, Settings, check_collection_name
from rag.types import CollectionCard, EmbedderIdentity, Event, QueryPolicy, Result, StoredTrace, Turn, Waiting
from rag.wiring import (
    drop_collection,
    embedder_choice,
    fetch_model,
    floor_store,
    open_chat_store,
    open_collection_embedder,
    open_collection_store,
    open_embedder,
    open_embedder_later,
    open_index,
    open_llm,
    open_recorder,
    open_rerankers,
    pinned_choice,
    policy_for,
    scores_by_index,
    settings_of_collection,
)

_log = logging.getLogger(__name__)

TITLE_CHARACTERS = 120
"""Longest title of a collection."""
NOT_PEOPLES = re.compile(r"evaluation-")
"""How the collections begin that the evaluation makes for its sets: people do not see them."""
STOP_LIMIT_S = 30.0
"""Longest wait for a re-indexing that was told to end."""
LOADING_LIMIT_S = 60.0
"""Longest wait, at the end, for models that are being loaded: that can't be broken off."""
NAMES_TOLD = 5
"""How many documents an error names."""
LEAVING = ".deleted-"
"""How the folder of a collection begins that is being deleted; what a stop left of it goes at the next start."""


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far the download of the default reranker has come."""

    done_bytes: int = 0
    total_bytes: int = 0
    is_loading: bool = False
    """Downloaded; it is being read into memory."""
    error: Rank37Error | None = None


class _TellingIngester(Ingester):
    """Says in the terminal's log how each file ended, and wakes who waits for that."""

    wake: Callable[[], None] = staticmethod(lambda: None)

    def ingest(self, path: Path, **options: Any) -> FileOutcome:
        outcome = super().ingest(path, **options)
        _log.info("%s: %s, %s [%.1f s]", outcome.file, outcome.status, outcome.message, outcome.seconds)
        self.wake()
        return outcome


@dataclass(frozen=True, slots=True)
class _Serving:
    """What a collection has of its own for its questions; replaced as a whole, so that its parts always fit."""

    embedder: Embedder
    index: Index
    own_rerankers: tuple[Reranker, Reranker] | None
    """None: those that all collections share."""


class Workspace:
    """One open collection. Safe to use from any thread; `engines` can change between two questions."""

    def __init__(self, library: Library, settings: Settings, embedder: Embedder, *, with_samples: bool) -> None:
        """Open the collection that the settings name; `Library.open` is the way to get one."""
        self.library = library
        self.settings = settings
        self.reindexing: Reindexing | None = None
        """The latest re-indexing of this process, under way or over; None: none, or it was dismissed."""
        self._reindex_lock = threading.Lock()
        self._retired: list[Callable[[], object]] = []
        """Close the indexes that do not serve any more: each is, once nobody reads it."""
        self.recorder = open_recorder(settings, watch=library.show_watchers)
        index = open_index(settings, embedder.identity)
        try:
            self._serving = _Serving(embedder, index, _own_rerankers(settings, library.llm, index))
            self.ingester = _TellingIngester.from_settings(settings, embedder, index)
            self.ingester.wake = library.ahead.wake
            self.queue = IngestQueue(self.ingester, settings.collection_dir / "uploads")
        except BaseException:
            index.close()
            raise
        if with_samples:
            n_samples = queue_samples(self.queue, index, settings.collection_dir)
            if n_samples:
                _log.info("first start: adding %d sample documents", n_samples)

    @property
    def key(self) -> str:
        """The collection's key."""
        return self.settings.collection

    @property
    def engines(self) -> Engines:
        """What answers questions here, as it is now."""
        serving = self._serving
        reranker, sentence_scorer = serving.own_rerankers or self.library.rerankers
        return Engines(serving.embedder, serving.index, reranker, sentence_scorer, self.library.llm)

    @property
    def index(self) -> Index:
        """What is searched here, as it is now; no model is needed for it."""
        return self._serving.index

    @property
    def embedder_identity(self) -> EmbedderIdentity:
        """The embedder in use, whether it is loaded or not."""
        return self._serving.embedder.identity

    @property
    def policy(self) -> QueryPolicy:
        """The numbers that a question asked now meets. Raises CollectionError where the stored floors can't be read."""
        return self._policy_with(self.engines)

    def ask(
        self,
        question: str,
        *,
        history: Sequence[Turn] = (),
        document_ids: Sequence[str] | None = None,
        listen: Callable[[Event], None] = lambda event: None,
        policy: QueryPolicy | None = None,
        person: str | None = None,
    ) -> Result:
        """Answer a question or refuse it, at its turn; nothing is recorded, see `recorder`.

        `person` asks: nothing that another person's questions left behind shows in the result. None: no one in
        particular.

        Raises what `answer_question` raises, and TooManyQuestions.
        """
        with self.library.turns.taken(listen), asked_by(person):
            self.library.await_loading(lambda: listen(Waiting(0)))
            engines = self.engines  # once: the question ends on the index on which it began
            return answer_question(
                question,
                engines,
                policy or self._policy_with(engines),
                history=history,
                document_ids=document_ids,
                listen=listen,
            )

    def submit(self, name: str, data: bytes, person: str | None = None) -> JobView:
        """Queue an upload of a person. Once this returns, the file is on disk and outlives the program.

        Raises: BadInput where it is larger than a file may be, or than what is left of the owner's quota.
        """
        with self.library.room_for(self.key, len(data), person):
            return self.queue.submit(name, data)

    def delete_document(self, document_id: str) -> None:
        """Remove a document, and its words from the questions asked so far. Raises Rank37Error with the remedy."""
        # First its words: if that fails the document is still there, so that deleting can be tried again.
        self.recorder.forget_document(document_id)
        self.ingester.delete(document_id)

    def reindex(self, choice: EmbedderChoice | None = None) -> Reindexing:
        """Begin a new index with an embedder (None: the one in use); this one answers until that is whole.

        Raises:
            BadInput: It is being re-indexed already, lies on a Qdrant server, or chunks can't be so long.
            ModelUnavailable: The embedder is not on this machine, or can't be loaded.
            CollectionError: Original files are missing.
        """
        if self.settings.qdrant_url:
            raise BadInput(
                f"collection {self.key!r} lies on a Qdrant server, which other programs may write to: it can't be "
                "re-indexed in its place; start with another collection and embedder (RANK37_COLLECTION, "
                "RANK37_EMBEDDER) and add the files to it"
            )
        with self._reindex_lock:
            if self.is_reindexing:
                raise BadInput(f"collection {self.key!r} is being re-indexed already: wait for its end, or cancel that")
            wanted = choice or embedder_choice(self.settings)
            embedder = self.library.embedder_of(wanted)
            pinned = pinned_choice(wanted, embedder)
            settings = pinned.over(self.settings)
            Cutter.from_settings(settings, embedder)  # says now what can't be
            self._check_originals()
            self.reindexing = Reindexing(
                settings,
                embedder,
                pinned,
                ingester=self.ingester,
                take_over=lambda index, at_last: self._serve_from(index, embedder, pinned, at_last),
            )
            atexit.register(self._stop_work)
            self.reindexing.start()
            return self.reindexing

    @property
    def is_reindexing(self) -> bool:
        """Whether a new index is being made."""
        reindexing = self.reindexing
        return reindexing is not None and reindexing.view().state == "running"

    @property
    def stopped_reindexing(self) -> EmbedderChoice | None:
        """The embedder of a re-indexing that did not end; re-indexing with it continues. None: there is none."""
        return None if self.is_reindexing else stopped_choice(self.settings.collection_dir)

    def discard_reindexing(self) -> None:
        """Forget how the latest re-indexing ended, with what one that did not come to its end has made."""
        with self._reindex_lock:
            if not self.is_reindexing:
                self.reindexing = None
                discard_begun(self.settings.collection_dir)

    def close(self) -> None:
        """Stop the queue and release the collection. Files in line are taken up by the next start."""
        atexit.unregister(self._stop_work)
        self._stop_work()
        for close_retired in self._retired:
            with suppress(Rank37Error):  # it serves no more
                close_retired()
        self._serving.index.close()
        self.recorder.close()

    def _stop_work(self) -> None:
        reindexing = self.reindexing
        if reindexing is not None:
            reindexing.stop()
        self.queue.close()  # a new index waits for the file in work
        if reindexing is not None:
            reindexing.wait(STOP_LIMIT_S)

    def _policy_with(self, engines: Engines) -> QueryPolicy:
        return policy_for(self.settings, engines.reranker, engines.embedder)

    def _check_originals(self) -> None:
        missing = [
            stored.document.source
            for stored in self._serving.index.documents()
            if stored.state == "ready" and not self.ingester.original(stored.document.id).exists()
        ]
        if missing:
            more = f" and {len(missing) - NAMES_TOLD} more" if len(missing) > NAMES_TOLD else ""
            raise CollectionError(
                f"the original files of {', '.join(missing[:NAMES_TOLD])}{more} are not kept, so that they can't be "
                "indexed again: add them again, or delete these documents, then re-index"
            )

    def _serve_from(
        self, index: Index, embedder: Embedder, choice: EmbedderChoice, at_last: Callable[[], None]
    ) -> None:
        """Answer from another index from now on; a question that has begun ends on the earlier one.

        Nobody adds or deletes meanwhile. `at_last` is called once nothing can fail any more; if it does, nothing has
        changed.
        """
        with self.library.changing():
            settings, earlier = choice.over(self.settings), self._serving.index
            serving = _Serving(embedder, index, _own_rerankers(settings, self.library.llm, index))
            moved = _TellingIngester.from_settings(settings, embedder, index)
            folder = settings.collection_dir
            home = homes_of(folder)[0]
            at_last()
            self.settings, self._serving = settings, serving
            self.ingester.move_to(moved)
            self.library.ahead.wake()
            self._retired.append(earlier.close_when_unused(lambda: _drop(folder, home)))


def _own_rerankers(settings: Settings, llm: LLM | None, index: Index) -> tuple[Reranker, Reranker] | None:
    return open_rerankers(settings, llm=llm, index=index) if scores_by_index(settings) else None


def _load(embedder: Embedder) -> None:
    _ = embedder.info  # a model that is loaded at its first use is loaded for that


def _drop(folder: Path, home: Path) -> None:
    try:
        drop_earlier(folder, home)
    except OSError:  # the next start tries again
        _log.exception("the earlier index in %s was not removed", home)


class Library:
    """The collections of a data folder and the models that they share. Safe to use from any thread."""

    def __init__(self, settings: Settings, *, models_later: bool = False) -> None:
        """Load the embedder and open the collection that the settings name. Raises Rank37Error with the remedy.

        With `models_later`, an embedder that is known before it is loaded is loaded by `begin_loading`, or by the first
        who needs it.
        """
        self.settings = settings
        self._models_later = models_later
        self._lock = threading.RLock()
        self._quota_lock = threading.Lock()
        self.turns = Turns(settings.at_work, settings.waiting)
        self.ahead = ReadAhead(self._loaded_reranker, self._indexes, self._is_busy)
        self.optimizing = Optimizing(self._indexes, self._is_busy, settings.optimize_from)
        self._open: dict[str, Workspace] = {}
        self.store: CollectionStore = open_collection_store(settings)
        self.chats: ChatStore = open_chat_store(settings)
        self._embedder_lock = threading.Lock()
        self._embedders: weakref.WeakValueDictionary[EmbedderChoice, Embedder] = weakref.WeakValueDictionary()
        """Those that are in use: the last collection that uses one lets it go."""
        first = self._embedder_of_collection(settings)
        self.llm: LLM | None = open_llm(settings, first)
        self._rerankers = Loading(self._open_rerankers)
        self.models = Loading(self._load_models)
        """All models of the collection that the settings name, as far as `begin_loading` or a `get` has come."""
        self._loader: threading.Thread | None = None
        self._loader_lock = threading.Lock()
        self._is_closed = False
        self.watchers: list[Callable[[StoredTrace], None]] = []
        """Are shown every question that is asked here, however it ended: for counting."""
        self.fetch: FetchProgress | None = None
        """None: no download has been asked for, or it is done."""
        self._fetch_lock = threading.Lock()
        try:
            self._finish_interrupted_deletions()
            self._note_unlisted()
            self.open(settings.collection)
        except BaseException:
            self.close()
            raise

    @property
    def rerankers(self) -> tuple[Reranker, Reranker]:
        """The reranker of passages and the one of sentences that all collections share, loaded at the first use."""
        loading = self._rerankers
        was_loaded, rerankers = loading.state == "loaded", loading.get()
        if not was_loaded:
            self.ahead.wake()
        return rerankers

    def begin_loading(self) -> None:
        """Load the models in the background unless that is done or under way; after a failure, once more."""
        with self._loader_lock:
            is_begun = self._loader is not None and self.models.state != "failed"
            if self._is_closed or is_begun or self.models.state in ("loading", "loaded"):
                return
            self.models = Loading(self._load_models)
            self._loader = threading.Thread(target=self._load_in_background, name="load-models", daemon=True)
            self._loader.start()

    def await_loading(self, look: Callable[[], object]) -> None:
        """Wait until what `begin_loading` began is over; nothing where that was not called.

        `look` is called now and then meanwhile; what it raises ends the waiting. Raises what loading raises.
        """
        if self._loader is not None:
            self.models.get(look)

    def show_watchers(self, stored: StoredTrace) -> None:
        """Show a question that is over to all who watch."""
        for watch in tuple(self.watchers):
            watch(stored)

    def workspaces(self) -> list[Workspace]:
        """The collections that are open in this process by now."""
        with self._lock:
            return list(self._open.values())

    def collections(self, person: str | None = None) -> list[CollectionCard]:
        """The collections that a person may use, by title. None: no one signs in here. Raises LibraryUnavailable."""
        return [card for card in self.store.cards() if card.is_open_to(person)]

    def open(self, key: str | None = None, person: str | None = None) -> Workspace:
        """An open collection; None: the one that the settings name.

        Raises:
            BadInput: There is none of that key that the person may use; which of both, it does not say.
            Rank37Error: It can't be opened.
        """
        card = self._card(key or self.settings.collection, person)
        with self._lock:
            if card.key not in self._open:
                settings = self.settings.model_copy(update={"collection": card.key})
                first = card.key == self.settings.collection
                embedder = self._embedder_of_collection(settings)
                own = settings_of_collection(settings)
                self._open[card.key] = Workspace(self, own, embedder, with_samples=first)
                self.ahead.wake()
            return self._open[card.key]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While the block runs, no collection is opened or deleted, and no other settings come into use."""
        with self._lock:
            yield

    def embedder_of(self, choice: EmbedderChoice) -> Embedder:
        """An embedder, loaded once for all that use it. Raises ModelUnavailable or BadInput with the remedy."""
        embedder = self._embedder_of(choice)
        _load(embedder)
        return embedder

    def reindex(self, key: str, choice: EmbedderChoice | None = None, person: str | None = None) -> Reindexing:
        """Begin a new index of a collection; see `Workspace.reindex`. Raises BadInput where it is not the person's."""
        return self.open(self._managed(key, person).key, person).reindex(choice)

    @contextmanager
    def room_for(self, key: str, n_bytes: int, person: str | None = None) -> Iterator[None]:
        """While the block runs, so many bytes fit in the quota of the collection's owner, and nobody takes them.

        What counts is the original files of all collections of the owner, whoever added them, and those in line.

        Raises: BadInput where they don't fit, or where there are quotas and the collection is no one's.
        """
        card, limit_mb = self._card(key, person), self.settings.quota_mb
        if limit_mb is None or (not card.owner and person is None):
            yield
            return
        if not card.owner:
            raise BadInput(
                f"the collection {card.title!r} is no one's, so no one's quota has room for the file "
                f"(RANK37_QUOTA_MB = {limit_mb:g}): add it to a collection of your own"
            )
        with self._quota_lock:
            folder = self.settings.data_dir / "collections"
            owned = [other.key for other in self.store.cards() if other.owner == card.owner]
            n_used = sum(disk_bytes(folder / own / part) for own in owned for part in ("files", "uploads"))
            if n_used + n_bytes > limit_mb * 1e6:
                raise BadInput(
                    f"the file has {n_bytes / 1e6:.1f} MB and {card.owner}'s collections hold {n_used / 1e6:.1f} MB of "
                    f"files already, the limit is {limit_mb:g} MB (RANK37_QUOTA_MB): delete documents that are not "
                    "needed, or ask for a higher limit"
                )
            yield

    def create(self, title: str, person: str | None = None) -> CollectionCard:
        """Make an empty collection, the person's own. Raises BadInput for a title that can't be used."""
        title = checked_title(title)
        with self._lock:
            cards = self.store.cards()
            self._refuse_taken(title, cards, person)
            taken = {card.key for card in cards}
            # A number that counts up would tell that others have a collection of such a title.
            key = _new_key(title, taken) if person is None else f"{_new_key(title, set())}-{uuid4().hex[:8]}"
            return self.store.add(key, title, owner=person or "")

    def rename(self, key: str, title: str, person: str | None = None) -> CollectionCard:
        """Give a collection another title. Raises BadInput for an unusable title, or where it is not the person's."""
        card = self._managed(key, person)
        title = checked_title(title)
        with self._lock:
            self._refuse_taken(title, [other for other in self.store.cards() if other.key != card.key], person)
            return self.store.rename(card.key, title)

    def share(self, key: str, members: Sequence[str], person: str | None = None) -> CollectionCard:
        """Say who else may use a collection. Raises BadInput where it is not the person's."""
        card = self._managed(key, person)
        if not card.owner and person is not None:
            raise BadInput(f"the collection {card.title!r} is no one's and open to everyone: share one of your own")
        return self.store.share(card.key, owner=card.owner, members=members)

    def delete(self, key: str, person: str | None = None) -> None:
        """Delete a collection with its documents, chats, questions, labels and floors.

        Raises:
            BadInput: It is not the person's, or the one that the settings name, which the app always has open.
            Rank37Error: Something of it can't be deleted: try again.
        """
        card = self._managed(key, person)
        if card.key == self.settings.collection:
            raise BadInput(
                f"the collection {card.title!r} is the one that the app starts with (RANK37_COLLECTION): delete its "
                "documents instead, or start with another"
            )
        with self._lock:
            workspace = self._open.get(card.key)
        if workspace is not None and workspace.reindexing is not None:
            workspace.reindexing.cancel()  # it may wait for the lock
            workspace.reindexing.wait(STOP_LIMIT_S)
        with self._lock:
            workspace = self._open.pop(card.key, None)
            if workspace is not None:
                workspace.close()
            settings = self.settings.model_copy(update={"collection": card.key})
            recorder = open_recorder(settings)
            try:
                traces = recorder.store()
                if traces is not None:
                    traces.delete_all(collection=card.key)
            finally:
                recorder.close()
            self.chats.delete_all(collection=card.key)
            drop_collection(settings)
            leaving = _aside(settings.collection_dir)
            floors = floor_store(settings)
            for floor in floors.of_collection(card.key):
                floors.remove(floor.scope)
            self.store.remove(card.key)
        if leaving is not None:
            shutil.rmtree(leaving, ignore_errors=True)

    def swap(self, settings: Settings, *, llm: bool = False, rerankers: bool = False) -> None:
        """Use other settings from now on; what they change of the engines is opened first, and nothing on a failure.

        Args:
            settings: Of the same data folder, collection, embedder and index.
            llm: The LLM changes.
            rerankers: The rerankers change.

        Raises:
            Rank37Error: An engine can't be opened; the old ones stay in use.
        """
        with self._lock:
            new_llm = open_llm(settings, self._embedder_of_collection(settings)) if llm else self.llm
            own = {
                key: open_rerankers(settings, llm=new_llm, index=workspace._serving.index)
                for key, workspace in self._open.items()
                if rerankers and scores_by_index(settings)
            }
            shared = self._rerankers
            if rerankers and not own:
                shared = Loading.done(open_rerankers(settings, llm=new_llm))
            self.settings, self.llm, self._rerankers = settings, new_llm, shared
            for key, workspace in self._open.items():
                own_embedder = embedder_choice(workspace.settings)
                workspace.settings = own_embedder.over(settings.model_copy(update={"collection": key}))
                if rerankers:
                    workspace._serving = replace(workspace._serving, own_rerankers=own.get(key))
            self.ahead.wake()

    def close(self) -> None:
        """Release everything. Idempotent."""
        self.ahead.close()
        self.optimizing.close()
        with self._loader_lock:
            self._is_closed = True
        if self._loader is not None:
            self._loader.join(LOADING_LIMIT_S)
        with self._lock:
            workspaces = list(self._open.values())
            self._open.clear()
        for workspace in workspaces:
            workspace.close()
        self.chats.close()
        self.store.close()

    def fetch_default_reranker(self) -> None:
        """Download the default reranker in the background and use it from then on. Once at a time."""
        with self._fetch_lock:
            if self.fetch is not None and self.fetch.error is None:
                return
            self.fetch = FetchProgress()
        threading.Thread(target=self._fetch, name="fetch-reranker", daemon=True).start()

    def _fetch(self) -> None:
        def progress(done: int, total: int) -> None:
            self.fetch = FetchProgress(done, total)

        try:
            fetch_model(progress=progress)
            self.fetch = FetchProgress(is_loading=True)
            self.swap(self.settings, rerankers=True)
        except Rank37Error as error:
            _log.warning("the default reranker was not fetched: %s", error)
            self.fetch = FetchProgress(error=error)
            return
        except Exception as error:
            _log.exception("the default reranker was not fetched")
            self.fetch = FetchProgress(error=Rank37Error(f"The download failed ({type(error).__name__}): see the log."))
            return
        self.fetch = None
        _log.info("the reranker is now %s", self.rerankers[0].info.name)

    def _loaded_reranker(self) -> Reranker | None:
        loading = self._rerankers
        return loading.get()[0] if loading.state == "loaded" else None

    def _open_rerankers(self) -> tuple[Reranker, Reranker]:
        with self._lock:
            settings, llm = self.settings, self.llm
            embedders = [workspace._serving.embedder for workspace in self._open.values()]
        for embedder in embedders:
            _load(embedder)  # first: no two threads import the model libraries at a time
        return open_rerankers(settings, llm=llm)

    def _load_models(self) -> None:
        _ = self.open().engines.infos

    def _load_in_background(self) -> None:
        try:
            self.models.get()
        except Rank37Error as error:
            _log.warning("the models are not loaded: %s", error)  # the pages say so as well
        except Exception:
            _log.exception("the models are not loaded")
        # What was loaded stays: no collection of garbage looks at it again. What an earlier library left may go.
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def _indexes(self) -> list[Index]:
        return [workspace._serving.index for workspace in self.workspaces()]

    def _is_busy(self) -> bool:
        return self.turns.is_anyone_here or any(
            workspace.is_reindexing or not workspace.queue.wait(0) for workspace in self.workspaces()
        )

    def _embedder_of(self, choice: EmbedderChoice) -> Embedder:
        with self._embedder_lock:
            embedder = self._embedders.get(choice)
            if embedder is None:
                embedder = self._open_embedder(choice)
                # The same model may have been loaded under its revision.
                embedder = self._embedders.setdefault(pinned_choice(choice, embedder), embedder)
                self._embedders[choice] = embedder
            return embedder

    def _open_embedder(self, choice: EmbedderChoice) -> Embedder:
        settings = choice.over(self.settings)
        return open_embedder_later(settings) if self._models_later else open_embedder(settings)

    def _embedder_of_collection(self, settings: Settings) -> Embedder:
        return open_collection_embedder(settings, lambda own: self._embedder_of(embedder_choice(own)))

    def _card(self, key: str, person: str | None) -> CollectionCard:
        card = self.store.card(key)
        if card is None or not card.is_open_to(person):
            raise BadInput(f"there is no collection {key!r}, or it is not yours: choose another")
        return card

    def _managed(self, key: str, person: str | None) -> CollectionCard:
        card = self._card(key, person)
        if not card.is_managed_by(person):
            raise BadInput(f"the collection {card.title!r} is {card.owner}'s: only its owner can change it")
        return card

    def _refuse_taken(self, title: str, cards: Sequence[CollectionCard], person: str | None) -> None:
        if any(card.title.casefold() == title.casefold() and card.is_open_to(person) for card in cards):
            raise BadInput(f"there is a collection {title!r} already: take another title")

    def _note_unlisted(self) -> None:
        """List the collections that `python -m ingest --collection` or an earlier version made."""
        check_collection_name(self.settings.collection)
        known = {card.key for card in self.store.cards()}
        folder = self.settings.data_dir / "collections"
        found = [path.name for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
        for key in dict.fromkeys([self.settings.collection, *found]):
            if key not in known and COLLECTION_NAME.fullmatch(key) and not NOT_PEOPLES.match(key):
                self.store.add(key, key)

    def _finish_interrupted_deletions(self) -> None:
        for leaving in (self.settings.data_dir / "collections").glob(f"{LEAVING}*"):
            shutil.rmtree(leaving, ignore_errors=True)


def checked_title(title: str) -> str:
    """The title without surplus white space. Raises BadInput for an empty or too long one, or control characters.

    >>> checked_title("  Insurance   contracts ")
    'Insurance contracts'
    """
    title = " ".join(title.split())
    if not title:
        raise BadInput("a collection needs a title: type one")
    if len(title) > TITLE_CHARACTERS:
        raise BadInput(f"the title has {len(title)} characters, the limit is {TITLE_CHARACTERS}: shorten it")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") for character in title):
        raise BadInput(f"the title {title!r} has characters that can't be seen: type it anew")
    return title


def _new_key(title: str, taken: set[str]) -> str:
    """A key that can be a folder, from the title's letters where it has Latin ones.

    >>> _new_key("Insurance contracts", {"documents"}), _new_key("Verträge!", {"vertrage"})
    ('insurance-contracts', 'vertrage-2')
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48].strip("-")
    if not base or NOT_PEOPLES.match(base):
        return f"collection-{uuid4().hex[:8]}"
    numbered = (base if number == 1 else f"{base}-{number}" for number in range(1, len(taken) + 2))
    return next(key for key in numbered if key not in taken)


def _aside(folder: Path) -> Path | None:
    """Move a folder out of the way in one step, so that nothing half deleted is ever opened; None if there is none."""
    if not folder.exists():
        return None
    leaving = folder.with_name(f"{LEAVING}{uuid4().hex}")
    try:
        folder.rename(leaving)
    except OSError as error:
        raise CollectionError(
            f"{folder} can't be deleted ({error.strerror or error}): change its rights and try again"
        ) from error
    return leaving
