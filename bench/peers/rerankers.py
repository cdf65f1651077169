"""Peers of the reranker on a model folder, each called in its documented way with its own defaults.

All load the same float32 weights, whatever number format the folder has; what they compute is theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.opening import NotRunnable


@dataclass(frozen=True, slots=True)
class Ranked:
    """What a reranker says of passages."""

    order: tuple[int, ...]
    """Numbers of the passages, best first."""
    scores: tuple[float, ...] | None
    """By number of the passage, in [0, 1]; None where the peer keeps them to itself."""


Rerank = Callable[[str, Sequence[str]], Ranked]

RERANKER_PACKAGES = (
    "sentence-transformers",
    "FlagEmbedding",
    "langchain",
    "langchain-classic",
    "langchain-community",
    "llama-index-core",
    "llama-index-postprocessor-sbert-rerank",
    "haystack-ai",
    "sentence-transformers-haystack",
    "rerankers",
    "fastembed",
    "FlashRank",
    "onnxruntime",
)


def reranker_openers(folder: Path, onnx_folder: Callable[[], Path]) -> Mapping[str, Callable[[], Rerank]]:
    """By the peer's name, what loads it.

    Args:
        folder: A cross-encoder in float32, as transformers saves one.
        onnx_folder: Makes an ONNX export of it, for those that read nothing else.
    """
    return {
        "sentence-transformers": partial(sentence_transformers, folder),
        "sentence-transformers in bfloat16": partial(sentence_transformers, folder, dtype="bfloat16"),
        "FlagEmbedding": partial(flag_embedding, folder),
        "LangChain": partial(langchain, folder),
        "LlamaIndex": partial(llama_index, folder),
        "Haystack": partial(haystack, folder),
        "rerankers": partial(rerankers, folder),
        "fastembed": lambda: fastembed(onnx_folder()),
        "FlashRank": partial(flashrank, folder),
    }


def sentence_transformers(folder: Path, *, dtype: str | None = None) -> Rerank:
    """`CrossEncoder.predict` as it comes."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), model_kwargs={"dtype": dtype} if dtype else None)

    def rerank(query: str, texts: Sequence[str]) -> Ranked:
        return _by_score(model.predict([(query, text) for text in texts], show_progress_bar=False))

    return rerank


def flag_embedding(folder: Path) -> Rerank:
    """`FlagReranker.compute_score`; its batch of 128 sorts by length."""
    from FlagEmbedding import FlagReranker

    model = FlagReranker(str(folder))

    def rerank(query: str, texts: Sequence[str]) -> Ranked:
        return _by_score(model.compute_score([(query, text) for text in texts], normalize=True))

    return rerank


def langchain(folder: Path) -> Rerank:
    """`CrossEncoderReranker` over `HuggingFaceCrossEncoder`; it gives an order without scores."""
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder
    from langchain_core.documents import Document

    model = HuggingFaceCrossEncoder(model_name=str(folder))

    def rerank(query: str, texts: Sequence[str]) -> Ranked:
        documents = [Document(page_content=text, metadata={"number": number}) for number, text in enumerate(texts)]
        best = CrossEncoderReranker(model=model, top_n=len(texts)).compress_documents(documents, query)
        return Ranked(tuple(document.metadata["number"] for document in best), None)

    return rerank


def llama_index(folder: Path) -> Rerank:
    """`SentenceTransformerRerank`."""
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank

    def rerank(query: str, texts: Sequence[str]) -> Ranked:
        nodes = [NodeWithScore(node=TextNode(text=text, id_=str(number))) for number, text in enumerate(texts)]
        model.top_n = len(texts)
        best = model.postprocess_nodes(nodes, query_str=query)
        return _by_number({int(node.node.node_id): float(node.score) for node in best}, len(texts))

    model = SentenceTransformerRerank(model=str(folder), top_n=100)
    return rerank


def haystack(folder: Path) -> Rerank:
    """`SentenceTransformersSimilarityRanker`."""
    from haystack import Document
    from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker

    model = SentenceTransformersSimilarityRanker(model=str(folder))
    model.warm_up()

    def rerank(query: str, texts: Sequence[str]) -> Ranked:
        documents = [Document(id=str(number), content=text) for number, text in enumerate(texts)]
        best = model.run(query=query, documents=documents, top_k=len(texts))["documents"]
        return _by_number({int(document.id): float(document.score) for document in best}, len(texts))

    return rerank


def rerankers(folder: Path) -> Rerank:
    """`Reranker(..., model_type="cross-encoder")`; it gives logits."""
    from rerankers import Reranker

    model = Reranker(str(folder), model_type="cross-encoder", verbose=0)
    if model is None:
        raise NotRunnable("Reranker() gave None for a local folder")

    def rerank(query: str, texts: Sequence[str]) -> Ranked:
        found = model.rank(query, list(texts), doc_ids=list(range(len(texts))))
        return _by_number({item.document.doc_id: _sigmoid(item.score) for item in found.results}, len(texts))

    return rerank


def fastembed(folder: Path) -> Rerank:
    """`TextCrossEncoder` over an ONNX export in float32; it gives logits."""
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    name = f"local/{folder.name}"
    if all(known["model"] != name for known in TextCrossEncoder.list_supported_models()):
        TextCrossEncoder.add_custom_model(model=name, sources=ModelSource(hf=name), model_file="model.onnx")
    model = TextCrossEncoder(model_name=name, specific_model_path=str(folder))

    def rerank(query: str, texts: Sequence[str]) -> Ranked:
        return _by_score([_sigmoid(logit) for logit in model.rerank(query, texts)])

    return rerank


def flashrank(folder: Path) -> Rerank:
    """`Ranker`, which knows the models of its own list and no others."""
    from flashrank.Config import model_file_map

    if folder.name not in model_file_map:
        raise NotRunnable(
            f"it loads the {len(model_file_map)} ONNX files of its own list, which it downloads, and no other model"
        )
    raise NotRunnable("the folder has the name of one of its models")


def save_in_float32(source: Path, target: Path) -> Path:
    """A copy of a model whose weights and configuration say float32, the format that its peers expect on a CPU."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def export_to_onnx(source: Path, target: Path) -> Path:
    """An ONNX export in float32 with the tokenizer's files beside it. Raises where `onnx` is not installed.

    A `max_length` in the tokenizer's configuration would have fastembed cut pairs that all others read whole.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(target)
    configured = json.loads((target / "tokenizer_config.json").read_text())
    configured.pop("max_length", None)
    (target / "tokenizer_config.json").write_text(json.dumps(configured))
    tokenizer.backend_tokenizer.save(str(target / "tokenizer.json"))
    model = AutoModelForSequenceClassification.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.config.save_pretrained(target)
    features = tokenizer([("a question", "a passage")], return_tensors="pt")
    names = list(features)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            return self.model(**dict(zip(names, inputs, strict=True))).logits

    torch.onnx.export(
        Logits().eval().requires_grad_(False),
        tuple(features[name] for name in names),
        str(target / "model.onnx"),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names},
        dynamo=False,
    )
    return target


def _by_score(scores: Sequence[float] | Any) -> Ranked:
    values = tuple(float(score) for score in scores)
    return Ranked(tuple(sorted(range(len(values)), key=lambda number: -values[number])), values)


def _by_number(scores: Mapping[int, float], count: int) -> Ranked:
    if len(scores) < count:
        return Ranked(tuple(sorted(scores, key=lambda number: -scores[number])), None)
    return _by_score([scores[number] for number in range(count)])


def _sigmoid(logit: float) -> float:
    return float(1.0 / (1.0 + np.exp(-float(logit))))
