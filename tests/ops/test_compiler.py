"""Every family of kernel variants compiles for every architecture without a GPU; the cache survives what disks do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.device_limits import EXPONENTIALS
from ssm_tune.ops.causal_conv1d.cuda import SPANS, WEIGHT_SPANS, conv_kernel, update_kernel
from ssm_tune.ops.cross_entropy.cuda import cross_entropy_kernel
from ssm_tune.ops.cuda import compiler
from ssm_tune.ops.cuda.compiler import Kernel, KernelError, cached_cubin, compile_kernel
from ssm_tune.ops.keyed_dropout.cuda import dropout_kernel
from ssm_tune.ops.rms_norm.cuda import norm_kernel
from ssm_tune.ops.selective_scan import variants
from ssm_tune.ops.selective_scan.backward import INPUTS

try:
    compiler.nvrtc_version()
except KernelError as error:
    pytest.skip(f"no NVRTC: {error}", allow_module_level=True)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FROZEN = {name: name in ("u", "dt", "B", "C", "z") for name in INPUTS}
SIMPLE = Kernel.of("sum_partials", {"DTYPE": 0}, "cuda/sums")
SHARED_MEMORY = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_120": 99}
"""KiB that a block may ask for."""
SLOW = pytest.mark.slow


def scan_kernels() -> list[tuple[str, Kernel, int]]:
    """(name, kernel, bytes of shared memory): all dtypes for N = 16, all splits and flags in bfloat16."""
    found = []
    for states in (4, 8, 16, 24, 32, 48, 64):
        for dtype in DTYPES if states == 16 else DTYPES[1:2]:
            small, large = (variants.forward_split(states, channels, 132) for channels in (64, 2**20))
            name = f"N={states} {str(dtype).removeprefix('torch.')}"
            for split in {small, large}:
                for offset in (False, True) if states == 16 else (True,):
                    kernel = variants.forward_kernel(dtype, split, states, True, True, offset, True)
                    label = f"forward {split.lanes}x{split.states}x{split.per} {name} offset={offset}"
                    found.append((label, kernel, variants.forward_shared(split, dtype, True)))
            sets = {"offset": FROZEN | {"state_offset": True}}
            if states == 16:
                sets |= {"frozen": FROZEN, "all": dict.fromkeys(INPUTS, True)}
            for label, wanted in sets.items():
                back = variants.backward_plan(states, 1536, 1024, 4, 132, wanted["A"])[0]
                kernel = variants.backward_kernel(dtype, back, states, True, True, label != "frozen", wanted)
                found.append((f"backward {name} {label}", kernel, variants.backward_shared(back, dtype, True)))
            carry = variants.carry_kernel(dtype, back, True, True)
            found.append((f"carry {name}", carry, variants.carry_shared(back, dtype, True)))
            found.append((f"step {name}", variants.update_kernel(dtype, variants.split_of(states), True), 0))
    plain = variants.split_of(16)
    found.append(("forward bare", variants.forward_kernel(DTYPES[1], plain, 16, False, False, False, False), 0))
    found.append(("backward bare", variants.backward_kernel(DTYPES[1], plain, 16, False, False, False, FROZEN), 0))
    return found


def other_kernels() -> list[tuple[str, Kernel, int]]:
    found = [("sums", SIMPLE, 0), ("exponentials", EXPONENTIALS, 0)]
    for dtype in DTYPES:
        label = str(dtype).removeprefix("torch.")
        found += [
            *((f"{name} {span} {label}", conv_kernel(name, dtype, span), 0) for name in SPANS for span in SPANS[name]),
            *(
                (f"conv backward, weights {span} {label}", conv_kernel("conv_backward", dtype, span, True, True), 0)
                for span in WEIGHT_SPANS
            ),
            (f"dropout forward {label}", dropout_kernel("dropout_forward", dtype), 0),
            (f"dropout backward {label}", dropout_kernel("dropout_backward", dtype), 0),
            (f"cross entropy forward {label}", cross_entropy_kernel("cross_entropy_forward", dtype), 0),
            (f"cross entropy backward {label}", cross_entropy_kernel("cross_entropy_backward", dtype), 0),
            (
                f"conv step {label}",
                update_kernel(dtype),
                0,
            ),
            (f"norm forward {label}", norm_kernel("norm_forward", torch.float32, dtype, 2048, True, False), 0),
            (f"norm backward {label}", norm_kernel("norm_backward", torch.float32, dtype, 2048, True, True), 0),
            (f"norm backward in one dtype {label}", norm_kernel("norm_backward", dtype, dtype, 768, False, False), 0),
        ]
    return found


KERNELS = scan_kernels() + other_kernels()


def everyday() -> list[str]:
    """The names of one variant of each kernel."""
    first: dict[str, str] = {}
    for name, kernel, _ in KERNELS:
        first.setdefault(kernel.name, name)
    return list(first.values())


def variants_and_architectures() -> list[Any]:
    """Every variant on every architecture, all of them slow but one variant of each kernel on sm_90."""
    quick = everyday()
    return [
        pytest.param(entry, arch, id=f"{arch}-{entry[0]}", marks=() if arch == "sm_90" and entry[0] in quick else SLOW)
        for arch in SHARED_MEMORY
        for entry in KERNELS
    ]


@pytest.mark.parametrize(("entry", "arch"), variants_and_architectures())
def test_every_variant_compiles(
    entry: tuple[str, Kernel, int], arch: str, record_property: Callable[[str, object], None]
) -> None:
    _, kernel, shared = entry
    compiled = compile_kernel(kernel, arch)
    record_property("registers", compiled.registers)
    record_property("spills", compiled.spills)
    assert compiled.cubin.startswith(b"\x7fELF")
    assert compiled.registers is not None
    assert compiled.spills is not None
    assert compiled.spills <= 256
    assert shared <= SHARED_MEMORY[arch] * 1024


def test_a_refused_source_shows_nvrtcs_log() -> None:
    with pytest.raises(KernelError, match=r"Log: .*undefined") as caught:
        compile_kernel(Kernel.of("scan_forward", {"DTYPE": 0}, "selective_scan/scan_forward"), "sm_90")
    assert "backend=reference" in str(caught.value)


def test_the_cache_is_used_and_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(compiler.CACHE_VARIABLE, str(tmp_path))
    first = cached_cubin(SIMPLE, "sm_90")
    assert "compiled sum_partials for sm_90 in" in capsys.readouterr().err
    assert cached_cubin(SIMPLE, "sm_90") == first
    assert capsys.readouterr().err == ""
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"")  # a disk that was full
    assert cached_cubin(SIMPLE, "sm_90") == first
    assert file.read_bytes() == first
    cached_cubin(SIMPLE, "sm_80")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(compiler.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    assert cached_cubin(SIMPLE, "sm_90").startswith(b"\x7fELF")
    assert "not cached" in capsys.readouterr().err


def test_eight_processes_at_once(tmp_path: Path) -> None:
    program = (
        "from ssm_tune.ops.cuda.compiler import Kernel, cached_cubin; "
        "cached_cubin(Kernel.of('sum_partials', {'DTYPE': 0}, 'cuda/sums'), 'sm_90')"
    )
    environment = {**os.environ, compiler.CACHE_VARIABLE: str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(8)]
    assert [process.wait() for process in running] == [0] * 8
    (file,) = tmp_path.iterdir()
    assert file.read_bytes().startswith(b"\x7fELF")
