"""The HTTP API over the same pipeline as the pages: questions, documents, reranking, traces, and OpenAI's protocol."""
