"""Joins the questions of `own-words.jsonl` with the passages that they are about; see README.md.

    python data/own_words.py SETS --out FOLDER

SETS is a folder of training sets: `NAME.jsonl.gz` with the rows {query, positive, title?} of each source. The passages
are other people's, each set under its licence, so that only their digests are kept here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent
sys.path.insert(0, str(DATA.parent))

from rag.errors import BadInput, Rank37Error  # noqa: E402  # the checkout's own, installed or not
from rag.json_lines import plain_or_zipped, read_rows  # noqa: E402

QUESTIONS = DATA / "own-words.jsonl"
ANSWERED = "answered.jsonl"
UNANSWERED = "unanswered.jsonl"


def digest(passage: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a passage's text.

    >>> digest("The waiting period is 30 days.")
    '66a02ce6f45d12f4'
    """
    return hashlib.sha256(passage.encode()).hexdigest()[:16]


def passages(sets: Path, source: str) -> dict[str, dict[str, str]]:
    """The passages of one source with their titles, by digest. Raises BadInput where the set isn't there."""
    path = plain_or_zipped(sets, f"{source}.jsonl")
    if path is None:
        raise BadInput(f"{sets} holds no {source}.jsonl or {source}.jsonl.gz: name the folder of the training sets")
    return {
        digest(row["positive"]): {"positive": row["positive"], "title": row.get("title") or ""}
        for _, row in read_rows(path)
    }


def joined(questions: Path, sets: Path) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Each question, as a row for `train mine --pairs`, with whether its passage answers it.

    A question that the passage comes near to and doesn't answer has it as `near`, and `answerable` false.

    Raises: BadInput naming the row whose passage isn't in the sets.
    """
    known: dict[str, dict[str, dict[str, str]]] = {}
    for number, row in read_rows(questions):
        source = row["source"]
        if source not in known:
            known[source] = passages(sets, source)
        passage = known[source].get(row["passage"])
        if passage is None:
            raise BadInput(
                f"{questions}, line {number}: no passage of {source} has the digest {row['passage']}: the set in "
                f"{sets} is another edition of it"
            )
        if row["answerable"]:
            yield True, {"query": row["query"], **passage}
        else:
            yield False, {"query": row["query"], "answerable": False, "near": passage["positive"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both files and say how many rows each has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, help="folder of the training sets")
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {ANSWERED} and {UNANSWERED}")
    options = parser.parse_args(arguments)
    try:
        rows = list(joined(QUESTIONS, options.sets))
    except Rank37Error as error:
        print(error, file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    for name, wanted in ((ANSWERED, True), (UNANSWERED, False)):
        chosen = [row for answered, row in rows if answered is wanted]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (options.out / name).write_text(lines, encoding="utf-8")
        print(f"{len(chosen)} questions in {options.out / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
