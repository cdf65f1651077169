"""Which models are on this machine, where, in which revision; and how to fetch one from the model hub.

Looking never touches the network: a model that is absent is said to be absent at once. Nothing here loads a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import httpx
from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # exported lazily

from rag.errors import BadInput, ModelUnavailable
from rag.ports import Progress

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""A model's name on the hub: `organization/model`, or a bare `model`."""

WHOLE_FILE_BYTES = 128 * 1024 * 1024
"""Files up to this size go into a content revision whole; larger ones by `SAMPLED_BLOCKS` blocks."""
SAMPLED_BLOCKS = 64
SAMPLED_BLOCK_BYTES = 64 * 1024

CONNECT_LIMIT_S = 10.0
"""Longest wait for the hub's first answer, name resolution included."""
READ_LIMIT_S = 20.0
"""Longest wait for a further piece of a file."""
DOWNLOAD_ATTEMPTS = 5
"""How often in a row a broken connection that brought nothing new is taken up again."""
DOWNLOAD_PIECE_BYTES = 1024 * 1024

_WEIGHTS = re.compile(r"(?P<folder>(\d+_\w+/)?)(model|pytorch_model)(-\d+-of-\d+)?\.(?P<form>safetensors|bin)")
_SETTINGS = re.compile(r"(\d+_\w+/)?[^/]+\.(json|txt|model|jinja)")
"""Configuration and tokenizer: at the root, or in a module's folder such as `1_Pooling`."""

_MODULES_WITH_FILES = ("Pooling", "Dense", "LogitScore")
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
    repository = _repository(name)
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


def fetch(
    name: str, revision: str | None = None, *, progress: Progress | None = None, endpoint: str | None = None
) -> LocalModel:
    """Download a model into the hub's local cache; what a broken-off download left is taken up again.

    Only the files that loading needs: configuration, tokenizer, and the weights as safetensors where there are such.
    Weights are checked against the SHA-256 that the hub states.

    Args:
        name: `organization/model`.
        revision: Branch, tag or commit; None is the main branch.
        progress: Called with (bytes done, bytes in all), from the calling thread.
        endpoint: Address of the hub; None is what `HF_ENDPOINT` says, else the public one.

    Raises:
        BadInput: It can't be a name on the hub.
        ModelUnavailable: The hub can't be reached (within `CONNECT_LIMIT_S`), doesn't have it, or the download broke.
    """
    hub_name(name)
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    asked = _within(CONNECT_LIMIT_S, lambda: _ask_hub(name, revision, endpoint))
    if asked is None:
        raise _unreachable(name, endpoint, f"no answer within {CONNECT_LIMIT_S:g} s")
    files = needed_files(asked.siblings or [])
    if not any(_WEIGHTS.fullmatch(file.rfilename) for file in files):
        raise ModelUnavailable(
            f"{name} on {endpoint} has no weights in safetensors or PyTorch form: name another model"
        )
    repository = _repository(name)
    snapshot = repository / "snapshots" / str(asked.sha)
    missing = [file for file in files if not (snapshot / file.rfilename).exists()]
    total_bytes = sum(file.size or 0 for file in files)
    missing_bytes = sum(file.size or 0 for file in missing)
    _check_space(name, missing_bytes)
    done_bytes = total_bytes - missing_bytes
    for file in missing:
        # The hub's own library starts a large file anew after an interruption, so large files are fetched here and
        # laid down where it looks for them. It fetches the small ones.
        if file.lfs is None:
            continue
        url = f"{endpoint}/{name}/resolve/{asked.sha}/{file.rfilename}"
        before = done_bytes

        def file_progress(file_bytes: int, before: int = before) -> None:
            if progress:
                progress(before + file_bytes, total_bytes)

        _fetch_blob(name, url, repository, file.lfs.sha256, file.lfs.size, file_progress)
        done_bytes += file.lfs.size
    disable_progress_bars()
    try:
        snapshot_download(
            name, revision=revision, endpoint=endpoint, cache_dir=cache_folder(), allow_patterns=_names(files)
        )
    except Exception as error:  # connection, disk and protocol errors of three libraries
        raise ModelUnavailable(
            f"the download of {name} broke off ({type(error).__name__}: {error}): run the command again, it goes on "
            "where it stopped"
        ) from error
    folder = local_folder(name, revision)
    if folder is None:
        part = _missing_part(snapshot) if snapshot.is_dir() else "everything"
        raise ModelUnavailable(f"{name} on {endpoint} is no complete model: {part} is missing; name another")
    if progress:
        progress(total_bytes, total_bytes)
    return LocalModel(name, folder, folder.name)


def needed_files(files: Sequence[RepoSibling]) -> list[RepoSibling]:
    """Of a model's files on the hub, those that loading needs: no ONNX, OpenVINO or duplicate weights."""
    weights = [(file, match) for file in files if (match := _WEIGHTS.fullmatch(file.rfilename))]
    with_safetensors = {match["folder"] for _, match in weights if match["form"] == "safetensors"}
    chosen = [
        file for file, match in weights if match["form"] == "safetensors" or match["folder"] not in with_safetensors
    ]
    return [file for file in files if _SETTINGS.fullmatch(file.rfilename)] + chosen


def bf16_is_quick() -> bool:
    """Whether bfloat16 is quick here: a GPU that has it, or a CPU with avx512_bf16 or amx. Imports torch."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def gpu_available() -> bool:
    """Whether models run on a CUDA device here."""
    import torch

    return torch.cuda.is_available()


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
        if not path.is_file() or path.suffix not in {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}:
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


def _repository(name: str) -> Path:
    return cache_folder() / f"models--{name.replace('/', '--')}"


def _names(files: Sequence[RepoSibling]) -> list[str]:
    """As patterns that match these names only."""
    return [re.sub(r"([*?[])", r"[\1]", file.rfilename) for file in files]


def _within(seconds: float, call: Callable[[], ModelInfo]) -> ModelInfo | None:
    """The call's value or error, or None if it takes longer: resolving a name has no time limit of its own."""
    found: list[ModelInfo] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="ask the model hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return found[0] if found else None


def _ask_hub(name: str, revision: str | None, endpoint: str) -> ModelInfo:
    """Which files the hub has, of which commit. Raises ModelUnavailable."""
    wanted = f"{name} (revision {revision})" if revision else name
    try:
        return HfApi(endpoint=endpoint).model_info(
            name, revision=revision, files_metadata=True, timeout=CONNECT_LIMIT_S / 2
        )
    except GatedRepoError as error:
        raise ModelUnavailable(
            f"{wanted} is given only to who accepted its terms: accept them at {endpoint}/{name} and set HF_TOKEN"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelUnavailable(
            f"{endpoint} has no model {wanted}, or it is private: check the name, or set HF_TOKEN"
        ) from error
    except OfflineModeIsEnabled as error:
        raise ModelUnavailable(
            f"{wanted} is not fetched because HF_HUB_OFFLINE is set: unset it, or {_WITHOUT_HUB}"
        ) from error
    except HfHubHTTPError as error:
        raise _unreachable(name, endpoint, f"status {error.response.status_code}") from error
    except Exception as error:  # the hub's library changed its HTTP library between versions
        raise _unreachable(name, endpoint, f"{type(error).__name__}: {error}") from error


_WITHOUT_HUB = (
    "set HF_ENDPOINT to a mirror, or copy the model's folder from another machine and set RANK37_RERANKER (or "
    "RANK37_EMBEDDER) to it"
)


def _unreachable(name: str, endpoint: str, what: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name} can't be fetched: {endpoint} can't be reached ({what}); {_WITHOUT_HUB}")


def _check_space(name: str, needed_bytes: int) -> None:
    existing = next(folder for folder in (cache_folder(), *cache_folder().absolute().parents) if folder.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise ModelUnavailable(
            f"{name} needs {needed_bytes / 1e9:.1f} GB, {existing} has {free_bytes / 1e9:.1f} GB free: make room, or "
            "set HF_HOME to another disk"
        )


def _fetch_blob(name: str, url: str, repository: Path, sha256: str, size: int, progress: Callable[[int], None]) -> None:
    """Fetch one large file into the hub cache's `blobs` folder, where a file is named by its SHA-256.

    Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
    """
    blob = repository / "blobs" / sha256
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(f"{sha256}.partial")
    lock_folder = cache_folder() / ".locks" / repository.name
    lock_folder.mkdir(parents=True, exist_ok=True)
    while True:
        # Another process may be at the same file; then its progress is ours.
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(lock_folder / f"{sha256}.lock", timeout=0.5):
            if not blob.exists():
                _fetch_file(name, url, partial, sha256, size, progress)
                partial.replace(blob)
            return
        with contextlib.suppress(FileNotFoundError):
            progress(partial.stat().st_size)


def _fetch_file(name: str, url: str, path: Path, sha256: str, size: int, progress: Callable[[int], None]) -> None:
    """Fetch a file, going on from what is there already, and check it."""
    attempts_left = DOWNLOAD_ATTEMPTS
    while True:
        before = path.stat().st_size if path.exists() else 0
        try:
            if before < size:
                _fetch_rest(url, path, before, progress)
            break
        except (httpx.HTTPError, OSError) as error:
            advanced = path.exists() and path.stat().st_size > before
            attempts_left = DOWNLOAD_ATTEMPTS if advanced else attempts_left - 1
            rejected = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
            if rejected or not attempts_left or not isinstance(error, httpx.HTTPError):
                raise ModelUnavailable(
                    f"the download of {name} broke off ({type(error).__name__}: {error}): run the command again, it "
                    "goes on where it stopped"
                ) from error
            time.sleep(1.0)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise ModelUnavailable(
            f"a file of {name} arrived damaged (SHA-256 {found[:16]}…, published {sha256[:16]}…): run the command again"
        )


def _fetch_rest(url: str, path: Path, before: int, progress: Callable[[int], None]) -> None:
    headers = {"Accept-Encoding": "identity"}
    token = get_token()
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if before:
        headers["Range"] = f"bytes={before}-"
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=READ_LIMIT_S) as response:
        response.raise_for_status()
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        done = before if resumed else 0
        with path.open("ab" if resumed else "wb") as file:
            for piece in response.iter_bytes(DOWNLOAD_PIECE_BYTES):
                file.write(piece)
                done += len(piece)
                progress(done)


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
