"""What every LLM does, over OpenAILLM against a scripted server and against `transformers serve` with a real model."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from rag.citations import cite
from rag.engines.openai_llm import OpenAILLM
from rag.errors import LLMBadReply, LLMRejected
from rag.ports import LLM
from rag.prompt import build_prompt
from rag.types import Answer, Candidate, Chunk, Message, PageSpan, RankedChunk
from tests.rag.faulty_llm_server import FaultyLLMServer

CITED = "Items can be returned within seven days from receipt [1]."
BARE = "Hello reader, ask me something about your documents"
START_LIMIT_S = 150


def write_tiny_model(folder: Path) -> None:
    """A Llama whose next word follows from the last one alone: attention and MLP add nothing, the head holds the chain.

    It says CITED after a prompt with passages and BARE after any other, then ends. All else about it is as usual: a
    folder with configuration, weights, tokenizer and chat template.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    chains = [["cited:", *CITED.split(), "</s>"], ["bare:", *BARE.split(), "</s>"]]
    words = list(dict.fromkeys(["<unk>", "<s>", "</s>", *chains[0], *chains[1]]))
    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    wrapped.chat_template = (
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }}\n{% endfor %}"
        "{% if '<passage' in messages[-1]['content'] %}cited:{% else %}bare:{% endif %}"
    )
    wrapped.save_pretrained(folder)

    width = 64
    assert len(words) <= width
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids["</s>"],
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(words), width))
        model.lm_head.weight.zero_()
        for chain in chains:
            for word, following in zip(chain, chain[1:], strict=False):
                model.lm_head.weight[ids[following], ids[word]] = 10.0
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The base URL of a `transformers serve` with the tiny model, and the model's name: its folder."""
    model = tmp_path_factory.mktemp("tiny_model")
    write_tiny_model(model)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = model / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--device", "cpu", str(model)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        started = time.monotonic()
        while server.poll() is None and time.monotonic() - started < START_LIMIT_S:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            pytest.fail(f"transformers serve did not start:\n{log.read_text()[-3000:]}")
        yield f"http://127.0.0.1:{port}/v1", str(model)
    finally:
        server.terminate()
        server.wait(30)


@dataclass
class Served:
    """An LLM under test with the reply that it gives to a prompt without passages."""

    llm: LLM
    reply: str
    cut_short: Callable[[], object]
    """Makes the server end the next reply at the token limit."""


@pytest.fixture(params=["scripted", "transformers serve"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.param == "scripted":
        with FaultyLLMServer(BARE) as server:
            llm = open_llm(server.base_url, "scripted")
            yield Served(llm, BARE, lambda: setattr(server, "mode", "length"))
            llm.close()
    else:
        llm = open_llm(*request.getfixturevalue("served_model"))
        yield Served(llm, BARE, lambda: None)
        llm.close()


def open_llm(base_url: str, model: str) -> OpenAILLM:
    return OpenAILLM(
        model, base_url=base_url, timeout_s=60, retries=0, count_tokens_offline=lambda text: len(text.split())
    )


PROMPT = (Message("system", "Be kind."), Message("user", "Who are you?"))


def test_the_reply_comes_whole_in_several_pieces_that_are_not_empty(served: Served) -> None:
    pieces = list(served.llm.stream(PROMPT, max_tokens=50))
    assert "".join(pieces).strip() == served.reply
    assert all(isinstance(piece, str) and piece for piece in pieces)
    assert len(pieces) > 1


def test_a_reply_that_the_limit_cuts_is_an_error_and_never_a_short_answer(served: Served) -> None:
    served.cut_short()
    with pytest.raises(LLMBadReply, match=r"cut at 3 tokens.*RANK37_ANSWER_TOKENS"):
        list(served.llm.stream(PROMPT, max_tokens=3))


def test_leaving_a_reply_does_not_spoil_the_next_one(served: Served) -> None:
    pieces = iter(served.llm.stream(PROMPT, max_tokens=50))
    assert next(pieces)
    del pieces
    assert "".join(served.llm.stream(PROMPT, max_tokens=50)).strip() == served.reply


def test_several_threads_get_a_whole_reply_each(served: Served) -> None:
    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(lambda _: "".join(served.llm.stream(PROMPT, max_tokens=50)), range(4)))
    assert [reply.strip() for reply in replies] == [served.reply] * 4


def test_it_says_what_it_is_and_where_the_data_goes(served: Served) -> None:
    assert served.llm.info.role == "llm"
    assert served.llm.info.name
    assert served.llm.info.sends_data_to == "", "a server on this machine"


def test_tokens_are_counted_for_any_text(served: Served) -> None:
    assert served.llm.count_tokens("") == 0
    assert 0 < served.llm.count_tokens("seven days") < served.llm.count_tokens("seven days " * 50)
    assert served.llm.count_tokens("七日間" * 100) >= 300


def test_a_real_server_answers_with_a_citation_that_holds(served_model: tuple[str, str]) -> None:
    text = "Gift cards stay valid. You may return an item within seven days from receipt."
    chunk = Chunk("c", "d", "Terms", None, text, (PageSpan(4, 0, len(text)),), 0, 14)
    llm = open_llm(*served_model)
    prompt, shown = build_prompt(
        "How long can I return an item?",
        [RankedChunk(Candidate(chunk, 1, 1.0), 1, 0.9)],
        count_tokens=llm.count_tokens,
        prompt_tokens=2000,
    )
    answer = cite("".join(llm.stream(prompt, max_tokens=50)), shown)
    assert isinstance(answer, Answer)
    assert answer.text == CITED
    assert [(citation.marker, citation.page, citation.quote) for citation in answer.citations] == [
        (1, 4, "You may return an item within seven days from receipt.")
    ]
    assert cite("".join(llm.stream(PROMPT, max_tokens=50)), shown) == "uncited"
    llm.close()


def test_a_model_that_the_real_server_does_not_have_is_rejected_with_the_servers_words(
    served_model: tuple[str, str],
) -> None:
    llm = open_llm(served_model[0], "another-model")
    with pytest.raises(LLMRejected, match=r"another-model"):
        list(llm.stream(PROMPT, max_tokens=50))
    llm.close()
