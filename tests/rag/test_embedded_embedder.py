"""The embedder of the installation: what is said of it before it is loaded is true, and nothing is loaded for that."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rag.engines.embedded_embedder import EmbeddedEmbedder
from rag.errors import ModelUnavailable
from rag.settings import EMBEDDED, Settings
from rag.wiring import EMBEDDED_EMBEDDER_NAME, open_embedder_later
from tests.contracts.tiny_models import save_embedder

if TYPE_CHECKING:
    from pathlib import Path

    from rag.engines.sentence_transformer import SentenceTransformerEmbedder


def test_what_is_known_beforehand_is_what_the_loaded_model_says(embedder: SentenceTransformerEmbedder) -> None:
    later = EmbeddedEmbedder()
    assert (later.identity, later.max_tokens) == (embedder.identity, embedder.max_tokens)
    assert (embedder.query_prompt, embedder.passage_prompt) == ("", "")
    assert later.info == embedder.info, "the very model"


def test_its_identity_imports_no_model_library() -> None:
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from rag.settings import Settings; from rag.wiring import open_embedder_later; "
            "later = open_embedder_later(Settings()); "
            "print(later.identity.dimension, [name for name in ('torch', 'transformers') if name in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["384", "[]"]


@pytest.mark.parametrize("name", [EMBEDDED, EMBEDDED_EMBEDDER_NAME])
def test_the_embedded_one_is_loaded_later_by_either_name(name: str) -> None:
    assert isinstance(open_embedder_later(Settings(embedder=name)), EmbeddedEmbedder)


def test_any_other_one_is_loaded_at_once(tmp_path: Path) -> None:
    folder = save_embedder(tmp_path / "tiny", "bert")
    assert open_embedder_later(Settings(embedder=str(folder))).identity.dimension == 32
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        open_embedder_later(Settings(embedder="nobody/has-this-model"))


def test_a_failure_is_raised_by_each_use_and_the_next_use_tries_again(embedder: SentenceTransformerEmbedder) -> None:
    tried = 0

    def load() -> SentenceTransformerEmbedder:
        nonlocal tried
        tried += 1
        if tried < 3:
            raise ModelUnavailable("the weights are damaged: reinstall it")
        return embedder

    later = EmbeddedEmbedder(load)
    for use in (lambda: later.embed_query("refund"), lambda: later.count_tokens(["refund"])):
        with pytest.raises(ModelUnavailable, match="damaged"):
            use()
    assert later.count_tokens(["refund"]) == embedder.count_tokens(["refund"])
    assert tried == 3


def test_another_model_than_the_known_one_is_refused(tmp_path: Path) -> None:
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

    folder = save_embedder(tmp_path / "tiny", "bert")
    later = EmbeddedEmbedder(lambda: SentenceTransformerEmbedder.load(folder, device="cpu"))
    with pytest.raises(ModelUnavailable, match=r"is tiny .*32.* expected sentence-transformers/all-MiniLM-L6-v2"):
        later.embed_query("refund")
