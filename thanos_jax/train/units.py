"""Formats bytes, operations and seconds with a suitable prefix or unit."""

from __future__ import annotations

_BELOW_1000 = 999.5  # numbers below do not round to 1000 with three digits


def with_prefix(number: float) -> str:
    """Returns a number with three digits and a decimal prefix, as in "1.23 G" or "45.6 "."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < _BELOW_1000:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:.3g} E"


def in_bytes(number: float) -> str:
    """Returns a number of bytes as text, as in "12.3 MB"."""
    return f"{with_prefix(number)}B"


def in_time(seconds: float) -> str:
    """Returns a time as text, as in "12.3 ms", "4.5 s", "12 min" or "3.4 h"."""
    if 1000 * seconds < _BELOW_1000:
        return f"{1000 * seconds:.3g} ms"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    days = seconds / 86_400
    return f"{days:.3g} days" if days < _BELOW_1000 else f"{days:,.0f} days"
