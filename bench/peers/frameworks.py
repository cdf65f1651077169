"""The path from PDF to ranked passages, assembled from three frameworks and Qdrant in their documented way.

Each runs on the same model folders as ours, with qdrant-client's local mode in a folder of its own. Their hybrid search
needs fastembed models from a hub, so they recall by dense vectors alone, which is less work than ours does. Chunk sizes
are the documented ones where the embedder reads such a chunk whole, else the nearest that it does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

FRAMEWORK_PACKAGES = (
    "langchain",
    "langchain-core",
    "langchain-classic",
    "langchain-community",
    "langchain-huggingface",
    "langchain-qdrant",
    "langchain-text-splitters",
    "llama-index-core",
    "llama-index-readers-file",
    "llama-index-embeddings-huggingface",
    "llama-index-vector-stores-qdrant",
    "llama-index-postprocessor-sbert-rerank",
    "haystack-ai",
    "sentence-transformers-haystack",
    "qdrant-haystack",
    "qdrant-client",
    "pypdf",
)

COLLECTION = "bench"


@dataclass(frozen=True, slots=True)
class Models:
    """Folders of the models that all paths share."""

    embedder: Path
    reranker: Path
    dimension: int = 384


class Framework(Protocol):
    """A path with a store of its own."""

    def read_and_cut(self, files: Sequence[Path]) -> Sequence[Any]:
        """The files' chunks, in the framework's own form."""
        ...

    def write(self, chunks: Sequence[Any]) -> None:
        """Embed chunks and make them searchable."""
        ...

    def as_chunks(self, texts: Sequence[str]) -> Sequence[Any]:
        """Texts that were cut already, in the framework's own form."""
        ...

    def ask(self, question: str, *, recall: int, limit: int) -> list[str]:
        """Embed, recall, rerank: the best passages' texts, best first."""
        ...


def framework_openers(models: Models, folder: Path) -> Mapping[str, Callable[[], Framework]]:
    """By name, what opens an empty one below `folder`."""
    return {
        "LangChain": partial(LangChain, models, folder / "langchain"),
        "LlamaIndex": partial(LlamaIndex, models, folder / "llama-index"),
        "Haystack": partial(Haystack, models, folder / "haystack"),
    }


class LangChain:
    """PyPDFLoader, RecursiveCharacterTextSplitter, QdrantVectorStore, ContextualCompressionRetriever.

    Source: https://docs.langchain.com/oss/python/langchain/rag (chunks of 1,000 characters that overlap by 200).
    """

    def __init__(self, models: Models, folder: Path) -> None:
        from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
        from langchain_community.cross_encoders import HuggingFaceCrossEncoder
        from langchain_huggingface import HuggingFaceEmbeddings
        from langchain_qdrant import QdrantVectorStore
        from langchain_text_splitters import RecursiveCharacterTextSplitter
        from qdrant_client import QdrantClient
        from qdrant_client.models import Distance, VectorParams

        self._splitter = RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200)
        client = QdrantClient(path=str(folder))
        client.create_collection(COLLECTION, VectorParams(size=models.dimension, distance=Distance.COSINE))
        embeddings = HuggingFaceEmbeddings(model_name=str(models.embedder))
        self._store = QdrantVectorStore(client=client, collection_name=COLLECTION, embedding=embeddings)
        self._compressor = CrossEncoderReranker(model=HuggingFaceCrossEncoder(model_name=str(models.reranker)))

    def read_and_cut(self, files: Sequence[Path]) -> Sequence[Any]:
        """As in `Framework`."""
        from langchain_community.document_loaders import PyPDFLoader

        pages = [page for file in files for page in PyPDFLoader(str(file)).load()]
        return self._splitter.split_documents(pages)

    def write(self, chunks: Sequence[Any]) -> None:
        """As in `Framework`."""
        self._store.add_documents(list(chunks))

    def as_chunks(self, texts: Sequence[str]) -> Sequence[Any]:
        """As in `Framework`."""
        from langchain_core.documents import Document

        return [Document(page_content=text) for text in texts]

    def ask(self, question: str, *, recall: int, limit: int) -> list[str]:
        """As in `Framework`."""
        from langchain_classic.retrievers import ContextualCompressionRetriever

        self._compressor.top_n = limit
        retriever = ContextualCompressionRetriever(
            base_compressor=self._compressor, base_retriever=self._store.as_retriever(search_kwargs={"k": recall})
        )
        return [document.page_content for document in retriever.invoke(question)]


class LlamaIndex:
    """SimpleDirectoryReader, SentenceSplitter, VectorStoreIndex over QdrantVectorStore, SentenceTransformerRerank.

    Its default chunk is 1,024 tokens, of which the embedder would read the first 256: it gets 256, overlap in
    proportion.
    """

    def __init__(self, models: Models, folder: Path) -> None:
        from llama_index.core import StorageContext, VectorStoreIndex
        from llama_index.core.node_parser import SentenceSplitter
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding
        from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank
        from llama_index.vector_stores.qdrant import QdrantVectorStore
        from qdrant_client import QdrantClient

        self._splitter = SentenceSplitter(chunk_size=256, chunk_overlap=50)
        self._embedder = HuggingFaceEmbedding(model_name=str(models.embedder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = QdrantVectorStore(COLLECTION, client=QdrantClient(path=str(folder)))
        self._index = VectorStoreIndex(
            [], storage_context=StorageContext.from_defaults(vector_store=store), embed_model=self._embedder
        )
        self._reranker = SentenceTransformerRerank(model=str(models.reranker), top_n=5)

    def read_and_cut(self, files: Sequence[Path]) -> Sequence[Any]:
        """As in `Framework`."""
        from llama_index.core import SimpleDirectoryReader

        documents = SimpleDirectoryReader(input_files=[str(file) for file in files]).load_data()
        return self._splitter.get_nodes_from_documents(documents)

    def write(self, chunks: Sequence[Any]) -> None:
        """As in `Framework`."""
        self._index.insert_nodes(list(chunks))

    def as_chunks(self, texts: Sequence[str]) -> Sequence[Any]:
        """As in `Framework`."""
        from llama_index.core.schema import TextNode

        return [TextNode(text=text) for text in texts]

    def ask(self, question: str, *, recall: int, limit: int) -> list[str]:
        """As in `Framework`."""
        self._reranker.top_n = limit
        nodes = self._index.as_retriever(similarity_top_k=recall).retrieve(question)
        return [node.node.get_content() for node in self._reranker.postprocess_nodes(nodes, query_str=question)]


class Haystack:
    """PyPDFToDocument, DocumentCleaner, DocumentSplitter, Sentence Transformers components, QdrantDocumentStore.

    Its default chunk of 200 words is longer than the embedder reads: it gets 150.
    """

    def __init__(self, models: Models, folder: Path) -> None:
        from haystack import Pipeline
        from haystack.components.converters import PyPDFToDocument
        from haystack.components.preprocessors import DocumentCleaner, DocumentSplitter
        from haystack.components.writers import DocumentWriter
        from haystack_integrations.components.embedders.sentence_transformers import (
            SentenceTransformersDocumentEmbedder,
            SentenceTransformersTextEmbedder,
        )
        from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker
        from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
        from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

        store = QdrantDocumentStore(path=str(folder), index=COLLECTION, embedding_dim=models.dimension)
        self._reading = Pipeline()
        self._reading.add_component("converter", PyPDFToDocument())
        self._reading.add_component("cleaner", DocumentCleaner())
        self._reading.add_component("splitter", DocumentSplitter(split_by="word", split_length=150))
        self._reading.connect("converter", "cleaner")
        self._reading.connect("cleaner", "splitter")
        self._writing = Pipeline()
        self._writing.add_component(
            "embedder", SentenceTransformersDocumentEmbedder(model=str(models.embedder), progress_bar=False)
        )
        self._writing.add_component("writer", DocumentWriter(store))
        self._writing.connect("embedder", "writer")
        self._asking = Pipeline()
        self._asking.add_component(
            "embedder", SentenceTransformersTextEmbedder(model=str(models.embedder), progress_bar=False)
        )
        self._asking.add_component("retriever", QdrantEmbeddingRetriever(document_store=store))
        self._asking.add_component("ranker", SentenceTransformersSimilarityRanker(model=str(models.reranker)))
        self._asking.connect("embedder.embedding", "retriever.query_embedding")
        self._asking.connect("retriever", "ranker")

    def read_and_cut(self, files: Sequence[Path]) -> Sequence[Any]:
        """As in `Framework`."""
        done = self._reading.run({"converter": {"sources": [str(file) for file in files]}})
        return done["splitter"]["documents"]

    def write(self, chunks: Sequence[Any]) -> None:
        """As in `Framework`."""
        self._writing.run({"embedder": {"documents": list(chunks)}})

    def as_chunks(self, texts: Sequence[str]) -> Sequence[Any]:
        """As in `Framework`."""
        from haystack import Document

        return [Document(content=text) for text in texts]

    def ask(self, question: str, *, recall: int, limit: int) -> list[str]:
        """As in `Framework`."""
        done = self._asking.run(
            {
                "embedder": {"text": question},
                "retriever": {"top_k": recall},
                "ranker": {"query": question, "top_k": limit},
            }
        )
        return [document.content for document in done["ranker"]["documents"]]
