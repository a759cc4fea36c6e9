"""A kernel's arguments as one struct: in Python a ``ctypes.Structure`` with the names of the .cu file's struct.

The kernels take the struct by value. tests/ops/test_kernel_arguments.py holds each class here against its .cu file:
names, order, types, offsets and size.
"""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor

Field = tuple[str, Any]


def pointers(*names: str) -> list[Field]:
    return [(name, ctypes.c_void_p) for name in names]


def int64s(*names: str) -> list[Field]:
    return [(name, ctypes.c_int64) for name in names]


def int32s(*names: str) -> list[Field]:
    return [(name, ctypes.c_int32) for name in names]


def floats(*names: str) -> list[Field]:
    return [(name, ctypes.c_float) for name in names]


class Arguments(ctypes.Structure):
    """The struct of a kernel, built from keywords that name every field.

    A tensor stands for its address, None for a null pointer. Raises TypeError where a field is missing or unknown,
    OverflowError for a number that does not fit into 32 bits (ctypes would cut it).
    """

    _names: frozenset[str]
    _narrow: tuple[str, ...]

    def __init_subclass__(cls) -> None:
        cls._names = frozenset(field[0] for field in cls._fields_)
        cls._narrow = tuple(field[0] for field in cls._fields_ if field[1] is ctypes.c_int32)

    def __init__(self, **values: Any) -> None:
        if values.keys() != self._names:
            raise TypeError(f"{type(self).__name__}: wrong fields: {', '.join(sorted(values.keys() ^ self._names))}")
        for name in self._narrow:
            if not -(2**31) <= values[name] < 2**31:
                raise OverflowError(f"{type(self).__name__}: {name}={values[name]} does not fit into 32 bits")
        super().__init__(**{name: x.data_ptr() if isinstance(x, Tensor) else x for name, x in values.items()})
