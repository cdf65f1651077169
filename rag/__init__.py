"""Rank37: answer questions from a person's own PDFs, with citations, or refuse.

The way of a question is told in `rag.pipeline`; every value that flows is in `rag.types`.
"""
