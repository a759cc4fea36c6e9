"""Damage as disks, copies and editors do it, and nastier: for property tests of whatever reads a file."""

from __future__ import annotations

from hypothesis import strategies as st

NASTY = (
    b"",
    b"\x00" * 64,
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"1e999",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"PK\x03\x04",
    b"\x80\x04.",
)
"""Whole contents that stand for a file of another kind, or for none."""


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` with some bytes changed, cut out, doubled or added, or cut off; never as it was."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(found) - 1)))
        length = draw(st.integers(1, 40))
        how = draw(st.sampled_from(["flip", "overwrite", "cut", "double", "insert", "end"]))
        if how == "flip" and found:
            found[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "overwrite":
            found[place : place + length] = draw(st.binary(min_size=1, max_size=length))
        elif how == "cut":
            del found[place : place + length]
        elif how == "double":
            found[place:place] = found[place : place + length]
        elif how == "insert":
            found[place:place] = draw(st.binary(min_size=1, max_size=length))
        else:
            del found[place:]
    return bytes(found) if bytes(found) != content else content + b"\x00"
