"""Gives a copy of an embedded index short vectors to look through, in a process of its own.

Each number of a vector gets half a byte beside its four bytes (TurboQuant). A search goes through the short vectors and
rescores `OVERSAMPLING` times as many as are asked for by the full ones. There is no graph (HNSW): over 100,000 made-up
vectors it took 142 s to make and found 97% of the nearest hundred in 9 ms (ef 1,536), where short vectors took 6 s and
found all in 2 ms; one byte a number finds them as well, in twice the time over 300,000. Fewer bits don't pay: over
100,000, two a number find 98.0% where five times as many are rescored and one finds 92.5% at sixteen times, in as much
processor time. It knows neither documents nor the index that the copy is of.

    python -P -m rag.engines.edge_optimizer FOLDER DIMENSION
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from qdrant_edge import (
    Distance,
    EdgeConfig,
    EdgeOptimizersConfig,
    EdgeShard,
    EdgeSparseVectorParams,
    EdgeVectorParams,
    HnswIndexConfig,
    Modifier,
    QuantizationSearchParams,
    SearchParams,
    TurboQuantBitSize,
    TurboQuantQuantizationConfig,
)

from rag.children import end_with, search_path
from rag.durable import make_durable
from rag.engines.qdrant_points import DENSE, SPARSE
from rag.errors import CollectionError

OVERSAMPLING = 3.0
"""As `rag.engines.qdrant_server` asks of a server. Of the nearest hundred among 100,000 made-up vectors, 1 finds 92.7%,
2 finds 99.95% and 3 all; among 5,398 real passages (nq, covidqa, cranfield, pubmedqa), 1 finds 96.4%, 2 and 3 all."""
NICENESS = 10
LOOK_S = 0.1
"""How often the parent looks whether the child has ended, or is not wanted any more."""
ERROR_CHARACTERS = 300


def quick_search() -> SearchParams:
    """How an optimized index is searched; points without short vectors are compared in full."""
    return SearchParams(quantization=QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING))


def optimize_copy(copy: Path, dimension: int, *, stop: Callable[[], object]) -> None:
    """Optimize the index in a folder that nobody has open; `stop` is called again and again and ends it by raising.

    Raises: CollectionError where the process failed: the copy is of no use then.
    """
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "rag.engines.edge_optimizer", str(copy.resolve()), str(dimension)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search_path(), "RANK37_PARENT": str(os.getpid())},
    )
    assert child.stderr is not None
    try:
        with child.stderr:
            while child.poll() is None:
                stop()
                time.sleep(LOOK_S)
            said = child.stderr.read().decode(errors="replace").strip()
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    if child.returncode:
        last = said.splitlines()[-1][:ERROR_CHARACTERS] if said else "it said nothing: most likely it was killed"
        raise CollectionError(
            f"the index in {copy.parent} was not optimized (exit {child.returncode}: {last}): it serves as before; see "
            "that memory and disk are free, then try again (`python -m rag optimize`)"
        )


def main() -> None:
    """Optimize the folder that the command line names."""
    end_with(int(os.environ["RANK37_PARENT"]))
    if hasattr(os, "nice"):
        os.nice(NICENESS)  # questions come first
    optimize_here(Path(sys.argv[1]), int(sys.argv[2]))


def optimize_here(folder: Path, dimension: int) -> None:
    """Optimize the index in a folder in this process, which can do nothing else meanwhile. Durable."""
    shard = EdgeShard.load(str(folder), _config(dimension))
    shard.optimize()
    shard.flush()
    shard.close()
    for path in (*folder.rglob("*"), folder):
        with suppress(PermissionError):  # Windows lets no one open a folder
            make_durable(path)


def _config(dimension: int) -> EdgeConfig:
    quantized = TurboQuantQuantizationConfig(always_ram=True, bits=TurboQuantBitSize.Bits4)
    # m = 0: no graph. Only points that lie in an index of some kind get short vectors, so there must be one.
    none = HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10_000)
    dense = EdgeVectorParams(size=dimension, distance=Distance.Cosine, quantization_config=quantized, hnsw_config=none)
    everything = EdgeOptimizersConfig(
        indexing_threshold=1,  # kB
        default_segment_number=1,
        max_segment_size=2**40,  # kB
        deleted_threshold=0.01,
        vacuum_min_vector_number=1000,
    )
    return EdgeConfig(
        vectors={DENSE: dense},
        sparse_vectors={SPARSE: EdgeSparseVectorParams(modifier=Modifier.Idf)},
        optimizers=everything,
    )


if __name__ == "__main__":
    main()
