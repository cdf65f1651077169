"""Calls of pdfium that are made for every character, word or text object: several times faster than by its wrapper.

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
get_text: Callable[[int, int, int, int], int] = _quick(
    pdfium.FPDFText_GetText, ctypes.c_int, _HANDLE, _INDEX, _INDEX, ctypes.c_void_p
)
"""Write so many characters as UTF-16 units with a 0 at the end to an address: text page, index, count, address. Returns
how many units that are."""
get_font_size: Callable[[int, int], float] = _quick(pdfium.FPDFText_GetFontSize, ctypes.c_double, _HANDLE, _INDEX)
"""Font size of a character in the text object's own units: text page, index."""
get_font_weight: Callable[[int, int], int] = _quick(pdfium.FPDFText_GetFontWeight, ctypes.c_int, _HANDLE, _INDEX)
"""Weight of a character's font, 400 is usual: text page, index."""
get_font_info: Callable[[int, int, int, int, int], int] = _quick(
    pdfium.FPDFText_GetFontInfo,
    ctypes.c_ulong,
    *(_HANDLE, _INDEX, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p),
)
"""Write the name and the flags of a character's font: text page, index, address, its length, address."""
get_matrix: Callable[[int, int, int], int] = _quick(
    pdfium.FPDFText_GetMatrix, ctypes.c_int, _HANDLE, _INDEX, ctypes.c_void_p
)
"""Write the matrix of a character to the FS_MATRIX at an address: text page, index, address. 0: it has none."""
get_render_mode: Callable[[int], int] = _quick(pdfium.FPDFTextObj_GetTextRenderMode, ctypes.c_int, _HANDLE)
"""How a text object is drawn."""
get_fill_color: Callable[[int, int, int, int, int], int] = _quick(
    pdfium.FPDFPageObj_GetFillColor, ctypes.c_int, _HANDLE, *[ctypes.c_void_p] * 4
)
"""Write red, green, blue and opacity of an object to four addresses. 0: it has none."""
