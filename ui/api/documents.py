"""Routes of documents: list, upload into the queue, look at a job, read a page, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, UploadFile

from ingest.library import Workspace
from ingest.queue import JobView
from rag.errors import BadInput
from ui.api.errors import NotHere, TooLarge
from ui.api.page_text import page_text
from ui.api.service import caller_of, service_of
from ui.api.values import document_row, job_row

router = APIRouter(prefix="/v1/documents", tags=["documents"])

Collection = Annotated[str | None, Query(max_length=63, description="Its key; without one: the first collection.")]


@router.get("", summary="List the documents of a collection")
def list_documents(request: Request, collection: Collection = None) -> dict[str, Any]:
    """All documents by title, unfinished ones too, with the receipts of their ingestion."""
    workspace = service_of(request).open(collection, caller_of(request))
    documents = workspace.engines.index.documents()
    return {"collection": workspace.key, "documents": [document_row(stored) for stored in documents]}


@router.post("", status_code=202, summary="Upload a file into the queue")
def upload(request: Request, file: UploadFile, collection: Collection = None) -> dict[str, Any]:
    """The file is on disk once this replies, and ingested in its turn: look at the job by its id."""
    caller = caller_of(request)
    workspace = service_of(request).open(collection, caller)
    data = file.file.read()
    try:
        job = workspace.submit(file.filename or "unnamed.pdf", data, caller.person)
    except BadInput as error:
        raise TooLarge(str(error)) if len(data) > workspace.ingester.max_file_bytes else error from None
    return {"collection": workspace.key, **job_row(job)}


@router.get("/jobs", summary="List the uploads of a collection")
def list_jobs(request: Request, collection: Collection = None) -> dict[str, Any]:
    """The queue in its order, jobs that have ended too until they are cleared."""
    workspace = service_of(request).open(collection, caller_of(request))
    return {"collection": workspace.key, "jobs": [job_row(job) for job in workspace.queue.jobs()]}


@router.get("/jobs/{job_id}", summary="Look at an upload")
def show_job(request: Request, job_id: str, collection: Collection = None) -> dict[str, Any]:
    """`done` says that the file was dealt with; whether it was refused, its outcome says."""
    workspace = service_of(request).open(collection, caller_of(request))
    return {"collection": workspace.key, **job_row(_job(workspace, job_id))}


@router.delete("/jobs/{job_id}", summary="Cancel an upload")
def cancel_job(request: Request, job_id: str, collection: Collection = None) -> dict[str, Any]:
    """Nothing of the file stays; a job that has ended stays as it is."""
    workspace = service_of(request).open(collection, caller_of(request))
    workspace.queue.cancel(_job(workspace, job_id).id)
    return {"collection": workspace.key, **job_row(_job(workspace, job_id))}


@router.get("/{document_id}/pages/{number}", summary="Read a page")
def read_page(request: Request, document_id: str, number: int, collection: Collection = None) -> dict[str, Any]:
    """The page's text as it is searched; pages are numbered from 1."""
    return page_row(service_of(request).open(collection, caller_of(request)), document_id, number)


@router.delete("/{document_id}", summary="Delete a document")
def delete_document(request: Request, document_id: str, collection: Collection = None) -> dict[str, Any]:
    """Its words go from the kept questions as well. In a collection that has an owner, only the owner can."""
    service, caller = service_of(request), caller_of(request)
    workspace = service.open(service.managed(collection, caller).key, caller)
    _check_is_there(workspace, document_id)
    workspace.delete_document(document_id)
    return {"collection": workspace.key, "id": document_id, "deleted": True}


def page_row(workspace: Workspace, document_id: str, number: int) -> dict[str, Any]:
    """A page of a document. Raises NotHere for a document or a page that is not there."""
    _check_is_there(workspace, document_id)
    index = workspace.engines.index
    stored = index.document(document_id)
    assert stored is not None
    document = stored.document
    if not 1 <= number <= document.page_count:
        raise NotHere(f"{document.title!r} has no page {number}: its pages are 1 to {document.page_count}")
    return {
        "collection": workspace.key,
        "document_id": document.id,
        "document": document.title,
        "file": document.source,
        "page": number,
        "pages": document.page_count,
        "text": page_text(index.chunks(document.id), number),
    }


def _check_is_there(workspace: Workspace, document_id: str) -> None:
    if workspace.engines.index.document(document_id) is None:
        raise NotHere(
            f"there is no document {document_id!r} in this collection: GET /v1/documents lists those there are"
        )


def _job(workspace: Workspace, job_id: str) -> JobView:
    job = next((job for job in workspace.queue.jobs() if job.id == job_id), None)
    if job is None:
        raise NotHere(f"there is no job {job_id!r} in this collection's queue: it may have been cleared")
    return job
