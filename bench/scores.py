"""Do two rerankers agree? Top 5, largest difference of scores, decisions at the floor. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.peers.rerankers import Ranked

TOP = 5


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one reranker's results are from another's over some questions."""

    questions: int
    same_top_5: int
    """Questions whose best five are the same passages, in whatever order."""
    top_5_overlap: float
    """Mean share of the reference's best five that are among the other's."""
    largest_difference: float | None
    """Of all scores; None where one of the two gives none."""
    decisions: int
    """Passages whose score meets the floor."""
    flipped: int | None
    """Those that only one of the two lets pass."""

    def as_json(self) -> dict[str, Any]:
        """With the shares that the goals name."""
        return asdict(self) | {
            "same_top_5_share": self.same_top_5 / self.questions if self.questions else None,
            "flipped_share": self.flipped / self.decisions if self.flipped is not None and self.decisions else None,
        }


def agreement(reference: Sequence[Ranked], other: Sequence[Ranked], *, floor: float) -> Agreement:
    """Compare the results of the same questions; `reference[i]` and `other[i]` are of question i.

    >>> first = Ranked((0, 1), (0.9, 0.5))
    >>> found = agreement([first], [Ranked((0, 1), (0.8, 0.3))], floor=0.4)
    >>> found.same_top_5, round(found.largest_difference, 3), found.flipped
    (1, 0.2, 1)
    """
    overlaps = [
        len(set(one.order[:TOP]) & set(two.order[:TOP])) / min(TOP, len(one.order))
        for one, two in zip(reference, other, strict=True)
    ]
    scored = [
        (one.scores, two.scores)
        for one, two in zip(reference, other, strict=True)
        if one.scores is not None and two.scores is not None
    ]
    pairs = [pair for one, two in scored for pair in zip(one, two, strict=True)]
    return Agreement(
        questions=len(overlaps),
        same_top_5=sum(overlap == 1 for overlap in overlaps),
        top_5_overlap=sum(overlaps) / len(overlaps) if overlaps else 0.0,
        largest_difference=max(abs(one - two) for one, two in pairs) if pairs else None,
        decisions=len(pairs),
        flipped=sum((one >= floor) != (two >= floor) for one, two in pairs) if pairs else None,
    )
