"""Two labelled questions asked as one: what splitting is worth, measured against asking whole and asking each alone.

Both parts are answerable, or one of them is not. It goes up to the floor: no answer is written.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from rag.evaluation.intervals import share_of
from rag.evaluation.passage_index import beginning
from rag.evaluation.rankings import ItemsOf
from rag.evaluation.sets import Question
from rag.evaluation.tables import Table, with_interval
from rag.parts import split_question
from rag.pipeline import rank_passages
from rag.ports import Engines, Progress
from rag.types import Part, QueryPolicy, Trace

Kind = Literal["both answerable", "one answerable"]
Way = Literal["whole", "split", "alone"]
"""The joined question left whole, the same split, and each part asked alone: what splitting can reach at best."""

_ASKS = re.compile(
    r"(?:(?:in|at|on|by|for|to|from|of|with) )?(?:what|which|who|whose|when|where|why|how|is|are|was|were|do|does|did|"
    r"can|could|will|would|should|must|may|has|have|had)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Joined:
    """Two labelled questions as one text."""

    text: str
    kind: Kind
    questions: tuple[Question, Question]
    """In the order of the text."""


@dataclass(frozen=True, slots=True)
class JoinedRow:
    """What became of a joined question in one way of asking."""

    joined: Joined
    way: Way
    n_parts: int
    """How many parts it was split into; 1: it was left whole."""
    right: tuple[bool, bool]
    """For each of its questions: a relevant passage is kept if it is answerable, it is refused if it is not."""


def join_questions(questions: Sequence[Question], *, limit: int | None, seed: int) -> list[Joined]:
    """At most `limit` joined questions of each kind, at random; a smaller limit takes the first of a larger one's.

    Only what begins as a question and asks one thing is joined, and two answerable ones only if no passage is relevant
    to both: "A? B?" or "A, and b?".
    """
    choose = random.Random(seed)
    usable = [one for one in questions if _ASKS.match(one.text) and _asks_one_thing(one.text)]
    answerable = [one for one in usable if one.answerable]
    unanswerable = [one for one in usable if not one.answerable]
    choose.shuffle(answerable)
    choose.shuffle(unanswerable)
    both = [
        pair for pair in zip(answerable[::2], answerable[1::2], strict=False) if not pair[0].relevant & pair[1].relevant
    ]
    one = list(zip(answerable, unanswerable, strict=False))
    return [
        *(_joined(pair, "both answerable", seed) for pair in both[:limit]),
        *(_joined(pair, "one answerable", seed) for pair in one[:limit]),
    ]


def _asks_one_thing(text: str) -> bool:
    """Whether a question is one sentence, and not split by itself."""
    return len(re.findall(r"[.?!](?=\s|$)", text.rstrip(" .?!"))) == 0 and split_question(text) == (text,)


def _joined(pair: tuple[Question, Question], kind: Kind, seed: int) -> Joined:
    choose = random.Random(f"{seed}/{pair[0].id}/{pair[1].id}")
    first, second = pair if choose.random() < 0.5 else pair[::-1]
    one, other = (question.text.strip().rstrip(" .?") for question in (first, second))
    text = f"{one}? {other}?" if choose.random() < 0.5 else f"{one}, and {other[:1].lower()}{other[1:]}?"
    return Joined(text, kind, (first, second))


def ask_joined(
    joined: Sequence[Joined],
    engines: Engines,
    policy: QueryPolicy,
    items_of: ItemsOf,
    *,
    progress: Progress | None = None,
) -> list[JoinedRow]:
    """Ask each joined question in the three ways."""
    rows = []
    whole_policy, split_policy = (replace(policy, split_questions=split) for split in (False, True))
    for done, one in enumerate(joined, start=1):
        text = beginning(one.text, engines.embedder)
        whole = rank_passages(text, engines, whole_policy)
        split = rank_passages(text, engines, split_policy)
        alone = [
            rank_passages(beginning(question.text, engines.embedder), engines, whole_policy)
            for question in one.questions
        ]
        ways: dict[Way, list[Trace]] = {"whole": [whole, whole], "split": [split, split], "alone": alone}
        for way, traces in ways.items():
            first, second = (
                _is_right(question, trace, items_of) for question, trace in zip(one.questions, traces, strict=True)
            )
            rows.append(JoinedRow(one, way, max(1, len(traces[0].parts)), (first, second)))
        if progress:
            progress(done, len(joined))
    return rows


def _is_right(question: Question, trace: Trace, items_of: ItemsOf) -> bool:
    """Whether a relevant passage was kept, or, where none is, the question's own part was refused."""
    if question.answerable:
        return any(question.relevant.intersection(items_of(ranked.chunk)) for ranked in trace.kept)
    part = _part_of(question, trace.parts)
    return not part.covered if part else not trace.kept


def _part_of(question: Question, parts: Sequence[Part]) -> Part | None:
    """The part that shares most words with the question; None where there are no parts."""
    words = _words(question.text)
    return max(
        parts,
        key=lambda part: len(words & _words(part.text)) / len(words | _words(part.text) or {""}),
        default=None,
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def joined_report(name: str, rows: Sequence[JoinedRow], engines: Engines, policy: QueryPolicy) -> dict[str, Any]:
    """Shares of parts rightly covered and refused, each `{"mean", "low", "high"}`, by kind and way of asking."""
    kinds: dict[str, Any] = {}
    for kind in get_args(Kind):
        of_kind = [row for row in rows if row.joined.kind == kind]
        split = [row for row in of_kind if row.way == "split"]
        kinds[kind] = {
            "n": len(split),
            "n_split": sum(row.n_parts > 1 for row in split),
            "rightly_covered": {way: _share(of_kind, way, answerable=True) for way in get_args(Way)},
            "rightly_refused": {way: _share(of_kind, way, answerable=False) for way in get_args(Way)},
        }
    return {
        "set": name,
        "floor": policy.floor,
        "split_by": "LLM" if engines.llm else "rule",
        "engines": [asdict(info) for info in engines.infos],
        "kinds": kinds,
    }


def _share(rows: Sequence[JoinedRow], way: Way, *, answerable: bool) -> dict[str, float | None]:
    right, asked = [], []
    for row in rows:
        if row.way == way:
            own = [
                right
                for question, right in zip(row.joined.questions, row.right, strict=True)
                if question.answerable == answerable
            ]
            right.append(float(sum(own)))
            asked.append(float(len(own)))
    return asdict(share_of(right, asked))


def joined_table(report: dict[str, Any]) -> Table:
    """The report in words and rounded figures."""
    rows = []
    for kind, figures in report["kinds"].items():
        for key, title in (("rightly_covered", "answerable parts covered"), ("rightly_refused", "others refused")):
            if figures["n"] and figures[key]["whole"]["mean"] is not None:
                shares = (with_interval(figures[key][way]) for way in get_args(Way))
                rows.append((f"{kind}: {title}", str(figures["n"]), str(figures["n_split"]), *shares))
    return Table(
        f"Two questions of {report['set']} joined into one, floor {report['floor']:g}, split by "
        f"{'the LLM' if report['split_by'] == 'LLM' else 'rule'}",
        ("", "joined", "split", "asked whole", "asked in parts", "each asked alone"),
        tuple(rows),
        (
            "Covered: a relevant passage is kept. Refused: nothing is kept for it. In brackets: 95% bootstrap "
            "intervals over joined questions.",
        ),
    )
