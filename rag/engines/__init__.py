"""Engines: one file a technology, each behind one port. Only `rag.wiring` imports them."""
