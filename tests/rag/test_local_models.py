"""What is on this machine, and how it gets there: against a hub of our own on loopback that speaks the protocol."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from huggingface_hub import constants
from huggingface_hub.hf_api import RepoSibling

from rag.engines import local_models
from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.local_models import (
    content_revision,
    fetch,
    find_model,
    is_on_this_machine,
    local_folder,
    needed_files,
)
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import BadInput, ModelUnavailable
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS, save_cross_encoder, save_embedder

NAME = "house/tiny-reranker"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class SmallHub(ThreadingHTTPServer):
    """Serves one model like the hub: model info, file tree, and files with ETag, commit and ranges."""

    daemon_threads = True

    def __init__(self, folder: Path, name: str = NAME) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.name = name
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and Range of each request."""
        self.authorizations: set[str | None] = set()
        self.break_after_bytes: list[int] = []
        """The next answers with a large file break off after so many bytes."""
        self.damage = False
        self.answer_nothing = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def gets(self, file: str) -> list[str | None]:
        """The Range of each GET of a file."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(f"/{file}")]


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".onnx"))


class _Answer(BaseHTTPRequestHandler):
    server: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server
        path = unquote(urlparse(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        hub.authorizations.add(self.headers.get("Authorization"))
        if hub.answer_nothing:
            time.sleep(30)
        api, resolve = f"/api/models/{hub.name}", f"/{hub.name}/resolve/{COMMIT}/"
        if path in {api, f"{api}/revision/main", f"{api}/revision/{COMMIT}", f"{api}/revision/v1"}:
            siblings = [self._sibling(*file) for file in hub.files().items()]
            self._json({"id": hub.name, "modelId": hub.name, "sha": COMMIT, "siblings": siblings})
        elif path == f"{api}/tree/{COMMIT}":
            self._json([self._entry(*file) for file in hub.files().items()])
        elif path.startswith(resolve) and path.removeprefix(resolve) in hub.files():
            self._file(path.removeprefix(resolve))
        else:
            code = "RevisionNotFound" if path.startswith(f"{api}/revision/") else "RepoNotFound"
            self._json({"error": "not found"}, status=404, headers={"X-Error-Code": code})

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
        if is_large(name):
            sibling["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return sibling

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob}
        if is_large(name):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for header, text in (headers or {}).items():
            self.send_header(header, text)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name: str) -> None:
        content = self.server.files()[name]
        etag = (hashlib.sha256 if is_large(name) else hashlib.sha1)(content).hexdigest()
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        rest = content[start:]
        if is_large(name) and self.server.damage:
            rest = bytes(len(rest))
        if is_large(name) and self.server.break_after_bytes:
            self.wfile.write(rest[: self.server.break_after_bytes.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(rest)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a hub's library that may use the network (the tests' way out ends at loopback)."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(local_models, "DOWNLOAD_PIECE_BYTES", 4096)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder with the by-files that published ones have."""
    folder = save_cross_encoder(tmp_path_factory.mktemp("published") / "tiny", "xlm-roberta")
    for name in (
        "pytorch_model.bin",
        "onnx/model.onnx",
        "openvino/openvino_model.bin",
        "imgs/figure.json",
        "README.md",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode() * 100)
    return folder


@pytest.fixture
def hub(published: Path, tmp_path: Path) -> Iterator[SmallHub]:
    server = SmallHub(shutil.copytree(published, tmp_path / "served"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class TestFetch:
    def test_an_absent_model_becomes_present_and_scores(self, hub: SmallHub) -> None:
        assert not is_on_this_machine(NAME)
        with pytest.raises(ModelUnavailable, match=f"python -m rag models fetch {NAME}"):
            CrossEncoderReranker.load(NAME)

        seen: list[tuple[int, int, int]] = []
        fetched = fetch(
            NAME, progress=lambda done, total: seen.append((done, total, threading.get_ident())), endpoint=hub.endpoint
        )

        assert fetched.revision == COMMIT
        assert is_on_this_machine(NAME)
        asked = len(hub.requests)
        reranker = CrossEncoderReranker.load(NAME, device="cpu")
        assert (reranker.info.name, reranker.info.revision) == (NAME, COMMIT)
        [relevance] = reranker.score("refund?", [Passage("0", CORPUS[4])])
        assert relevance.score is not None
        assert len(hub.requests) == asked, "looking and loading asked the hub"

        done = [one for one, _, _ in seen]
        wanted = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
        total = sum(len(hub.files()[name]) for name in wanted)
        assert done == sorted(done)
        assert len(seen) > 3
        assert seen[-1] == (total, total, threading.get_ident())
        assert {(all_bytes, thread) for _, all_bytes, thread in seen} == {(total, threading.get_ident())}

    def test_only_what_loading_needs_is_downloaded(self, hub: SmallHub) -> None:
        folder = fetch(NAME, endpoint=hub.endpoint).folder
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert names == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}

    def test_a_second_fetch_downloads_nothing(self, hub: SmallHub) -> None:
        fetch(NAME, endpoint=hub.endpoint)
        before = len(hub.requests)
        fetch(NAME, endpoint=hub.endpoint)
        assert not [path for _, path, _ in hub.requests[before:] if "/resolve/" in path]

    @pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
    def test_what_was_fetched_by_a_revision_is_found_by_it(self, hub: SmallHub, revision: str | None) -> None:
        fetch(NAME, revision, endpoint=hub.endpoint)
        assert is_on_this_machine(NAME, revision)
        assert is_on_this_machine(NAME, COMMIT)
        assert is_on_this_machine(NAME)
        assert not is_on_this_machine(NAME, "f" * 40)

    def test_an_embedder_is_fetched_with_its_modules(self, hub: SmallHub, tmp_path: Path) -> None:
        hub.folder = save_embedder(tmp_path / "embedder", "bert")
        fetch(NAME, endpoint=hub.endpoint)
        embedder = SentenceTransformerEmbedder.load(NAME, device="cpu")
        assert embedder.identity.revision == COMMIT
        assert embedder.embed_passages(["refund"]).shape == (1, 32)

    def test_a_broken_connection_is_taken_up_where_it_broke(self, hub: SmallHub, monkeypatch: Any) -> None:
        monkeypatch.setattr(local_models.time, "sleep", lambda seconds: None)
        hub.break_after_bytes = [10_000, 20_000]
        fetch(NAME, endpoint=hub.endpoint)
        assert is_on_this_machine(NAME)
        first, second, third = hub.gets("model.safetensors")
        assert first is None
        # What reached the disk is what came before the break, in whole network pieces.
        assert second is not None
        assert third is not None
        assert 0 < int(second[6:-1]) <= 10_000
        assert int(second[6:-1]) < int(third[6:-1]) <= 30_000

    def test_an_interrupted_fetch_is_not_a_model_and_the_next_goes_on(self, hub: SmallHub) -> None:
        size = len(hub.files()["model.safetensors"])
        stopped_at: list[int] = []

        def stop_halfway(done: int, total: int) -> None:
            if done > size // 2:
                stopped_at.append(done)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch(NAME, progress=stop_halfway, endpoint=hub.endpoint)
        assert not is_on_this_machine(NAME)
        with pytest.raises(ModelUnavailable, match="not on this machine"):
            find_model(NAME)

        seen: list[int] = []
        fetch(NAME, progress=lambda done, total: seen.append(done), endpoint=hub.endpoint)
        assert is_on_this_machine(NAME)
        assert seen[0] >= stopped_at[0]
        assert hub.gets("model.safetensors")[-1] is not None

    def test_a_server_without_ranges_starts_the_file_anew(self, hub: SmallHub, cache: Path) -> None:
        content = hub.files()["model.safetensors"]
        sha256 = hashlib.sha256(content).hexdigest()
        blobs = cache / "models--house--tiny-reranker" / "blobs"
        blobs.mkdir(parents=True)
        (blobs / f"{sha256}.partial").write_bytes(b"other bytes" * 100)
        with pytest.raises(ModelUnavailable, match="arrived damaged"):
            fetch(NAME, endpoint=hub.endpoint)
        fetch(NAME, endpoint=hub.endpoint)
        assert (blobs / sha256).read_bytes() == content

    def test_a_file_that_arrives_damaged_is_never_kept(self, hub: SmallHub) -> None:
        hub.damage = True
        with pytest.raises(ModelUnavailable, match="arrived damaged"):
            fetch(NAME, endpoint=hub.endpoint)
        assert not is_on_this_machine(NAME)
        hub.damage = False
        fetch(NAME, endpoint=hub.endpoint)
        assert is_on_this_machine(NAME)

    def test_two_at_once_download_the_weights_once(self, hub: SmallHub) -> None:
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda _: fetch(NAME, endpoint=hub.endpoint), range(2)))
        assert both[0] == both[1]
        assert len(hub.gets("model.safetensors")) == 1

    def test_the_token_of_the_environment_is_sent(self, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_of-the-house")
        fetch(NAME, endpoint=hub.endpoint)
        assert hub.authorizations == {"Bearer hf_of-the-house"}


@pytest.mark.hub
@pytest.mark.skipif(os.environ.get("RANK37_TEST_HUB") != "1", reason="RANK37_TEST_HUB is not 1")
def test_a_published_reranker_is_fetched_from_the_real_hub() -> None:
    name = "cross-encoder/ms-marco-TinyBERT-L2-v2"
    fetch(name)
    near, far = CrossEncoderReranker.load(name, device="cpu").score(
        "ibuprofen dosage for children", [Passage("near", CORPUS[2]), Passage("far", CORPUS[4])]
    )
    assert near.order > far.order


class TestFetchFails:
    def test_at_once_where_nothing_listens(self) -> None:
        started = time.perf_counter()
        with pytest.raises(ModelUnavailable, match=r"can't be reached.*HF_ENDPOINT.*RANK37_RERANKER"):
            fetch(NAME, endpoint="http://127.0.0.1:9")
        assert time.perf_counter() - started < 10

    def test_within_the_limit_where_the_hub_never_answers(self, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_models, "CONNECT_LIMIT_S", 1.0)
        hub.answer_nothing = True
        started = time.perf_counter()
        with pytest.raises(ModelUnavailable, match="can't be reached"):
            fetch(NAME, endpoint=hub.endpoint)
        assert time.perf_counter() - started < 5

    def test_with_the_name_where_the_hub_has_no_such_model(self, hub: SmallHub) -> None:
        with pytest.raises(ModelUnavailable, match="has no model house/other"):
            fetch("house/other", endpoint=hub.endpoint)

    def test_with_the_revision_where_the_hub_has_no_such_revision(self, hub: SmallHub) -> None:
        with pytest.raises(ModelUnavailable, match=r"has no model house/tiny-reranker \(revision v9\)"):
            fetch(NAME, "v9", endpoint=hub.endpoint)

    def test_with_the_variable_where_the_hub_is_switched_off(
        self, hub: SmallHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE"):
            fetch(NAME, endpoint=hub.endpoint)
        assert hub.requests == []

    def test_with_the_missing_part_where_the_hub_has_no_whole_model(self, hub: SmallHub) -> None:
        (hub.folder / "tokenizer.json").unlink()
        with pytest.raises(ModelUnavailable, match="tokenizer.json"):
            fetch(NAME, endpoint=hub.endpoint)
        for weights in ("model.safetensors", "pytorch_model.bin"):
            (hub.folder / weights).unlink()
        with pytest.raises(ModelUnavailable, match="no weights"):
            fetch(NAME, endpoint=hub.endpoint)

    def test_before_downloading_where_the_disk_is_too_full(
        self, hub: SmallHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local_models.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
        with pytest.raises(ModelUnavailable, match="make room"):
            fetch(NAME, endpoint=hub.endpoint)
        assert hub.gets("model.safetensors") == []

    @pytest.mark.parametrize("name", ["", "a/b/c", "../secret", "two words", "./folder"])
    def test_on_what_cannot_be_a_name(self, name: str) -> None:
        with pytest.raises(BadInput, match="can't be a model's name"):
            fetch(name)


class TestLooking:
    def test_takes_milliseconds_and_no_network(self, hub: SmallHub) -> None:
        fetch(NAME, endpoint=hub.endpoint)
        asked = len(hub.requests)
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            assert is_on_this_machine(NAME, COMMIT)
            assert not is_on_this_machine("BAAI/bge-reranker-v2-m3", "953dc6f6f85a1b2dbfca4c34a2796e7dde08d41e")
            seconds.append((time.perf_counter() - started) / 2)
        assert min(seconds) < 0.05
        assert len(hub.requests) == asked

    def test_an_absent_model_is_refused_at_once(self) -> None:
        started = time.perf_counter()
        with pytest.raises(ModelUnavailable, match="models fetch BAAI/bge-m3 --revision abc"):
            SentenceTransformerEmbedder.load("BAAI/bge-m3", "abc")
        assert time.perf_counter() - started < 5, "the library itself gives up after 70 s"

    @pytest.mark.parametrize("part", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_a_snapshot_without_a_part_is_not_there(self, hub: SmallHub, part: str) -> None:
        folder = fetch(NAME, endpoint=hub.endpoint).folder
        (folder / part).unlink()
        assert not is_on_this_machine(NAME)
        assert local_folder(NAME) is None

    def test_a_snapshot_whose_blob_is_gone_is_not_there(self, hub: SmallHub) -> None:
        folder = fetch(NAME, endpoint=hub.endpoint).folder
        (folder / "model.safetensors").resolve().unlink()
        assert not is_on_this_machine(NAME)

    def test_weights_in_pieces_count_when_all_pieces_are_there(self, tmp_path: Path) -> None:
        folder = save_cross_encoder(tmp_path / "tiny", "bert")
        pieces = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        (folder / "model.safetensors").rename(folder / pieces[0])
        index = {"weight_map": {"a": pieces[0], "b": pieces[1]}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert not is_on_this_machine(str(folder))
        with pytest.raises(ModelUnavailable, match=pieces[1]):
            find_model(folder)
        (folder / pieces[1]).write_bytes(b"")
        assert is_on_this_machine(str(folder))

    def test_a_bi_encoder_without_its_pooling_is_not_there(self, tmp_path: Path) -> None:
        folder = save_embedder(tmp_path / "tiny", "bert")
        assert is_on_this_machine(str(folder))
        shutil.rmtree(folder / "1_Pooling")
        with pytest.raises(ModelUnavailable, match="1_Pooling/config.json is missing"):
            SentenceTransformerEmbedder.load(folder)

    def test_a_bare_name_is_looked_for_under_the_librarys_organization(self) -> None:
        with pytest.raises(ModelUnavailable, match="models fetch sentence-transformers/all-mpnet-base-v2"):
            SentenceTransformerEmbedder.load("all-mpnet-base-v2")
        with pytest.raises(ModelUnavailable, match="models fetch cross-encoder/ms-marco-MiniLM-L6-v2"):
            CrossEncoderReranker.load("ms-marco-MiniLM-L6-v2")

    def test_a_folder_that_is_absent_is_no_name(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no folder on this machine"):
            CrossEncoderReranker.load(tmp_path / "gone")
        assert not is_on_this_machine(str(tmp_path / "gone"))


def files(*names: str) -> list[RepoSibling]:
    return [RepoSibling(rfilename=name) for name in names]


def test_weights_in_pytorch_form_are_taken_where_there_is_no_other() -> None:
    # BAAI/bge-m3 as published: the root has no safetensors.
    settings = [
        "1_Pooling/config.json",
        "config.json",
        "config_sentence_transformers.json",
        "modules.json",
        "sentence_bert_config.json",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    others = [
        ".gitattributes",
        "README.md",
        "colbert_linear.pt",
        "imgs/bm25.jpg",
        "onnx/config.json",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/tokenizer.json",
        "sparse_linear.pt",
    ]
    wanted = [*settings, "pytorch_model.bin"]
    assert {file.rfilename for file in needed_files(files(*wanted, *others))} == set(wanted)


def test_weights_in_pieces_and_of_modules_are_taken() -> None:
    wanted = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    ]
    others = ["pytorch_model-00001-of-00002.bin", "2_Dense/pytorch_model.bin", "model.onnx", "tf_model.h5"]
    assert {file.rfilename for file in needed_files(files(*wanted, *others))} == set(wanted)


def test_a_content_revision_notices_a_change_at_either_end_of_large_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_models, "WHOLE_FILE_BYTES", 1024)
    monkeypatch.setattr(local_models, "SAMPLED_BLOCK_BYTES", 16)
    weights = tmp_path / "model.safetensors"
    contents = [b"a" * 100_000, b"b" + b"a" * 99_999, b"a" * 99_999 + b"b", b"a" * 100_001]
    revisions = []
    for content in contents:
        weights.write_bytes(content)
        revisions.append(content_revision(tmp_path))
    assert len(set(revisions)) == len(contents)
    (tmp_path / "README.md").write_text("words change nothing")
    assert content_revision(tmp_path) == revisions[-1]
