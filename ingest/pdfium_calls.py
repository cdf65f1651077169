"""Calls of pdfium that are made once or more for every character: several times faster than through its wrapper.

pypdfium2 turns each argument into an object first, which takes longer than the call. Handles are plain numbers here;
they are good for as long as the wrapper's object is open. It knows no page and holds none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pypdfium2.raw as pdfium

_HANDLE, _INDEX = ctypes.c_void_p, ctypes.c_int


def _quick(function: Any, result: Any, *arguments: Any) -> Callable[..., Any]:
    return ctypes.CFUNCTYPE(result, *arguments)(ctypes.cast(function, ctypes.c_void_p).value or 0)


def handle_of(opened: Any) -> int:
    """The number of an open pypdfium2 object."""
    return ctypes.cast(opened.raw, ctypes.c_void_p).value or 0


get_unicode: Callable[[int, int], int] = _quick(pdfium.FPDFText_GetUnicode, ctypes.c_uint, _HANDLE, _INDEX)
"""Code of a character: text page, index."""
get_text_object: Callable[[int, int], int | None] = _quick(
    pdfium.FPDFText_GetTextObject, ctypes.c_void_p, _HANDLE, _INDEX
)
"""Handle of the text object of a character, or None: text page, index."""
get_loose_box: Callable[[int, int, int], int] = _quick(
    pdfium.FPDFText_GetLooseCharBox, ctypes.c_int, _HANDLE, _INDEX, ctypes.c_void_p
)
"""Write the box of a character to the FS_RECTF at an address: text page, index, address. 0: it has none."""
