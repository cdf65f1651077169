"""Routes for whoever watches the server: is it alive, is it ready, what has it counted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from rag.errors import Rank37Error
from ui.api.service import Service, service_of

router = APIRouter(tags=["health"])

_log = logging.getLogger(__name__)


@router.get("/healthz", summary="Is the server alive?")
async def healthz() -> dict[str, str]:
    """It replies, so it is."""
    return {"status": "alive"}


@router.get("/readyz", summary="Can it answer questions?")
async def readyz(request: Request) -> Response:
    """Engines open, index and databases answer: 200, or 503 with what does not."""
    checks = await run_sync(_checks, service_of(request))
    is_ready = all(state == "ok" for state in checks.values())
    return JSONResponse({"status": "ready" if is_ready else "not ready", "checks": checks}, 200 if is_ready else 503)


@router.get("/metrics", summary="What was counted, for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Numbers only."""
    service = service_of(request)
    return Response(service.metrics.as_text(service.library, service.line), media_type=CONTENT_TYPE_LATEST)


def _checks(service: Service) -> dict[str, str]:
    workspace, models = service.library.open, service.library.models
    return {
        # Who asks while the app loads them in the background is not kept waiting.
        "engines": "loading" if models.state == "loading" else _state(lambda: workspace().engines.infos),
        "index": _state(lambda: workspace().index.count_chunks()),
        "collections": _state(service.library.store.cards),
        "keys": _state(service.keys.exist),
        "traces": _state(lambda: workspace().recorder.store()),
    }


def _state(check: Callable[[], object]) -> str:
    """`ok`, or the kind of the error: its message can name files and addresses."""
    try:
        check()
    except Rank37Error as error:
        _log.warning("not ready: %s", type(error).__name__)
        return type(error).__name__
    except Exception as error:
        _log.exception("not ready")
        return type(error).__name__
    return "ok"
