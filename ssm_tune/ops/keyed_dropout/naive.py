"""``keyed_dropout``'s decisions one element at a time, in Python's integers, for tests."""

from __future__ import annotations

from collections.abc import Sequence

_MASK = 0xFFFFFFFF


def naive_stays(row_bits: int, column_bits: int, share: float) -> bool:
    """Whether the element where a row and a column meet stays, if a ``share`` of the elements is dropped.

    The inner rounds of C. Wellons's 32-bit hash lowbias32; the result is compared as a signed number.
    """
    bits = (row_bits ^ column_bits) & _MASK
    bits = bits * 0x7FEB352D & _MASK
    bits ^= bits >> 15
    bits = bits * 0x846CA68B & _MASK
    signed = bits - 2**32 if bits >= 2**31 else bits
    return signed >= round(share * 2**32) - 2**31


def naive_keyed_dropout(
    x: Sequence[Sequence[float]], rows: Sequence[int], columns: Sequence[int], share: float
) -> list[list[float]]:
    """x (L, D), the bits of its rows (L,) and of its columns (D,) -> (L, D), dropped elements 0, the others as they
    are."""
    return [
        [value if naive_stays(row, column, share) else 0.0 for value, column in zip(values, columns, strict=True)]
        for values, row in zip(x, rows, strict=True)
    ]
