"""The colour of each method, the same in every figure; rows of one method differ in marker, line and shade."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

# Okabe and Ito's colours, told apart by every kind of colour vision, and three more; each for a light page, and
# brightened for a dark one
COLOURS = {
    "full": ("#000000", "#f2f2f2"),
    "lora": ("#0072B2", "#63b3f0"),
    "bitfit": ("#56B4E9", "#9bd5f7"),
    "additional_scan": ("#009E73", "#3dd0a4"),
    "prompt": ("#E69F00", "#f0b43c"),
    "prefix": ("#8C6D31", "#cfa36b"),
    "initial_state": ("#CC79A7", "#eb95c6"),
    "state_offset": ("#D55E00", "#ff8a47"),
    "state_offset_y": ("#7F3C8D", "#c79be0"),
    "partial": ("#882255", "#dd77aa"),
    "sdt": ("#44AA99", "#88ddcc"),
    "combined": ("#556677", "#aabbcc"),
}
OTHERS = (("#AA4466", "#e08aa4"), ("#117733", "#66c285"), ("#AA7744", "#dcb48c"), ("#332288", "#9d90e0"))
"""For methods of others, by a hash of the name."""
BASE_COLOUR = "#777777"
"""Of the base model's score."""
MARKERS = "osD^vP*Xph"
DASHES = ((), (6, 3), (2, 2), (8, 3, 2, 3))
"""Lengths of dash and gap; (): a whole line."""
LIGHTEST = 0.6
"""How far the last of a method's rows is on the way to white."""


@dataclass(frozen=True)
class Look:
    """How a row is drawn. colour: on a light page, dark: on a dark one."""

    colour: str
    dark: str
    marker: str
    dashes: tuple[int, ...]


def method_colours(method: str) -> tuple[str, str]:
    """A method's colour on a light and on a dark page."""
    return COLOURS.get(method) or OTHERS[zlib.crc32(method.encode(errors="backslashreplace")) % len(OTHERS)]


def looks(rows: Sequence[tuple[str, str]]) -> dict[str, Look]:
    """How each row is drawn, by its label. rows: (label, method) of all rows that are drawn together."""
    methods = [method for _, method in rows]
    order = list(dict.fromkeys(methods))
    found = {}
    for place, (label, method) in enumerate(rows):
        number, count = methods[:place].count(method), methods.count(method)
        light, dark = method_colours(method)
        fade = LIGHTEST * number / (count - 1) if count > 1 else 0.0
        marker = MARKERS[(order.index(method) + number) % len(MARKERS)]
        found[label] = Look(_mixed(light, fade, 255), _mixed(dark, fade, 0), marker, DASHES[number % len(DASHES)])
    return found


def _mixed(colour: str, share: float, with_level: int) -> str:
    """The colour with a share of white (255) or black (0) in it."""
    levels = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(level + share * (with_level - level)):02X}" for level in levels)
