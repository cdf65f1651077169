"""Every value that flows through Rank37, as frozen dataclasses.

Each stage adds a type instead of overwriting a field. This module imports the standard library only and holds no
behaviour beyond what follows from the fields themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SPAN_SEPARATOR = "\n"
"""What joins the page slices of a chunk that crosses a page border."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in points (1/72 inch) on the page *as displayed*.

    The origin is the top left corner of the page after its crop box and rotation are applied; x grows to the right and
    y downwards.
    """

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Word:
    """A run of characters of a page that lies in one box.

    A word that the PDF breaks over two lines is two `Word` values whose spans touch.
    """

    start: int
    """First character, an index into `Page.text`."""
    end: int
    """One past the last character, an index into `Page.text`."""
    box: Box


@dataclass(frozen=True, slots=True)
class Document:
    """A file as the program knows it."""

    id: str
    """Content hash: 32 hexadecimal digits. The same bytes twice are one document."""
    title: str
    """From the metadata, or the file name without its extension."""
    source: str
    """The file name as the person gave it, without any folder."""
    page_count: int


@dataclass(frozen=True, slots=True)
class Page:
    """The text of one page, mended: no line-end hyphens, no ligatures, no control characters.

    Lines of a paragraph are joined by one space; paragraphs, headings, list items and table rows are separated by a
    single line feed.
    """

    document_id: str
    number: int
    """1-based."""
    text: str
    words: tuple[Word, ...] = ()
    """In reading order; empty where boxes were not asked for."""
    width: float = 0.0
    """Points, as displayed."""
    height: float = 0.0
    """Points, as displayed."""


@dataclass(frozen=True, slots=True)
class PageSpan:
    """The characters `[start, end)` of the text of one page."""

    page: int
    """1-based page number."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document that is embedded, recalled, reranked and cited as one."""

    id: str
    """A UUID that follows from the document, the position and the text: the same chunk always has the same id."""
    document_id: str
    title: str
    """Title of the document."""
    heading: str | None
    """The section heading in force at the chunk's start, or None."""
    text: str
    """Verbatim: the page slices of `spans`, joined by `SPAN_SEPARATOR`."""
    spans: tuple[PageSpan, ...]
    """In page order, one a page, never empty."""
    position: int
    """0-based order within the document."""
    n_tokens: int
    """Length of `passage` by the embedder's tokenizer, prompt and special tokens included."""

    @property
    def first_page(self) -> int:
        """1-based number of the page on which the chunk starts."""
        return self.spans[0].page

    @property
    def last_page(self) -> int:
        """1-based number of the page on which the chunk ends."""
        return self.spans[-1].page

    @property
    def passage(self) -> str:
        r"""The text as models see it: title, heading (unless the text starts with it), text.

        >>> span = (PageSpan(1, 0, 9),)
        >>> Chunk("c", "d", "Manual", "Safety", "Keep dry.", span, 0, 9).passage
        'Manual\nSafety\nKeep dry.'
        >>> Chunk("c", "d", "Manual", "Keep dry.", "Keep dry.", span, 0, 9).passage
        'Manual\nKeep dry.'
        """
        lines = [self.title]
        if self.heading and not self.text.startswith(self.heading):
            lines.append(self.heading)
        return "\n".join([line for line in lines if line] + [self.text])

    def page_at(self, offset: int) -> int:
        r"""The 1-based number of the page that holds the character `text[offset]`.

        >>> chunk = Chunk("c", "d", "t", None, "ab\ncd", (PageSpan(4, 7, 9), PageSpan(5, 0, 2)), 0, 3)
        >>> [chunk.page_at(offset) for offset in (0, 1, 3, 4)]
        [4, 4, 5, 5]
        """
        for span in self.spans:
            length = span.end - span.start
            if offset < length:
                return span.page
            offset -= length + len(SPAN_SEPARATOR)
        return self.last_page


@dataclass(frozen=True, slots=True)
class CollectionCard:
    """A collection as the list of collections knows it."""

    key: str
    """Its folder, and its name in Qdrant; it never changes."""
    title: str
    """What people read."""
    owner: str = ""
    """Who may share, rename and delete it; empty: no one's, open to everyone."""
    members: tuple[str, ...] = ()
    """Who else may ask in it and add documents."""
    created_at: str = ""
    """ISO 8601, UTC."""

    def is_open_to(self, person: str | None) -> bool:
        """Whether a person may use it. None: no one signs in here, so everything is open."""
        return person is None or not self.owner or person == self.owner or person in self.members

    def is_managed_by(self, person: str | None) -> bool:
        """Whether a person may share, rename and delete it."""
        return person is None or not self.owner or person == self.owner


DocumentKind = Literal["pdf", "docx", "html", "markdown", "text"]
"""What a file is, by its content. Only a PDF has pages; the others are counted in sections of bounded size."""


@dataclass(frozen=True, slots=True)
class ChatCard:
    """A chat as the list of chats knows it."""

    id: str
    """32 hexadecimal digits."""
    title: str
    """From its first question, or what a person called it."""
    collection: str
    """Key of the collection that it asks."""
    owner: str
    """Whose it is; empty where no one signs in."""
    created_at: str
    """ISO 8601, UTC."""
    changed_at: str
    """ISO 8601, UTC: when it was last asked something."""


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """One question of a chat. What came of it is kept with its trace."""

    id: str
    """32 hexadecimal digits."""
    text: str
    """As the person typed it."""
    document_ids: tuple[str, ...] = ()
    """The documents that were searched; empty: all."""
    trace_id: str = ""
    """Empty while it is on its way, and for good where it was stopped or interrupted."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat with its questions, in the order in which they were asked."""

    card: ChatCard
    questions: tuple[ChatQuestion, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """Someone who may sign in, as the list of people knows them."""

    name: str
    """A name or an e-mail address, in small letters; no two have the same."""
    is_admin: bool = False
    """Whether they may change the settings that hold for all."""
    has_password: bool = True
    """Otherwise they sign in at a provider (OIDC) only."""
    created_at: str = ""
    """ISO 8601, UTC."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of the HTTP API as the list of keys knows it: not the key itself."""

    id: str
    """Twelve hexadecimal digits that stand in the key; no secret."""
    name: str
    """What it is for, in its maker's words; no two keys have the same."""
    person: str = ""
    """As whom it acts; empty: as no one in particular, open to everything."""
    created_at: str = ""
    """ISO 8601, UTC."""
    revoked_at: str = ""
    """ISO 8601, UTC; empty: it is in force."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document in a collection, with the receipt of its ingestion."""

    document: Document
    state: Literal["ingesting", "ready"]
    """Only the chunks of a `ready` document are ever recalled."""
    n_chunks: int = 0
    pages_without_text: tuple[int, ...] = ()
    """1-based numbers of the pages on which no readable text was found."""
    warnings: tuple[str, ...] = ()
    ingested_at: str = ""
    """ISO 8601, UTC."""
    seconds: float = 0.0
    kind: DocumentKind = "pdf"
    size_bytes: int = 0
    """Of the file; 0 where it was not noted."""
    ocr_pages: tuple[int, ...] = ()
    """1-based numbers of the pages whose text was read from their picture."""


@dataclass(frozen=True, slots=True)
class EmbedderIdentity:
    """What a collection remembers of the embedder that made it: vectors of another one never mix with it."""

    name: str
    revision: str
    """A content hash or a hub revision; empty where the model has none."""
    dimension: int


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Which engine is in use in a role, and why: shown on screen and kept in the trace."""

    role: Literal["embedder", "index", "reranker", "llm"]
    name: str
    revision: str = ""
    precision: str = ""
    """Number format that the model computes in, such as float32; empty where that has no meaning."""
    why: str = ""
    """One sentence: why this engine and not another."""
    stands_in_for: str = ""
    """Name of the configured engine that this one replaces because it is unavailable; empty if it is the one."""
    sends_data_to: str = ""
    """Host that questions and passages are sent to; empty if nothing leaves the machine."""


Readiness = Literal["ready", "needs hub", "needs key", "needs service", "needs LLM", "needs training"]


@dataclass(frozen=True, slots=True)
class RerankerState:
    """One kind of reranker in a list of all: whether it can be used here, and what it does with data."""

    setting: str
    """What RANK37_RERANKER would be."""
    what: str
    state: Readiness
    remedy: str
    """How to get it ready; empty if it is."""
    data: str
    """Where questions and passages go."""
    named: bool
    """Whether the settings name it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that recall found."""

    chunk: Chunk
    rank: int
    """1-based, by the fused score."""
    score: float
    """Fused score of recall. It has no fixed range: compare it within one recall only."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What a reranker sees of a chunk."""

    id: str
    """The chunk's id."""
    text: str
    """`Chunk.passage`."""


@dataclass(frozen=True, slots=True)
class Relevance:
    """What a reranker says of one passage."""

    order: float
    """Sort key, higher first. Comparable within one call only. A cross-encoder gives its raw logit, so that passages
    whose scores tie at 1.0 in low precision still have an order."""
    score: float | None
    """Probability-like relevance in [0, 1], which alone can pass the floor. None where no scoring model read the
    passage (beyond the depth of a cascade, or beyond the top of an order-only reranker)."""
    logit: float | None = None
    """The scoring model's raw output before the sigmoid, where it has one."""
    first_score: float | None = None
    """What an earlier, cheaper model of a cascade gave, in [0, 1]."""
    cached: bool = False
    """Whether it was remembered from an earlier question, so that no model ran for it."""
    foretold: bool = False
    """Whether a cheaper part of the reranker alone gave the score, because others were clearly better by that."""
    scored_by: EngineInfo | None = None
    """The engine that gave it, where that is another one than `Reranker.info` says: it stood in for this question."""


@dataclass(frozen=True, slots=True)
class RankedChunk:
    """A candidate after reranking."""

    candidate: Candidate
    rank: int
    """1-based."""
    score: float | None
    """See `Relevance.score`."""
    logit: float | None = None
    first_score: float | None = None
    cached: bool = False
    """See `Relevance.cached`."""
    foretold: bool = False
    """See `Relevance.foretold`."""
    scored_by: EngineInfo | None = None
    """See `Relevance.scored_by`."""
    part: int | None = None
    """1-based number of the part of the question that it was scored for; None where the question has no parts."""

    @property
    def chunk(self) -> Chunk:
        """The chunk itself."""
        return self.candidate.chunk

    @property
    def rank_change(self) -> int:
        """How many places reranking moved the chunk up (positive) or down (negative)."""
        return self.candidate.rank - self.rank


@dataclass(frozen=True, slots=True)
class Citation:
    """The evidence for a statement: words that stand verbatim in a passage."""

    marker: int
    """The n of [n]: 1-based position of the passage among the kept ones."""
    chunk: Chunk
    quote: str
    """Verbatim from `chunk.text` (white space folded)."""
    page: int
    """1-based page on which the quote starts."""
    boxes: tuple[Box, ...] = ()
    """Where the quote lies on that page; empty where it was not located."""


Doubt = Literal["no_citation", "other_figure", "not_verbatim", "not_supported"]
"""Why a statement doesn't hold: it cites nothing; a figure of it stands in no passage that it cites; words that it gave
in quotation marks do not; or those passages score below the floor for it."""


@dataclass(frozen=True, slots=True)
class Check:
    """A statement of a written answer, held against the passages that it cites."""

    start: int
    """First character, an index into `Answer.text`."""
    end: int
    """One past the last character."""
    markers: tuple[int, ...]
    """The passages that it cites."""
    score: float | None
    """Best score of the statement against one of them, in [0, 1]; None where none was given."""
    doubt: Doubt | None = None
    """None: the passages support it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose statements cite passages."""

    text: str
    """Statements with their [n] markers."""
    citations: tuple[Citation, ...]
    """Never empty; in the order in which the markers first appear, a marker can have several quotes."""
    kind: Literal["written", "quoted"]
    """written: by an LLM; quoted: sentences of the passages, verbatim."""
    refused_parts: tuple[str, ...] = ()
    """The parts of the question that no passage covers: they are refused by name beside the answer to the others."""
    checks: tuple[Check, ...] = ()
    """Of the statements that need a citation, in order; empty for a quoted answer, and for one that was not checked."""


RefusalReason = Literal["no_candidates", "below_floor", "uncited", "model_declined"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """No answer, on purpose. A value, never an error: an outage is an exception."""

    reason: RefusalReason
    best_score: float | None
    """Highest reranker score of all candidates; None where nothing was recalled."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message to an LLM."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier question of a chat and what was said to it. Used to understand a follow-up, never as evidence."""

    question: str
    reply: str


@dataclass(frozen=True, slots=True)
class QueryPolicy:
    """The numbers that decide what is recalled, kept and answered."""

    recall_limit: int = 100
    floor: float = 0.4
    """Minimum reranker score, inclusive."""
    answer_limit: int = 5
    """Most passages that an answer can rest on."""
    prompt_tokens: int = 6000
    """Most tokens of a prompt to the LLM, passages included."""
    answer_tokens: int = 800
    """Most tokens of the LLM's reply."""
    split_questions: bool = True
    """Whether a question that asks several things is recalled and scored part by part."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the things that a question asks, recalled and scored by itself."""

    text: str
    """The part as a question that can be understood by itself."""
    best_score: float | None
    """Highest reranker score of its candidates; None where nothing was recalled or scored for it."""
    covered: bool
    """Whether a passage reaches the floor for it. A part that is not covered is refused."""
    candidate_ids: tuple[str, ...] = ()
    """Ids of the chunks that were recalled for it, in recall order."""
    kept_ids: tuple[str, ...] = ()
    """Ids of those kept chunks that reach the floor for it, in its own rank order. A chunk can serve several parts."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that happened to one question: enough to replay the floor without a model."""

    id: str
    asked_at: str
    """ISO 8601, UTC."""
    question: str
    """As the person typed it."""
    query: str
    """As it was recalled and reranked: the question, or its standalone rewrite."""
    floor: float
    answer_limit: int
    engines: tuple[EngineInfo, ...]
    candidates: tuple[Candidate, ...] = ()
    """In recall order; those of several parts in turn, each chunk once."""
    ranked: tuple[RankedChunk, ...] = ()
    """The same chunks in rerank order."""
    kept: tuple[RankedChunk, ...] = ()
    """The first `answer_limit` of `ranked` whose score reaches the floor; with parts, the best of each in turn."""
    prompt: tuple[Message, ...] = ()
    """What the LLM was sent; empty if none was called."""
    reply: str = ""
    """The LLM's raw reply."""
    notes: tuple[str, ...] = ()
    """What a person should know about how this question was handled, one sentence each."""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by stage: rewrite, split, embed, recall, rerank, answer, total."""
    parts: tuple[Part, ...] = ()
    """The parts of the question, in its order; empty where it asks one thing."""

    @property
    def best_score(self) -> float | None:
        """Highest score of all ranked chunks, or None."""
        return max((ranked.score for ranked in self.ranked if ranked.score is not None), default=None)

    @property
    def n_cached(self) -> int:
        """How many of `ranked` were remembered from an earlier question instead of computed."""
        return sum(ranked.cached for ranked in self.ranked)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a question with its trace."""

    outcome: Answer | Refusal
    trace: Trace


@dataclass(frozen=True, slots=True)
class Failure:
    """No outcome: an outage ended the question. Told apart from a refusal wherever traces are counted."""

    error: str
    """The error's class, such as LLMTimeout."""
    message: str


Verdict = Literal["right", "wrong", "wrongly_refused", "good_answer", "bad_answer"]
"""What a person says: right and wrong of a passage, wrongly_refused of a refusal, the others of an answer."""


@dataclass(frozen=True, slots=True)
class Label:
    """A person's judgement of a passage, a refusal or an answer; there is one a trace and passage at a time."""

    trace_id: str
    question: str
    """As it was recalled and reranked: `Trace.query`, which can be understood alone."""
    verdict: Verdict
    given_at: str
    """ISO 8601, UTC."""
    chunk_id: str | None = None
    """The passage that it is about; None: the outcome."""
    passage: str | None = None
    """`Chunk.passage` of it; None as well in a `TraceSummary`, which holds no texts."""
    rank: int | None = None
    """1-based rank of the passage after reranking; None where it was not ranked."""
    score: float | None = None
    """See `Relevance.score`."""


@dataclass(frozen=True, slots=True)
class StoredTrace:
    """A question as it is kept, with what people said of it."""

    trace: Trace
    outcome: Answer | Refusal | Failure
    collection: str
    feedback: str = ""
    """A person's remark in their own words."""
    labels: tuple[Label, ...] = ()
    """In the order in which they were given."""


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """The numbers of a kept trace, without any text of a passage: for floor replay and trends over many questions."""

    id: str
    asked_at: str
    """ISO 8601, UTC."""
    collection: str
    question: str
    floor: float
    answer_limit: int
    outcome: Literal["answer", "refusal", "failure"]
    reason: str
    """The kind of the answer, the reason of the refusal, or the class of the error."""
    scores: tuple[float | None, ...] = ()
    """Of all ranked passages, in rank order; see `Relevance.score`."""
    recall_ranks: tuple[int, ...] = ()
    """1-based rank in recall of each of them, in the same order."""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    engines: tuple[EngineInfo, ...] = ()
    labels: tuple[Label, ...] = ()
    """Without their passages."""

    @property
    def best_score(self) -> float | None:
        """Highest score of all ranked passages, or None."""
        return max((score for score in self.scores if score is not None), default=None)


Stage = Literal["rewrite", "split", "embed", "recall", "rerank", "answer"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Event: the question waits for its turn, or for the models."""

    ahead: int
    """How many have to end first; 1: the next turn is its own; 0: it is its turn, and the models are being loaded."""


@dataclass(frozen=True, slots=True)
class StageStarted:
    """Event: a stage of the pipeline begins."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class RerankProgress:
    """Event: the reranker has scored `done` of `total` passages."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class RankingReady:
    """Event: recall, reranking and the floor are done; the trace holds both rankings."""

    trace: Trace


@dataclass(frozen=True, slots=True)
class ReplyText:
    """Event: a further piece of the LLM's reply, not yet checked for citations."""

    text: str


Event = Waiting | StageStarted | RerankProgress | RankingReady | ReplyText
