"""What a benchmark ran on and with: processor, memory, threads, versions of libraries. It measures no speed."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "bf16")
"""Those that decide which number format is quick."""

OWN_LIBRARIES = ("torch", "transformers", "sentence-transformers", "qdrant-edge-py", "qdrant-client", "pypdfium2")


def machine() -> dict[str, Any]:
    """The machine in words and numbers, and how busy it was already."""
    import torch

    name, flags = _processor()
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "instructions": [flag for flag in INSTRUCTIONS if flag in flags],
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions(distributions: Sequence[str]) -> dict[str, str]:
    """Installed versions by distribution name; those that are not installed are left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def memory_mb() -> float:
    """What this process holds in memory now."""
    return float(psutil.Process().memory_info().rss / 1e6)


@dataclass
class PeakMemory:
    """The most that this process held in memory while it was watched."""

    before_mb: float
    peak_mb: float


@contextmanager
def watched_memory(interval_s: float = 0.05) -> Iterator[PeakMemory]:
    """Look at this process's memory again and again until the block ends."""
    peak = PeakMemory(memory_mb(), memory_mb())

    def look() -> None:
        peak.peak_mb = max(peak.peak_mb, memory_mb())

    with looking(look, interval_s):
        yield peak
    look()


@contextmanager
def looking(look: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call `look` again and again, in a thread of its own, until the block ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _processor() -> tuple[str, set[str]]:
    """Name and instruction sets, where the system tells them."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor() or platform.machine(), set()
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in path.read_text().splitlines() if ":" in line
    )
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name") or platform.machine(), flags
