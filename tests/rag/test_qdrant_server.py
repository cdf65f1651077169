"""A Qdrant server that is down, slow or answers nonsense is one clear error, and no secret gets on the screen."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from qdrant_client import QdrantClient, models

from rag.engines.qdrant_points import collection_point
from rag.engines.qdrant_server import OVERSAMPLING, ServerIndex, ServerLayout, ServerStore, connect
from rag.errors import BadInput, CollectionError, IndexUnavailable
from tests.contracts.test_index import RANDOM, ingest, recalled_texts

Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, body: str = "", **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body.encode())))
        request.end_headers()
        request.wfile.write(body.encode())

    return answer


def hang(request: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


def break_off(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b'{"result": ')
    request.wfile.flush()
    request.connection.close()


@pytest.fixture
def faulty_server() -> Iterator[Callable[[Answer], str]]:
    """Serves one answer to every request; gives its address."""
    servers = []

    def serve(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]  # broken pipes are the point
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


SECRET = "s3cret-key"


def refusal(url: str) -> str:
    """What a person reads on opening a collection there."""
    client = connect(url, SECRET, 1)
    with pytest.raises(IndexUnavailable) as refused:
        ServerIndex.open(client, "manuals", RANDOM)
    client.close()
    message = str(refused.value)
    assert SECRET not in message
    return message


def test_a_server_that_is_down_is_an_outage_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    started = time.monotonic()
    message = refusal(f"http://user:{SECRET}@127.0.0.1:{port}/?token={SECRET}")
    assert time.monotonic() - started < 2
    assert f"http://127.0.0.1:{port}" in message
    assert "can't be reached" in message
    assert "QDRANT_URL" in message


def test_an_unknown_host_is_an_outage() -> None:
    assert "can't be reached" in refusal("http://qdrant.invalid:6333")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (status(401, "Must provide an API key"), "QDRANT_API_KEY"),
        (status(403, "Forbidden"), "QDRANT_API_KEY"),
        (status(404, "not found"), "QDRANT_URL"),
        (status(429, '{"status": {"error": "slow down"}}', Retry_After="5"), "QDRANT_URL"),
        (status(500, '{"status": {"error": "out of memory"}}'), "answered with an error \\(500"),
        (status(503, "<html>Service Unavailable</html>"), "answered with an error \\(503"),
        (status(200, "<html>a router's login page</html>"), "didn't answer as a Qdrant server does"),
        (status(200, ""), "didn't answer as a Qdrant server does"),
        (status(200, '{"result": null}'), "didn't answer as a Qdrant server does"),
        (status(200, '{"result": {"exists": true}}'), "didn't answer as a Qdrant server does"),
        (status(302, "", Location="http://127.0.0.1:9/"), "answered with an error \\(302"),
        (break_off, "didn't answer as a Qdrant server does"),
        (hang, "didn't answer in time.*RANK37_QDRANT_TIMEOUT_S"),
    ],
)
def test_whatever_a_server_answers_is_an_outage_with_a_remedy(
    faulty_server: Callable[[Answer], str], answer: Answer, said: str
) -> None:
    url = faulty_server(answer)
    message = refusal(url)
    assert url in message
    assert re.search(said, message)


def test_an_open_index_whose_server_goes_away_says_so(faulty_server: Callable[[Answer], str]) -> None:
    answers: dict[tuple[str, str], object] = {
        ("GET", "/collections/manuals/exists"): {"exists": True},
        ("GET", "/"): None,
    }
    config = {
        "params": {
            "vectors": {"dense": {"size": RANDOM.dimension, "distance": "Cosine"}},
            "sparse_vectors": {"sparse": {"modifier": "idf"}},
        },
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 0,
            "flush_interval_sec": 5,
        },
    }
    keyword = {"data_type": "keyword", "points": 0}
    answers["GET", "/collections/manuals"] = {
        "status": "green",
        "optimizer_status": "ok",
        "segments_count": 1,
        "points_count": 1,
        "config": config,
        "payload_schema": {"kind": keyword, "document_id": keyword},
    }
    record = collection_point(RANDOM)
    answers["POST", "/collections/manuals/points"] = [{"id": record.id, "payload": record.payload}]
    answers["POST", "/collections/manuals/points/scroll"] = {"points": [], "next_page_offset": None}
    alive = True

    def answer(request: BaseHTTPRequestHandler) -> None:
        if not alive:
            return status(502, "bad gateway")(request)
        result = answers[request.command, request.path.partition("?")[0]]
        if result is None:
            return status(200, json.dumps({"title": "qdrant", "version": "1.17.0"}))(request)
        return status(200, json.dumps({"result": result, "status": "ok", "time": 0.0}))(request)

    index = ServerIndex.open(connect(faulty_server(answer), None, 2), "manuals", RANDOM)
    assert index.info.revision == "1.17.0"
    assert index.info.sends_data_to == ""
    assert index.documents() == []
    alive = False
    for act in (index.documents, index.count_chunks, lambda: recalled_texts(index, "apple")):
        with pytest.raises(IndexUnavailable, match="502"):
            act()
    with pytest.raises(IndexUnavailable, match="502"):
        ingest(index, "manual", ["apple"])
    index.close()
    index.close()
    with pytest.raises(CollectionError, match="closed"):
        index.documents()


@pytest.mark.parametrize("url", ["localhost:6333", "qdrant", "ftp://qdrant:6333", "http://", "http://host:port", ""])
def test_an_address_that_is_none_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput, match="QDRANT_URL"):
        connect(url, None, 5)


def test_data_sent_to_another_machine_is_said() -> None:
    client = QdrantClient(":memory:")
    index = ServerIndex.open(client, "manuals", RANDOM)
    assert index.info.sends_data_to == ""
    hosts = {
        "http://localhost:6333": "",
        "http://127.0.0.1:6333": "",
        "http://[::1]:6333": "",
        "http://qdrant:6333": "qdrant",
        "https://abc.cloud.qdrant.io": "abc.cloud.qdrant.io",
    }
    for url, host in hosts.items():
        remote = connect(url, None, 5)
        assert ServerStore(remote, "manuals").remote_host == host
        remote.close()


def test_another_programs_collection_is_left_alone() -> None:
    client = QdrantClient(":memory:")
    client.create_collection("manuals", vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    with pytest.raises(CollectionError, match="not of this program.*RANK37_COLLECTION"):
        ServerIndex.open(client, "manuals", RANDOM)
    client.delete_collection("manuals")
    index = ServerIndex.open(client, "manuals", RANDOM)
    client.delete("manuals", models.FilterSelector(filter=models.Filter()))
    client.upsert("manuals", [models.PointStruct(id=1, vector={}, payload={"theirs": True})])
    with pytest.raises(CollectionError, match="no record of the embedder.*RANK37_COLLECTION"):
        ServerIndex.open(client, "manuals", RANDOM)
    index.close()


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (ServerLayout(), {}),
        (
            ServerLayout(shards=6, replicas=2, write_consistency=2),
            {"shard_number": 6, "replication_factor": 2, "write_consistency_factor": 2},
        ),
        (
            ServerLayout(quantization="scalar"),
            {
                "vectors.dense.on_disk": True,
                "vectors.dense.quantization_config": {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}},
            },
        ),
        (
            ServerLayout(quantization="binary", on_disk=True),
            {
                "vectors.dense.on_disk": True,
                "vectors.dense.hnsw_config": {"on_disk": True},
                "vectors.dense.quantization_config": {"binary": {"always_ram": True}},
                "sparse_vectors.sparse.index": {"on_disk": True},
            },
        ),
    ],
)
def test_a_new_collection_is_laid_out_as_the_settings_say(
    faulty_server: Callable[[Answer], str], layout: ServerLayout, expected: dict[str, object]
) -> None:
    asked: list[dict[str, object]] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.command == "PUT":
            asked.append(json.loads(request.body))  # type: ignore[attr-defined]  # the fixture's own
            return status(507, "no more room")(request)  # the making is all that is looked at
        return status(200, json.dumps({"result": {"exists": False}, "status": "ok", "time": 0.0}))(request)

    client = connect(faulty_server(answer), None, 2)
    with pytest.raises(IndexUnavailable, match="507"):
        ServerIndex.open(client, "manuals", RANDOM, layout)
    client.close()
    [body] = asked
    plain = {
        "vectors.dense.size": RANDOM.dimension,
        "vectors.dense.distance": "Cosine",
        "sparse_vectors.sparse.modifier": "idf",
    }
    assert flat(body, depth=2) == plain | expected


def flat(value: dict[str, object], *, depth: int, name: str = "") -> dict[str, object]:
    """The leaves of nested dictionaries by their dotted names, down to a depth."""
    leaves: dict[str, object] = {}
    for key, inner in value.items():
        dotted = f"{name}.{key}" if name else key
        if isinstance(inner, dict) and depth > 0:
            leaves |= flat(inner, depth=depth - 1, name=dotted)
        else:
            leaves[dotted] = inner
    return leaves


def test_quantized_search_rescores_with_the_full_vectors() -> None:
    client = QdrantClient(":memory:")
    index = ServerIndex.open(client, "manuals", RANDOM, ServerLayout(quantization="scalar"))
    asked: list[models.SearchParams | None] = []
    query_points = client.query_points

    def watched(*arguments: object, **options: object) -> object:
        asked.extend(prefetch.params for prefetch in options["prefetch"])  # type: ignore[attr-defined]
        return query_points(*arguments, **options)  # type: ignore[arg-type]

    client.query_points = watched  # type: ignore[method-assign,assignment]
    ingest(index, "a", ["the valve is closed", "the pump is open"])
    assert recalled_texts(index, "the valve is closed")[0] == "the valve is closed"
    assert asked[0] is not None
    assert asked[0].quantization == models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
    index.close()
