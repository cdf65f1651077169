"""The prompt's tokens: by tiktoken where its table is there, by an estimate that errs upwards where it isn't."""

import threading
import time

import pytest
import tiktoken

from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.engines.token_count import Encoder, TokenCounter, encoding_name, estimated_tokens

TABLE = tiktoken.Encoding(
    "made on the spot",
    pat_str=r"\w+|\W",
    mergeable_ranks={bytes([byte]): byte for byte in range(256)} | {b"se": 256, b"ve": 257, b"seve": 258},
    special_tokens={"<|endoftext|>": 300},
)
"""A small table that needs no download: bytes, and three merges."""


def count_words(text: str) -> int:
    return len(text.split())


def encode(text: str) -> list[int]:
    return TABLE.encode(text, disallowed_special=())


def test_a_loaded_table_counts_exactly() -> None:
    counter = TokenCounter("gpt-4o-mini", count_words, load=lambda name: encode)
    assert counter("seven") == len(["seve", "n"])
    assert counter("<|endoftext|>") == 13, "what a document says is text, never a special token"


def test_the_encoding_is_the_models_own() -> None:
    asked: list[str] = []

    def load(name: str) -> Encoder:
        asked.append(name)
        return encode

    TokenCounter("gpt-4o-mini", count_words, load=load)("x")
    TokenCounter("gpt-3.5-turbo", count_words, load=load)("x")
    assert asked == ["o200k_base", "cl100k_base"]


@pytest.mark.parametrize("model", ["llama3.2:3b", "Qwen/Qwen3-8B", "mistral-large-latest", "tiny"])
def test_nothing_is_loaded_for_a_model_that_is_not_openais(model: str) -> None:
    def load(name: str) -> Encoder:
        raise AssertionError(f"{name} was loaded")

    assert encoding_name(model) is None
    assert TokenCounter(model, count_words, load=load)("one two three four") == 6, "1.3 * 4 = 5.2, rounded up"


def test_a_table_that_cannot_be_had_leaves_the_estimate() -> None:
    def no_network(name: str) -> Encoder:
        raise ConnectionError("no route to host")

    assert TokenCounter("gpt-4o-mini", count_words, load=no_network)("one two three four") == 6


def test_a_download_that_hangs_costs_the_first_count_a_moment_and_the_next_nothing() -> None:
    release = threading.Event()

    def hang(name: str) -> Encoder:
        release.wait(30)
        return encode

    counter = TokenCounter("gpt-4o-mini", count_words, load=hang, wait_s=0.2)
    started = time.monotonic()
    assert counter("one two three four") == 6
    assert 0.15 < time.monotonic() - started < 1.0
    started = time.monotonic()
    for _ in range(100):
        counter("one two three four")
    assert time.monotonic() - started < 0.1
    release.set()
    deadline = time.monotonic() + 5
    while counter("seven") != 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert counter("seven") == 2, "a table that comes late is used from then on"


def test_the_table_of_a_process_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(name: str) -> Encoder:
        asked.append(name)
        raise ConnectionError

    monkeypatch.setattr("rag.engines.token_count._tables", {})
    monkeypatch.setattr("rag.engines.token_count._tiktoken_encoder", load)
    for _ in range(3):
        TokenCounter("gpt-4o", count_words)("text")
    assert asked == ["o200k_base"]


TRUE_COUNTS = [
    # (text, tokens by cl100k_base): computed once with tiktoken 0.14.0
    ("You may return an item within seven days from receipt. The item must be unused.", 17),
    ("Die Wartezeit für schwere Krankheiten beträgt 180 Tage ab Beginn der Versicherung.", 23),
    ("您可以在收到商品后七天内退货。商品必须未使用。", 21),
    ("35 to 49 £8.90 £16.30 £25.70\n50 to 59 £12.60 £23.10 £36.40", 33),
    ("बीमा की प्रतीक्षा अवधि एक सौ अस्सी दिन है।", 43),
]


@pytest.mark.parametrize(("text", "true_count"), TRUE_COUNTS)
def test_the_estimate_is_not_below_the_true_count(
    text: str, true_count: int, embedder: SentenceTransformerEmbedder
) -> None:
    assert estimated_tokens(text, lambda each: embedder.count_tokens([each])[0]) >= true_count


def test_a_long_code_is_not_one_token(embedder: SentenceTransformerEmbedder) -> None:
    assert embedder.count_tokens(["0123456789abcdef" * 20]) == [1], "an unknown word, to a vocabulary of English"
    assert estimated_tokens("0123456789abcdef" * 20, lambda each: embedder.count_tokens([each])[0]) == 16 * 20 / 4
