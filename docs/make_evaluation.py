"""Write docs/evaluation.md: run the evaluation's commands over a folder of sets, keep their JSON, make a page of it.

    python docs/make_evaluation.py SETS [--limit N] [--answers NAME...] [--noise NAME...]
    python docs/make_evaluation.py                       # only the page, from the JSON files that are there

The page holds nothing but what the JSON files in docs/evaluation/ hold. A command whose JSON is there is not run again;
delete the file to measure anew. It measures nothing itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rag.evaluation.noise_command import noise_table  # noqa: E402  # the checkout's own, installed or not
from rag.evaluation.sets import LANGUAGE_CODES, set_name  # noqa: E402
from rag.evaluation.tables import Table, as_markdown, report_tables, summary_tables  # noqa: E402
from rag.json_lines import plain_or_zipped, read_rows  # noqa: E402

SECTIONS = {
    "passages": "Sets of passages in English",
    "pooled": "The same sets in one index",
    "languages": "Other languages",
    "pdfs": "From the PDFs up",
    "noise": "Noise in the context: what reranking and a floor are worth",
}
INTRODUCTIONS = {
    "passages": "Each passage of a set is one chunk, and each set has an index of its own. What recall did not find "
    "counts against both rankings. Times are of a machine that did other work meanwhile.",
    "pooled": "The passages of all English sets together: more to choose from, and more that is nearly right. A "
    "question of one set is no longer to be refused by an index that holds that set: those are left out.",
    "languages": "The embedded models learnt from English: this is how far they carry. Where a set is there in several "
    "languages, its English part is here too, to compare with.",
    "pdfs": "The PDFs are ingested as a person's own would be; a hit is the page that the label names.",
    "noise": "Each question is ranked once and answered from four contexts.",
}
NON_LATIN_SHARE = 0.3
"""From which share of letters beyond Latin on questions are taken to be in another language."""


@dataclass(frozen=True)
class Job:
    """A command to run."""

    name: str
    """Of its JSON file."""
    section: str
    folders: tuple[Path, ...]
    """The labelled set, or those that are pooled."""
    shown: str
    """The sets as the page names them: SETS/nq."""
    command: str
    """evaluate or noise."""
    options: tuple[str, ...]

    @property
    def text(self) -> str:
        """The command as a person would type it."""
        return " ".join(["python", "-m", "rag", self.command, self.shown, *self.options, "--json"])


def find_sets(sets: Path) -> Iterator[Path]:
    """The folders of labelled sets in a folder, and in the folders in it, by name."""
    for folder in sorted(path for path in sets.iterdir() if path.is_dir()):
        if _is_set(folder):
            yield folder
        else:
            yield from (path for path in sorted(folder.iterdir()) if path.is_dir() and _is_set(path))


def _is_set(folder: Path) -> bool:
    return any(plain_or_zipped(folder, name) for name in ("corpus.jsonl", "questions.jsonl"))


def section_of(folder: Path) -> str:
    """Where a set belongs: with the PDFs, with the other languages, or with the English passages."""
    if plain_or_zipped(folder, "questions.jsonl"):
        return "pdfs"
    queries = plain_or_zipped(folder, "queries.jsonl")
    if folder.name in LANGUAGE_CODES or queries is None:
        return "languages" if queries else "passages"
    letters = [letter for _, row in read_rows(queries) for letter in str(row.get("text")) if letter.isalpha()]
    foreign = sum(letter > "\u024f" for letter in letters)
    return "languages" if foreign > NON_LATIN_SHARE * len(letters) else "passages"


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """The commands to run, in order: every set's evaluation, then the noise experiments."""
    sets = [(folder, f"SETS/{folder.relative_to(options.sets)}") for folder in find_sets(options.sets)]
    if options.samples:
        sets.insert(0, (options.samples, options.samples.name))
    common = [*(["--engines", options.engines] if options.engines else [])]
    common += ["--limit", str(options.limit)] if options.limit else []
    grades = dict(text.rpartition("=")[::2] for text in options.min_relevance)
    jobs = []
    for folder, shown in sets:
        name, section = set_name(folder), section_of(folder)
        own = ["--answers"] if section == "pdfs" or name in options.answers else ["--no-answers"]
        own += _grade(name, grades)
        jobs.append(Job(f"evaluate-{name}", section, (folder,), shown, "evaluate", (*own, *common)))
    english = [(folder, shown) for folder, shown in sets if section_of(folder) == "passages"]
    if options.pool and len(english) > 1:
        folders = tuple(folder for folder, _ in english)
        graded = [f"{set_name(folder)}={grades[set_name(folder)]}" for folder in folders if set_name(folder) in grades]
        own = ["--pool", "--no-answers", *(text for grade in graded for text in ("--min-relevance", grade))]
        shown = " ".join(shown for _, shown in english)
        jobs.append(Job("evaluate-pooled", "pooled", folders, shown, "evaluate", (*own, *common)))
    for folder, shown in sets:
        name = set_name(folder)
        if folder == options.samples:
            only = ("--only", options.samples_only) if options.samples_only else ()
            jobs.append(Job(f"noise-{name}", "noise", (folder,), shown, "noise", (*only, *common)))
        elif name in options.noise:
            own = _grade(name, grades)
            jobs.append(Job(f"noise-{name}", "noise", (folder,), shown, "noise", (*own, *common)))
    unknown = {*options.answers, *options.noise, *grades} - {set_name(folder) for folder, _ in sets}
    if unknown:
        names = ", ".join(set_name(folder) for folder, _ in sets)
        raise SystemExit(f"no set named {', '.join(sorted(unknown))} in {options.sets}: there are {names}")
    return jobs


def _grade(name: str, grades: Mapping[str, str]) -> list[str]:
    return ["--min-relevance", grades[name]] if name in grades else []


def run(job: Job, results: Path, options: argparse.Namespace) -> bool:
    """Run a command unless its JSON is there; whether that went well. The JSON is written when it is whole."""
    path = results / f"{job.name}.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["command"] == job.text:
        print(f"{job.name}: there already", file=sys.stderr)
        return True
    folders = [str(folder.resolve()) for folder in job.folders]
    arguments = [sys.executable, "-m", "rag", job.command, *folders, *job.options, "--json"]
    arguments += ["--progress"] + (["--data-dir", str(options.data_dir.resolve())] if options.data_dir else [])
    print(f"{job.name}: {job.text}", file=sys.stderr, flush=True)
    started = time.monotonic()
    done = subprocess.run(arguments, stdout=subprocess.PIPE, cwd=ROOT, text=True, check=False)
    if done.returncode:
        print(f"{job.name}: failed with exit status {done.returncode}", file=sys.stderr)
        return False
    if options.questions:
        options.questions.mkdir(parents=True, exist_ok=True)
        (options.questions / f"{job.name}.jsonl").write_text(done.stdout, encoding="utf-8")
    result = {
        "command": job.text,
        "section": job.section,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu_cores": os.cpu_count(),
        "seconds": round(time.monotonic() - started),
        "reports": [_without_questions(json.loads(line)) for line in done.stdout.splitlines()],
    }
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return True


def _without_questions(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures only: the questions' rows are large, and hold texts that are not ours to publish."""
    return {key: value for key, value in report.items() if key != "questions"}


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown, of the kept JSON and nothing else."""
    parts = [
        "# Evaluation",
        "Written by `python docs/make_evaluation.py SETS` from the JSON files in [evaluation/](evaluation/): nothing "
        "on this page was typed. SETS is a folder of labelled sets, which are not part of this project; `data` is. "
        "The [README](../README.md) says what the figures mean.",
    ]
    for section, heading in SECTIONS.items():
        own = [result for result in results if result["section"] == section]
        if not own:
            continue
        parts += [f"## {heading}", INTRODUCTIONS[section]]
        if section in ("passages", "pooled", "languages"):
            reports = [report for result in own for report in result["reports"]]
            parts += [_commands(own), *map(_table, summary_tables(reports)), _engines(reports)]
            continue
        for result in own:
            parts += [f"### {result['reports'][0]['set']}", _commands([result])]
            for report in result["reports"]:
                tables = [noise_table(report)] if section == "noise" else report_tables(report)
                parts += [*map(_table, tables)]
            if section == "noise":
                parts.append(_engines(result["reports"]))
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    return as_markdown(table).rstrip()


def _commands(results: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"{result['command']}    # {result['made_at'][:10]}, {result['cpu_cores']} CPU cores, {_minutes(result)}"
        for result in results
    ]
    return "\n".join(["```", *lines, "```"])


def _minutes(result: Mapping[str, Any]) -> str:
    return f"{result['seconds'] / 60:.0f} minutes" if result["seconds"] >= 90 else f"{result['seconds']} seconds"


def _engines(reports: Sequence[Mapping[str, Any]]) -> str:
    """Each engine once, with revision and precision."""
    lines = []
    for report in reports:
        for info in report["engines"]:
            details = ", ".join(detail for detail in (info["revision"][:12], info["precision"]) if detail)
            lines.append(f"{info['role']} {info['name']}" + (f" ({details})" if details else ""))
    return f"Engines: {'; '.join(dict.fromkeys(lines))}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, write the page; 1 if a command failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sets", type=Path, nargs="?", metavar="SETS", help="folder of labelled sets; none: only the page"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N questions of each kind of each set")
    parser.add_argument("--engines", default="embedded", metavar="NAMES", help="rerankers (embedded)")
    parser.add_argument(
        "--min-relevance", nargs="*", default=[], metavar="NAME=GRADE", help="from which grade on a passage is relevant"
    )
    parser.add_argument("--answers", nargs="*", default=[], metavar="NAME", help="sets of passages to answer from, too")
    parser.add_argument("--pool", action="store_true", help="evaluate the English sets in one index as well")
    parser.add_argument("--noise", nargs="*", default=[], metavar="NAME", help="sets for the noise experiment")
    parser.add_argument("--samples", type=Path, default=ROOT / "data", help="the sample set (data)")
    parser.add_argument("--no-samples", dest="samples", action="store_const", const=None, help="leave the samples out")
    parser.add_argument(
        "--samples-only", default="insurance", metavar="PREFIX", help="sample questions of the noise experiment"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs", help="folder of evaluation.md and evaluation/ (docs)"
    )
    parser.add_argument("--questions", type=Path, metavar="FOLDER", help="keep the whole JSON, questions and all, here")
    parser.add_argument("--data-dir", type=Path, help="where indexes are kept and reused (RANK37_DATA_DIR)")
    options = parser.parse_args(arguments)
    results = options.out / "evaluation"
    results.mkdir(parents=True, exist_ok=True)
    went_well = True
    for job in jobs_of(options) if options.sets else []:
        went_well &= run(job, results, options)
        write_page(options.out)
    write_page(options.out)
    return 0 if went_well else 1


def write_page(out: Path) -> None:
    """Write evaluation.md from the JSON files that are there."""
    files = sorted((out / "evaluation").glob("*.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    (out / "evaluation.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
