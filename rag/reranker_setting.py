"""What can be told of RANK37_RERANKER without a model library, which takes seconds to import."""

from __future__ import annotations

from rag.settings import EMBEDDED


def colbert_model(setting: str | None) -> str | None:
    """The ColBERT model that a reranker setting asks for: a name, a folder, `embedded`, or None for none at all.

    >>> [colbert_model(name) for name in ("colbert", "colbert:org/model", "cascade:colbert,embedded", "service", None)]
    ['embedded', 'org/model', 'embedded', None, None]
    """
    kind, _, rest = (setting or "").partition(":")
    if kind == "colbert":
        return rest or EMBEDDED
    if kind == "cascade":
        return next((model for part in rest.split(",") if (model := colbert_model(part.strip()))), None)
    return None
