"""Ingestion: PDF files to searchable chunks. `ingest.read_pdf`, `ingest.chunk`, `ingest.write`, in that order."""
