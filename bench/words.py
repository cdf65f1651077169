"""How figures of benchmarks are worded in tables. It computes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from rag.evaluation.tables import Table


def seconds_of(seconds: float | None) -> str:
    """A duration with its unit, three significant digits.

    >>> [seconds_of(value) for value in (0.00123, 0.0456, 1.234, 75.1, None)]
    ['1.23 ms', '45.6 ms', '1.23 s', '75.1 s', '']
    """
    if seconds is None:
        return ""
    return f"{_significant(seconds * 1000)} ms" if seconds < 0.9995 else f"{_significant(seconds)} s"


def figure(value: float | None, unit: str = "", *, digits: int = 2) -> str:
    """A number, rounded; empty where there is none.

    >>> figure(3.14159), figure(2.0, "x"), figure(None, "x"), figure(0.012345, digits=4)
    ('3.14', '2.00x', '', '0.0123')
    """
    return "" if value is None else f"{value:.{digits}f}{unit}"


def count_of(value: float | None) -> str:
    """A whole number with separators.

    >>> count_of(1234567.8), count_of(None)
    ('1,234,568', '')
    """
    return "" if value is None else f"{value:,.0f}"


def share_of(value: float | None) -> str:
    """A share in percent.

    >>> share_of(0.985), share_of(None)
    ('98.5%', '')
    """
    return "" if value is None else f"{value:.1%}"


def table_of_reasons(not_run: Mapping[str, str]) -> list[Table]:
    """The peers that did not run; no table where all did."""
    if not not_run:
        return []
    return [Table("Not run", ("", "reason"), tuple(not_run.items()))]


def listed_versions(versions: Mapping[str, str]) -> Table:
    """Versions of the libraries that took part."""
    return Table("Versions", ("", "version"), tuple(versions.items()))


def _significant(value: float) -> str:
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f}"
