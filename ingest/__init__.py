"""Ingestion: files to searchable chunks. `ingest.read_<kind>`, `ingest.chunk`, `ingest.write`, in that order."""
