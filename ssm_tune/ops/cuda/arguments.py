"""A kernel's arguments as one struct: in Python a ``ctypes.Structure`` with the names of the .cu file's struct.

The kernels take the struct by value. tests/ops/test_kernel_arguments.py holds each class here against its .cu file:
names, order, types, offsets and size.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any

Field = tuple[str, Any]


def pointers(*names: str) -> list[Field]:
    return [(name, ctypes.c_void_p) for name in names]


def int64s(*names: str) -> list[Field]:
    return [(name, ctypes.c_int64) for name in names]


def int32s(*names: str) -> list[Field]:
    return [(name, ctypes.c_int32) for name in names]


def floats(*names: str) -> list[Field]:
    return [(name, ctypes.c_float) for name in names]


_LETTERS = {ctypes.c_void_p: "P", ctypes.c_int64: "q", ctypes.c_int32: "i", ctypes.c_float: "f"}


class Arguments(ctypes.Structure):
    """The struct of a kernel, built from keywords that name every field.

    A tensor stands for its address, None for a null pointer. Raises TypeError where a field is missing or unknown,
    struct.error for a number that does not fit into its field.
    """

    _pointers: tuple[str, ...]
    _numbers: tuple[str, ...]
    _layout: struct.Struct

    def __init_subclass__(cls) -> None:
        kinds = [field[1] for field in cls._fields_]
        count = kinds.count(ctypes.c_void_p)
        if kinds[:count] != [ctypes.c_void_p] * count:
            raise TypeError(f"{cls.__name__}: pointers come first")
        cls._pointers = tuple(field[0] for field in cls._fields_[:count])
        cls._numbers = tuple(field[0] for field in cls._fields_[count:])
        cls._layout = struct.Struct("@" + "".join(_LETTERS[kind] for kind in kinds))

    def __init__(self, **values: Any) -> None:
        take = values.pop
        try:
            pointers = [0 if (x := take(name)) is None else x.data_ptr() for name in self._pointers]
            numbers = [take(name) for name in self._numbers]
        except KeyError as error:
            raise TypeError(f"{type(self).__name__} lacks the field {error}") from error
        if values:
            raise TypeError(f"{type(self).__name__} has no field {next(iter(values))!r}")
        # all at once: ctypes sets fields one by one, which takes three times as long, and cuts large numbers
        self._layout.pack_into(self, 0, *pointers, *numbers)
