"""The ctypes structures against the structs of the .cu files: names, order, types; and, by NVRTC, offsets and size."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from benchmarks import device_limits
from ssm_tune.ops.causal_conv1d import cuda as conv
from ssm_tune.ops.cross_entropy import cuda as cross_entropy
from ssm_tune.ops.cuda import compiler, sums
from ssm_tune.ops.cuda.arguments import Arguments, int32s, int64s, pointers
from ssm_tune.ops.cuda.compiler import SOURCES, Kernel, KernelError, compile_kernel
from ssm_tune.ops.keyed_dropout import cuda as dropout
from ssm_tune.ops.rms_norm import cuda as norm
from ssm_tune.ops.selective_scan import arguments as scan

STRUCTS = {
    "selective_scan/scan_forward": [scan.Forward],
    "selective_scan/scan_backward": [scan.Backward],
    "selective_scan/scan_carry": [scan.Carry],
    "selective_scan/state_update": [scan.StateUpdate],
    "causal_conv1d/conv1d": [conv.Conv],
    "causal_conv1d/conv_update": [conv.ConvUpdate],
    "rms_norm/rms_norm": [norm.Norm],
    "cross_entropy/cross_entropy": [cross_entropy.CrossEntropy],
    "keyed_dropout/dropout": [dropout.Dropout],
    "cuda/sums": [sums.Job, sums.Sums],
    device_limits.EXPONENTIALS.file: [device_limits.Rates],
}
TYPES = {"i64": ctypes.c_int64, "int": ctypes.c_int32, "float": ctypes.c_float}


def source_of(file: str, name: str) -> str:
    """The struct's text in the .cu file."""
    found = re.search(rf"struct {name} \{{.*?\n\}};", (SOURCES / f"{file}.cu").read_text(), re.DOTALL)
    assert found is not None, f"{file}.cu has no struct {name}"
    return found[0]


def fields_of(text: str) -> Iterator[tuple[str, object]]:
    """Name and type of each field of a struct's text, in order; None is any pointer, text the name of a struct."""
    body = re.sub(r"//[^\n]*", "", text[text.index("{") + 1 : text.rindex("}")])
    for declaration in filter(None, map(str.strip, body.split(";"))):
        kind, rest = re.fullmatch(r"(?:const )?(\w+)(.*)", declaration, re.DOTALL).groups()  # type: ignore[union-attr]
        for name in map(str.strip, rest.split(",")):
            if name.startswith("*"):
                yield name.lstrip("* "), ctypes.c_void_p
            elif match := re.fullmatch(r"(\w+)\[(\d+)\]", name):
                yield match[1], (kind, int(match[2]))
            else:
                yield name, TYPES[kind]


CASES = [(file, kind) for file, kinds in STRUCTS.items() for kind in kinds]


@pytest.mark.parametrize(("file", "kind"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_fields_are_those_of_the_source(file: str, kind: type[ctypes.Structure]) -> None:
    declared: list[tuple[str, object]] = []
    for name, of in kind._fields_:  # type: ignore[misc]
        array = issubclass(of, ctypes.Array)
        declared.append((name, (of._type_.__name__, of._length_) if array else of))
    assert declared == list(fields_of(source_of(file, kind.__name__)))


def test_every_kernel_takes_a_struct_that_is_tested() -> None:
    for file, kinds in STRUCTS.items():
        text = (SOURCES / f"{file}.cu").read_text()
        taken = set(re.findall(r"__global__[^;{]*?\(const __grid_constant__ (\w+) p\)", text))
        assert taken == {kinds[-1].__name__}, file


@dataclass(frozen=True)
class Layout(Kernel):
    """A program that compiles if a struct and its fields have the sizes and alignments that ctypes gives them.

    With the fields' order, which is tested above, these say where each lies. Not every NVRTC has offsetof.
    """

    text: str = ""

    @property
    def source(self) -> str:
        return self.text


@pytest.mark.parametrize(("file", "kind"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_compiler_lays_them_out_alike(file: str, kind: type[ctypes.Structure]) -> None:
    try:
        compiler.nvrtc_version()
    except KernelError as error:
        pytest.skip(f"no NVRTC: {error}")
    own = kind.__name__
    checks = [f'static_assert(sizeof({own}) == {ctypes.sizeof(kind)}, "size");']
    for name, of in kind._fields_:  # type: ignore[misc]
        checks.append(f'static_assert(sizeof({own}::{name}) == {ctypes.sizeof(of)}, "{name}");')
        checks.append(f'static_assert(alignof(decltype({own}::{name})) == {ctypes.alignment(of)}, "{name}");')
    types = "typedef long long i64; typedef unsigned short elem; typedef float stream; typedef float chunk_state_t;"
    inner = source_of(file, "Job") if own == "Sums" else ""
    text = "\n".join([types, inner, source_of(file, own), *checks, 'extern "C" __global__ void layout() {}'])
    assert compile_kernel(Layout("layout", "layout", (), text), "sm_90").cubin
    with pytest.raises(KernelError, match="size"):
        compile_kernel(Layout("layout", "layout", (), text.replace(checks[0], checks[0].replace("==", "!="))), "sm_90")


class Example(Arguments):
    _fields_ = (*pointers("x", "y"), *int64s("rows"), *int32s("width"))


def test_tensors_stand_for_their_addresses() -> None:
    x = torch.zeros(3)
    made = Example(x=x, y=None, rows=2**40, width=-(2**31))
    assert (made.x, made.y, made.rows, made.width) == (x.data_ptr(), None, 2**40, -(2**31))


@pytest.mark.parametrize("wrong", [{"z": 1}, {"width": None}], ids=["unknown", "missing"])
def test_a_wrong_field_is_named(wrong: dict[str, object]) -> None:
    values = {"x": None, "y": None, "rows": 1, "width": 1} | wrong
    values = {name: value for name, value in values.items() if name != "width" or value is not None}
    with pytest.raises(TypeError, match=next(iter(wrong))):
        Example(**values)


@pytest.mark.parametrize("width", [2**31, -(2**31) - 1])
def test_a_number_too_large_is_refused(width: int) -> None:
    with pytest.raises(struct.error):
        Example(x=None, y=None, rows=1, width=width)
