"""Which models are on this machine, where, in which revision; and how to fetch one from the model hub.

Looking never touches the network: a model that is absent is said to be absent at once. Nothing here loads a model.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from rag.errors import BadInput, ModelUnavailable

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""A model's name on the hub: `organization/model`, or a bare `model`."""

WHOLE_FILE_BYTES = 128 * 1024 * 1024
"""Files up to this size go into a content revision whole; larger ones by `SAMPLED_BLOCKS` blocks."""
SAMPLED_BLOCKS = 64
SAMPLED_BLOCK_BYTES = 64 * 1024

_MODULES_WITH_FILES = ("Pooling", "Dense")
"""Modules of a sentence-transformers model that can't be built without a file of their own."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A complete model on this machine."""

    name: str
    """Its name on the hub, or the folder's own name."""
    folder: Path
    revision: str
    """The hub's commit, or a hash of the folder's content where it came from elsewhere."""


def find_model(name_or_folder: str | Path, revision: str | None = None, *, organization: str = "") -> LocalModel:
    """Locate a model in a folder or in the local hub cache, without any network.

    Args:
        name_or_folder: A folder, or a name on the hub.
        revision: Branch, tag or commit on the hub; None takes the main branch, else the newest complete snapshot. For
            a folder it is ignored: a folder's revision follows from its content.
        organization: Put before a hub name that has none, as sentence-transformers does.

    Raises:
        ModelUnavailable: It isn't here, or only in part; the message names the command that fetches it.
        BadInput: It is neither a folder nor can it be a name on the hub.
    """
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        missing = _missing_part(folder)
        if missing:
            raise ModelUnavailable(f"the folder {str(name_or_folder)!r} holds no complete model: {missing} is missing")
        return LocalModel(folder.resolve().name, folder.resolve(), content_revision(folder))
    name = hub_name(str(name_or_folder), organization=organization)
    snapshot = local_folder(name, revision)
    if snapshot is None:
        wanted = f"{name} (revision {revision})" if revision else name
        with_revision = f" --revision {revision}" if revision else ""
        raise ModelUnavailable(
            f"the model {wanted} is not on this machine: run `python -m rag models fetch {name}{with_revision}`, "
            "or name a folder that holds it"
        )
    return LocalModel(name, snapshot, snapshot.name)


def hub_name(name: str, *, organization: str = "") -> str:
    """The full name on the hub. Raises BadInput for what can't be one, such as the path of a folder that is absent."""
    if not HUB_NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no folder on this machine and can't be a model's name: take organization/model")
    return f"{organization}/{name}" if organization and "/" not in name else name


def is_on_this_machine(name: str, revision: str | None = None) -> bool:
    """Whether a complete copy is in the local hub cache (or `name` is a folder that holds a model). No network."""
    if Path(name).expanduser().is_dir():
        return _missing_part(Path(name).expanduser()) is None
    return bool(HUB_NAME.fullmatch(name)) and local_folder(name, revision) is not None


def local_folder(name: str, revision: str | None = None) -> Path | None:
    """The complete snapshot of a hub model in the local cache, or None. No network.

    A download that broke off leaves a snapshot folder without its last files: that is None.
    """
    repository = cache_folder() / f"models--{name.replace('/', '--')}"
    if revision is not None:
        commits = [_commit_of(repository, revision)]
    else:
        snapshots = (repository / "snapshots").glob("*")
        newest_first = sorted(snapshots, key=lambda snapshot: snapshot.stat().st_mtime, reverse=True)
        commits = [_commit_of(repository, constants.DEFAULT_REVISION), *(snapshot.name for snapshot in newest_first)]
    for commit in commits:
        snapshot = repository / "snapshots" / commit
        if snapshot.is_dir() and _missing_part(snapshot) is None:
            return snapshot
    return None


def cache_folder() -> Path:
    """Where the hub's library keeps its downloads on this machine (`HF_HOME` and `HF_HUB_CACHE` move it)."""
    return Path(constants.HF_HUB_CACHE)


def content_revision(folder: Path) -> str:
    """16 hexadecimal digits that follow from a model folder's weights, configuration and tokenizer.

    Weights above `WHOLE_FILE_BYTES` are sampled evenly, first and last block included: training changes all of a
    model's weights, and a start of the program must not read gigabytes to notice it.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix not in {".safetensors", ".bin", ".json", ".model", ".txt"}:
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            if size <= WHOLE_FILE_BYTES:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            for block in range(SAMPLED_BLOCKS):
                file.seek((size - SAMPLED_BLOCK_BYTES) * block // (SAMPLED_BLOCKS - 1))
                digest.update(file.read(SAMPLED_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def _commit_of(repository: Path, revision: str) -> str:
    """The commit that a branch or tag stood for at the last fetch; anything else is taken for a commit."""
    reference = repository / "refs" / revision
    return reference.read_text().strip() if reference.is_file() else revision


def _missing_part(folder: Path) -> str | None:
    """What a model folder lacks before it can be loaded, in words; None if it is complete."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model")):
        return "the tokenizer (tokenizer.json)"
    for weights in ("model.safetensors", "pytorch_model.bin"):
        if (folder / weights).is_file():
            break
        index = folder / f"{weights}.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text())["weight_map"].values())
            absent = sorted(shard for shard in shards if not (folder / shard).is_file())
            if absent:
                return str(absent[0])
            break
    else:
        return "model.safetensors"
    modules = folder / "modules.json"
    if modules.is_file():
        for module in json.loads(modules.read_text()):
            if module["type"].endswith(_MODULES_WITH_FILES) and not (folder / module["path"] / "config.json").is_file():
                return str(Path(module["path"], "config.json"))
    return None
