"""Numbers as sentences have them."""

from __future__ import annotations


def digits(value: float) -> str:
    """Three digits, more if that many are before the point; never an exponent above it."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
