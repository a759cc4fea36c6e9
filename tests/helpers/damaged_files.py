"""Damage as disks, copies and editors do it, and nastier: for property tests of whatever reads a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ssm_tune.utils.errors import UserError

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
    b"[1,",
    b"\xef\xbb\xbf",
    b'{"a": NaN}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b"\x1f\x8b\x08",
    b"PK\x03\x04",
    b"\x80\x04.",
)
"""Whole contents that stand for a file of another kind, or for none."""


ODD_VALUES: list[Any] = [
    None, True, -1, 2**63, 10**400, 1e308, 0.5, "", "a\0b", "\ud800", "\u0301e", [], [[]], {}, {"a": None}, "x" * 5000,
]  # fmt: skip
"""Values of every kind that JSON has, for a place where another kind is expected."""


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


def damaged_or_another(content: bytes) -> st.SearchStrategy[bytes]:
    """``content`` damaged, or another one."""
    return st.one_of(damaged(content), st.sampled_from(NASTY))


def damaged_json(value: Any) -> st.SearchStrategy[Any]:
    """The JSON value with one of its parts, at any depth, removed, doubled or replaced by a value of another kind."""
    places = list(_places(value))
    return st.tuples(
        st.sampled_from(places), st.sampled_from(["remove", "double", "replace"]), st.sampled_from(ODD_VALUES)
    ).map(lambda one: _changed(json.loads(json.dumps(value)), *one))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _changed(value: Any, path: tuple[Any, ...], how: str, odd: Any) -> Any:
    if not path:
        return odd
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if how == "remove":
        del holder[path[-1]]
    elif how == "double" and isinstance(holder, list):
        holder.append(holder[path[-1]])
    else:
        holder[path[-1]] = odd
    return value


def reads_or_names(read: Callable[[], object], path: Path) -> None:
    """``read`` succeeds, or raises a UserError of one line of printable text that names the file or its folder."""
    try:
        read()
    except UserError as error:
        message = str(error)
        assert "\n" not in message
        assert path.name in message or path.parent.name in message, message
        assert len(message) < 3000
    except RecursionError:  # pragma: no cover
        pytest.fail("the reader ran out of stack")
