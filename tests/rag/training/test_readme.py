"""README.md's commands of training are commands of this version, each on files that are there when it is typed."""

import re
import shlex
from pathlib import Path

import pytest

from rag.__main__ import main

ROOT = Path(__file__).parents[3]
WRITES = ("--out", "--learn", "--held-out")
READS = ("--questions", "--labels", "--groups")
STEPS = ("split", "generate", "mine", "fine-tune", "candidates", "calibrate", "foretell", "average", "promote")


def blocks(text: str) -> list[str]:
    """Code blocks of the section on training, in order."""
    section = re.search(r"\n## Train a reranker on your own documents\n(.*?)\n## ", text, re.DOTALL)
    assert section
    return re.findall(r"```\n(.*?)```", section[1], re.DOTALL)


BLOCKS = blocks((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_each_command_reads_what_lies_there_or_an_earlier_one_wrote(block: str) -> None:
    written: set[str] = set()
    steps = []
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[:4] != ["python", "-m", "rag", "train"]:
            written |= {after for before, after in zip(words, words[1:], strict=False) if before in ("--out", ">")}
            assert all(list(ROOT.glob(word)) for word in words if "/" in word), line
            continue
        step, *rest = words[4:]
        steps.append(step)
        options = [word.startswith("--") for word in rest]
        reads = rest[: options.index(True)]
        for before, after in zip(rest, rest[1:], strict=False):
            if before in READS:
                reads.append(after)
        for name in reads:
            assert name in written or (ROOT / name).is_file(), f"{name} isn't there yet: {line}"
        written |= {after for before, after in zip(rest, rest[1:], strict=False) if before in WRITES}
    assert set(steps) <= set(STEPS)
    assert steps[0] == "split"
    assert steps[-1] == "promote"


@pytest.mark.parametrize("line", [line for block in BLOCKS for line in block.splitlines() if " rag train " in line])
def test_each_command_takes_its_options(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In an empty folder each ends at its first file; an option that it doesn't know would end it with the usage.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK37_DATA_DIR", str(tmp_path / "data"))
    assert main(shlex.split(line)[3:]) != 0
    assert "usage:" not in capsys.readouterr().err
