"""Counts the tokens of a prompt as the LLM counts them: tiktoken where its table fits the model, else an estimate.

It never waits long for a download and never counts for the embedder or the reranker, which have tokenizers of their
own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import tiktoken

Encoder = Callable[[str], list[int]]

DOWNLOAD_WAIT_S = 4.0
"""Longest wait for a table, once a process; afterwards the estimate counts until the table is there, if ever.
tiktoken itself downloads (1.7 to 3.6 MB) without any time limit."""

FALLBACK_MARGIN = 1.3
"""What the count of another tokenizer is multiplied by; see `estimated_tokens` for what it was measured on."""

ASCII_CHARACTERS_PER_TOKEN = 4.0
OTHER_BYTES_PER_TOKEN = 2.0
"""Lower bounds of the estimate: an English vocabulary sees a Hindi word, or a long code, as one unknown token."""

Load = Callable[[str], Encoder]
"""Gives the encoder of a tiktoken encoding name; may block, may raise anything."""


def _tiktoken_encoder(name: str) -> Encoder:
    encoding = tiktoken.get_encoding(name)
    return lambda text: encoding.encode(text, disallowed_special=())


class _Table:
    """A tiktoken table that a background thread loads, from its local cache or by download."""

    def __init__(self, name: str, load: Load) -> None:
        self._encoder: Encoder | None = None
        self._waited = False
        self._thread = threading.Thread(target=self._load, args=(name, load), name=f"tiktoken {name}", daemon=True)
        self._thread.start()

    def _load(self, name: str, load: Load) -> None:
        try:
            self._encoder = load(name)
        except Exception:  # no network, a proxy's web page, a full disk: the estimate counts instead
            self._encoder = None

    def encoder(self, wait_s: float) -> Encoder | None:
        """The encoder if it is loaded; the first call waits for it, at most `wait_s`."""
        if self._encoder is None and not self._waited:
            self._thread.join(wait_s)
            self._waited = True
        return self._encoder


_tables: dict[str, _Table] = {}
_tables_lock = threading.Lock()


def encoding_name(model: str) -> str | None:
    """The tiktoken encoding of an OpenAI model; None for any other: no table would be the right one.

    >>> encoding_name("gpt-4o-mini"), encoding_name("openai/gpt-4.1"), encoding_name("llama3.2:3b")
    ('o200k_base', 'o200k_base', None)
    """
    try:
        return tiktoken.encoding_name_for_model(model.removeprefix("openai/"))
    except KeyError:
        return None


class TokenCounter:
    """Counts for one model. The table's load begins with the construction, off the way of the first question.

    Args:
        model: Name of the LLM. Only for OpenAI's models is a table loaded: nothing is downloaded for a local model.
        fallback: Counts tokens by some tokenizer that is on this machine.
        load: Loads an encoding; given: used for this counter alone.
        wait_s: Longest wait of the first count for the table, in seconds.
    """

    def __init__(
        self,
        model: str,
        fallback: Callable[[str], int],
        *,
        load: Load | None = None,
        wait_s: float = DOWNLOAD_WAIT_S,
    ) -> None:
        self._fallback = fallback
        self._wait_s = wait_s
        self._table: _Table | None = None
        if name := encoding_name(model):
            self._table = _shared_table(name) if load is None else _Table(name, load)

    def __call__(self, text: str) -> int:
        """Number of tokens: exact with the model's own table, else an upper estimate."""
        if self._table and (encode := self._table.encoder(self._wait_s)):
            return len(encode(text))
        return estimated_tokens(text, self._fallback)


def _shared_table(name: str) -> _Table:
    """The table of this process: loaded, or tried, at most once."""
    with _tables_lock:
        if name not in _tables:
            _tables[name] = _Table(name, _tiktoken_encoder)
        return _tables[name]


def estimated_tokens(text: str, count: Callable[[str], int]) -> int:
    r"""An upper estimate of an LLM's tokens from the count of another tokenizer.

    `max(FALLBACK_MARGIN * (count + line feeds), ASCII characters / 4 + other bytes / 2)`, rounded up; line feeds are
    added because BERT-like tokenizers drop them.

    Measured with all-MiniLM-L6-v2's tokenizer on 120 passages each of 21 question-answering sets (English prose, tables
    of numbers; Arabic, Chinese, German, Hindi, Spanish) against cl100k_base, o200k_base and the tokenizers of DeepSeek
    and Claude 2: over a whole set the true count is 26% to 90% of the estimate (English 72% to 79%). A single passage
    can exceed it: English prose by at most 12%, Chinese by 14%, a table of numbers by 46%.

    >>> words = lambda text: len(text.split())
    >>> estimated_tokens("one two three four\nfive", words)  # 1.3 * (5 + 1) = 7.8
    8
    >>> estimated_tokens("x" * 400, words)  # one word, but 400 / 4
    100
    """
    n_ascii = sum(character.isascii() for character in text)
    n_other_bytes = len(text.encode("utf-8", "surrogatepass")) - n_ascii
    by_tokenizer = FALLBACK_MARGIN * (count(text) + text.count("\n"))
    by_length = n_ascii / ASCII_CHARACTERS_PER_TOKEN + n_other_bytes / OTHER_BYTES_PER_TOKEN
    return math.ceil(max(by_tokenizer, by_length))
