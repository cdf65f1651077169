"""What an answer is worth: whether its citations and the kept passages support it, and whether it says the gold answer.

Citation precision and recall as ALCE defines them, faithfulness and context precision as Ragas does; whether a passage
supports a statement is a `Judge`'s verdict. Nothing is asked of the pipeline here, and no mean is taken.

Sources: Gao et al. 2023, "Enabling Large Language Models to Generate Text with Citations", section 4.3,
https://arxiv.org/abs/2305.14627; Es et al. 2023, "Ragas: Automated Evaluation of Retrieval Augmented Generation",
https://arxiv.org/abs/2309.15217.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rag.citations import claims
from rag.evaluation.answer_match import agrees, contains, exact_match, token_f1
from rag.evaluation.judges import Judge
from rag.types import Answer, RankedChunk


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of an answer: a sentence that claims something, or one quote of a quoted answer."""

    text: str
    """Without markers."""
    cited: tuple[int, ...]
    """Numbers of the passages that it cites, each once; empty if it cites none."""


@dataclass(frozen=True, slots=True)
class JudgedStatement:
    """A statement with what the judge says of it."""

    statement: Statement
    recalled: bool
    """Whether the cited passages together support it: ALCE's citation recall of a statement."""
    precise: tuple[bool, ...]
    """For each cited passage, whether it supports the statement alone, or is needed for the others to."""
    faithful: bool
    """Whether the kept passages together support it: Ragas' faithfulness of a statement."""
    unclear: bool
    """Whether the judge gave no readable verdict, counted as a no."""


@dataclass(frozen=True, slots=True)
class Match:
    """An answer beside the gold answers of its question."""

    exact: bool
    """SQuAD's exact match."""
    f1: float
    """SQuAD's F1 of words, in [0, 1]."""
    contained: bool
    """Whether a gold answer's words stand in the answer, in a row."""
    agrees: bool | None
    """See `rag.evaluation.answer_match.agrees`; None where it can't be told from words and numbers."""


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer with everything that is measured of it."""

    text: str
    kind: Literal["written", "quoted"]
    cited_items: tuple[str, ...]
    """The pages (or passages) that the citations quote, each once, as judged items are named."""
    statements: tuple[JudgedStatement, ...]
    match: Match | None
    """None where the question has no gold answer."""

    @property
    def citation_recall(self) -> float:
        """Share of the statements that their own citations support; one without a citation is not supported."""
        return _share([one.recalled for one in self.statements])

    @property
    def citation_precision(self) -> float:
        """Share of the citations that are needed or support alone; 0 where there is none, as in ALCE's own script."""
        return _share([precise for one in self.statements for precise in one.precise])

    @property
    def faithfulness(self) -> float:
        """Share of the statements that the kept passages support."""
        return _share([one.faithful for one in self.statements])

    @property
    def hallucinates(self) -> bool:
        """Whether the kept passages leave at least one statement unsupported."""
        return not all(one.faithful for one in self.statements)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def statements_of(answer: Answer) -> tuple[Statement, ...]:
    """The statements of an answer, in order.

    A written answer's are its sentences that claim something (`rag.citations.claims`). A quoted answer's are its
    quotes: a quote of two sentences has one citation, which vouches for both.
    """
    if answer.kind == "quoted":
        return tuple(Statement(citation.quote, (citation.marker,)) for citation in answer.citations)
    return tuple(Statement(claim.text, claim.cited) for claim in claims(answer.text))


def judge_answer(
    answer: Answer,
    kept: Sequence[RankedChunk],
    judge: Judge,
    *,
    cited_items: Sequence[str] = (),
    gold: Sequence[str] = (),
    question: str = "",
) -> JudgedAnswer:
    """Have every statement judged against what it cites and what was kept, and match the answer with the gold ones.

    Args:
        answer: As the pipeline gave it.
        kept: The passages that it rests on; marker n names the n-th.
        judge: Who says what supports a statement.
        cited_items: The judged items that the citations quote.
        gold: Gold answers, any of which will do.
        question: It may name the unit of a gold number.
    """
    passages = [ranked.chunk.passage for ranked in kept]
    statements = statements_of(answer)
    match = None
    if gold:
        said = "\n".join(statement.text for statement in statements)
        match = Match(
            exact_match(gold, said), token_f1(gold, said), contains(gold, said), agrees(gold, said, question=question)
        )
    return JudgedAnswer(
        text=answer.text,
        kind=answer.kind,
        cited_items=tuple(dict.fromkeys(cited_items)),
        statements=tuple(judge_statement(statement, passages, judge) for statement in statements),
        match=match,
    )


def judge_statement(statement: Statement, passages: Sequence[str], judge: Judge) -> JudgedStatement:
    """The verdicts on one statement; `passages[n - 1]` is what marker n names.

    By ALCE's definition a citation is precise if its statement is supported by all that it cites, and the citation
    supports it alone or the others do not without it.
    """
    cited = {number: passages[number - 1] for number in statement.cited if 1 <= number <= len(passages)}
    unclear = False

    def supported_by(texts: Sequence[str]) -> bool:
        nonlocal unclear
        verdict = judge.supports(statement.text, texts) if texts else False
        unclear |= verdict is None
        return bool(verdict)

    recalled = supported_by(list(cited.values()))

    def is_precise(number: int) -> bool:
        if not recalled or number not in cited:
            return False
        others = [text for other, text in cited.items() if other != number]
        return not others or supported_by([cited[number]]) or not supported_by(others)

    precise = tuple(is_precise(number) for number in statement.cited)
    return JudgedStatement(statement, recalled, precise, supported_by(passages), unclear)


def context_precision(relevant: Sequence[bool]) -> float | None:
    """Ragas' context precision of the kept passages, in order of rank, by labels: their average precision.

    With v the relevance at rank k: `sum of (precision@k * v_k) / number of relevant ones`. None without any passage.
    Here 1/1 at rank 1 and 2/3 at rank 3:

    >>> context_precision([True, False, True]) == (1 / 1 + 2 / 3) / 2
    True
    """
    if not relevant:
        return None
    precisions = [sum(relevant[:k]) / k for k in range(1, len(relevant) + 1) if relevant[k - 1]]
    return sum(precisions) / len(precisions) if precisions else 0.0
