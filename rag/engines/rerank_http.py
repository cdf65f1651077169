"""JSON over HTTP as rerank APIs and services need it: retries, one time limit over all of them, errors with a remedy.

It knows no service's protocol, except that a list of results names passages by their index.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from rag.errors import BadInput, RerankerUnavailable

log = logging.getLogger(__name__)

RETRIES = 4
"""How often a request is sent again at most, within the time limit."""
FIRST_WAIT_S = 0.5
"""Before the first retry; it doubles with each one."""
LONGEST_WAIT_S = 20.0
"""A server that asks for a longer pause is not waited for: the person sees the error and decides."""
CONNECT_LIMIT_S = 5.0
LARGEST_REPLY_BYTES = 16 * 1024 * 1024
"""A thousand results with their numbers are some 100 kB."""
SHOWN_CHARACTERS = 200
"""How much of a server's own words an error repeats."""

RETRIED_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504, 529})


class RerankConnection:
    """Connections to one server, with its key. Safe to use from several threads.

    The key is sent as a bearer token and appears nowhere else: a server that repeats it in an error has it cut out.
    """

    def __init__(
        self,
        url: str,
        key: SecretStr | None,
        *,
        setting: str,
        key_setting: str,
        timeout_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: Address of the server, with or without a path. User and password in it are sent as basic
                authentication and never shown.
            key: Sent as a bearer token; None: none is.
            setting: The variable that holds the address, for remedies.
            key_setting: The variable that holds the key, for remedies.
            timeout_s: Longest duration of one `Deadline`.
            sleep: Waits so many seconds before a retry.

        Raises:
            BadInput: It is no http or https address, or the key can't be a header.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host:
            raise BadInput(f"{setting} is no web address: write it like http://127.0.0.1:8080")
        netloc = f"[{host}]" if ":" in host else host
        netloc += f":{port}" if port else ""
        if key and not (key.get_secret_value().isascii() and key.get_secret_value().isprintable()):
            # The HTTP library would repeat it in its error.
            raise BadInput(f"{key_setting} holds characters that no key has: copy it again, on one line")
        self.host = netloc
        self.remote_host = "" if is_this_machine(host) else netloc
        """Host that passages leave this machine for; empty if they don't."""
        self.url = f"{parts.scheme}://{netloc}{parts.path}".rstrip("/")
        self.setting = setting
        self.timeout_s = timeout_s
        self._key_setting = key_setting
        self._secrets = [secret for secret in (key.get_secret_value() if key else "", parts.password or "") if secret]
        self._sleep = sleep
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            auth=(parts.username, parts.password or "") if parts.username and not key else None,
            # A proxy is for hosts out there.
            trust_env=bool(self.remote_host),
        )

    def deadline(self, within_s: float | None = None) -> float:
        """When what begins now has to be done, in seconds of `time.monotonic`; None: the time limit from now."""
        return time.monotonic() + (self.timeout_s if within_s is None else within_s)

    def get(self, url: str, deadline: float) -> Any | None:
        """The JSON behind an address; None where there is none (404, 405, or no JSON). See `post`."""
        status, body = self._asked("GET", url, None, deadline, absent={404, 405})
        if status in (404, 405):
            return None
        try:
            return json.loads(body)
        except ValueError:
            return None

    def post(self, url: str, body: Mapping[str, object], deadline: float) -> Any | None:
        """The JSON that answers a request; None where there is no such address (404, 405).

        It is sent again after 408, 429, 5xx, a timeout and a failed connection, with a pause that doubles (and varies,
        so that many clients do not come back at once) or that the server names.

        Raises:
            RerankerUnavailable: After the last retry, or at once for what no retry cures.
        """
        status, reply = self._asked("POST", url, body, deadline, absent={404, 405})
        if status in (404, 405):
            return None
        try:
            return json.loads(reply)
        except ValueError as error:
            raise self.nonsense(f"its reply is no JSON: {self._shown(reply)}") from error

    def nonsense(self, what: str) -> RerankerUnavailable:
        """The error for a reply that is not what the protocol says."""
        return RerankerUnavailable(
            f"the reranker at {self.host} answered with nonsense ({what}): check {self.setting} and its version"
        )

    def absent(self, what: str) -> RerankerUnavailable:
        """The error for an address that is not there."""
        return RerankerUnavailable(f"the reranker at {self.host} has no {what}: check {self.setting} and its version")

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._client.close()

    def __del__(self) -> None:
        # Rerankers are swapped and dropped, and no port has a way to close one.
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()

    def _asked(
        self, method: str, url: str, body: Mapping[str, object] | None, deadline: float, *, absent: set[int]
    ) -> tuple[int, bytes]:
        """Status and body of a reply that is 2xx or one of `absent`."""
        for attempt in range(RETRIES + 1):
            named_wait_s: float | None = None
            cause: Exception | None = None
            try:
                status, headers, reply = self._once(method, url, body, deadline)
            except httpx.TimeoutException as error:
                failure = f"didn't answer in time (RANK37_RERANK_TIMEOUT_S = {self.timeout_s:g} at most)"
                cause = error
            except httpx.DecodingError:
                raise self.nonsense("its reply can't be decompressed") from None
            except httpx.TransportError as error:
                failure, cause = f"can't be reached ({type(error).__name__})", error
            else:
                if 200 <= status < 300 or status in absent:
                    return status, reply
                failure = self._refusal(status, headers, reply)
                if status not in RETRIED_STATUSES:
                    raise RerankerUnavailable(f"the reranker at {self.host} {failure}")
                named_wait_s = retry_after_s(headers.get("Retry-After"))
            wait_s = FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1) if named_wait_s is None else named_wait_s
            if attempt == RETRIES or wait_s > LONGEST_WAIT_S or time.monotonic() + wait_s >= deadline:
                asked = f" and asks to wait {named_wait_s:g} s" if named_wait_s else ""
                raise RerankerUnavailable(
                    f"the reranker at {self.host} {failure}{asked}: try again later, or check {self.setting}"
                ) from cause
            log.info("the reranker at %s %s: asked again in %.1f s", self.host, failure, wait_s)
            self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self, method: str, url: str, body: Mapping[str, object] | None, deadline: float
    ) -> tuple[int, httpx.Headers, bytes]:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise httpx.ReadTimeout("no time left")
        timeout = httpx.Timeout(left_s, connect=min(CONNECT_LIMIT_S, left_s))
        with self._client.stream(method, url, json=body, timeout=timeout) as response:
            pieces: list[bytes] = []
            # A server that sends a byte now and then never lets the read time out.
            for piece in response.iter_bytes():
                pieces.append(piece)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the reply drips")
                if sum(map(len, pieces)) > LARGEST_REPLY_BYTES:
                    raise self.nonsense(f"its reply is larger than {LARGEST_REPLY_BYTES} bytes")
            return response.status_code, response.headers, b"".join(pieces)

    def _refusal(self, status: int, headers: httpx.Headers, reply: bytes) -> str:
        words = self._shown(reply)
        if status in (401, 403):
            return f"refused the key ({status}): set {self._key_setting} to one that may rerank"
        if 300 <= status < 400:
            return f"sends on to another address ({status}): set {self.setting} to that one"
        if status == 402:
            return f"wants payment ({status}): {words}"
        if status == 429:
            return f"allows no more requests for now ({status}): {words}"
        if status >= 500:
            return f"failed ({status}): {words}"
        return f"refused the request ({status}): {words}"

    def _shown(self, reply: bytes) -> str:
        """The beginning of what a server says, on one line and without its key."""
        text = reply[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace")
        for secret in self._secrets:
            text = text.replace(secret, "…")
        text = " ".join(text.split())
        return repr(text[:SHOWN_CHARACTERS]) if text else "without a word"


def numbers_by_index(connection: RerankConnection, results: object, n_passages: int, *, field: str) -> list[float]:
    """The number of each passage, in input order, of results in any order.

    Args:
        connection: Where they come from, for errors.
        results: Should be a list of objects with `index` and `field`, one for each passage.
        n_passages: How many were sent.
        field: Name of the number.

    Raises:
        RerankerUnavailable: One is missing, double, beyond the list, or no finite number.
    """
    if not isinstance(results, list):
        raise connection.nonsense(f"it has no list of results, but {type(results).__name__}")
    numbers: dict[int, float] = {}
    for result in results:
        index = result.get("index") if isinstance(result, dict) else None
        number = result.get(field) if isinstance(result, dict) else None
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < n_passages:
            raise connection.nonsense(f"result {str(result)[:80]} is for none of the {n_passages} passages")
        if index in numbers:
            raise connection.nonsense(f"passage {index} has two results")
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not math.isfinite(number):
            raise connection.nonsense(f"{field} = {str(number)[:40]} of passage {index} is no number")
        numbers[index] = float(number)
    if len(numbers) < n_passages:
        raise connection.nonsense(f"it scored {len(numbers)} of {n_passages} passages")
    return [numbers[index] for index in range(n_passages)]


def check_probabilities(connection: RerankConnection, numbers: Sequence[float], remedy: str) -> None:
    """Raise RerankerUnavailable unless all numbers are in [0, 1], where the floor means something."""
    odd = next((number for number in numbers if not 0 <= number <= 1), None)
    if odd is not None:
        raise RerankerUnavailable(
            f"the reranker at {connection.host} gave the score {odd:g}, which is not in [0, 1], so no floor can judge "
            f"it: {remedy}"
        )


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait, given in seconds or as a date; None where it says nothing.

    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after.

    >>> [retry_after_s(value) for value in ("2", "0.5", "-1", "soon", "nan", None)]
    [2.0, 0.5, None, None, None, None]
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = max(0.0, (date - datetime.now(UTC)).total_seconds())
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def is_this_machine(host: str) -> bool:
    """Whether a host name means this machine.

    >>> [is_this_machine(host) for host in ("localhost", "127.0.0.1", "::1", "192.168.0.5", "api.cohere.com")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def remote_host(url: str) -> str:
    """Host and port that data leave this machine for; empty if it is this machine, or no address.

    >>> [remote_host(url) for url in ("https://api.cohere.com", "http://[::1]:8080/v1", "http://gpu:8080", "gpu")]
    ['api.cohere.com', '', 'gpu:8080', '']
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return ""
    return parts.netloc.rpartition("@")[2] if host and not is_this_machine(host) else ""


class Pace:
    """How long a passage took so far, the past fading: half of the weight is on the last five calls."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._passages = 0.0

    def add(self, seconds: float, n_passages: int) -> None:
        """Take in one call."""
        fading = 0.5**0.2
        self._seconds = fading * self._seconds + seconds
        self._passages = fading * self._passages + n_passages

    def estimate_seconds(self, n_passages: int) -> float | None:
        """Expected duration, or None before the first call."""
        return n_passages * self._seconds / self._passages if self._passages else None
