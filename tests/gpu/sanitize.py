"""One small case of every kernel, for compute-sanitizer (not a test; fill the cache first by a run without it):

compute-sanitizer --tool memcheck --error-exitcode 1 python tests/gpu/sanitize.py
compute-sanitizer --tool racecheck --error-exitcode 1 python tests/gpu/sanitize.py
"""

from __future__ import annotations

from typing import Any

import torch
from helpers.scan_cases import CASE, inputs

from ssm_tune.ops import backend
from ssm_tune.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from ssm_tune.ops.cross_entropy import IGNORE, cross_entropy
from ssm_tune.ops.keyed_dropout import column_bits, keyed_dropout, row_bits
from ssm_tune.ops.rms_norm import add_rms_norm
from ssm_tune.ops.selective_scan import selective_scan, selective_state_update

FROZEN = {"u", "dt", "B", "C", "z", "initial_state", "state_offset", "output_offset"}


def scans() -> list[dict[str, Any]]:
    """Each number of states, dtype and set of gradients; many channels at once take splits of their own."""
    cases = [CASE | {"states": states} for states in (3, 4, 8, 16, 24, 48, 64)]
    cases += [CASE | {"dtype": dtype} for dtype in (torch.float32, torch.float16)]
    cases += [
        CASE | {"z": False, "offsets": False, "start": None, "D": False},
        CASE | {"start": "rows", "channels": 72},
    ]
    cases += [case | {"gradients": "all"} for case in cases]
    cases += [CASE | {"batch": 32, "channels": 512, "length": 17, "states": states} for states in (8, 16, 64)]
    return [*cases, CASE | {"length": 1}, CASE | {"length": 600, "batch": 1}]


def scan(case: dict[str, Any]) -> None:
    given = {name: x.detach() for name, x in inputs(case).items() if x is not None}
    wanted = set(given) if case.get("gradients") == "all" else FROZEN
    for name, x in given.items():
        x.requires_grad_(name in wanted)
    with torch.no_grad():
        selective_scan(**given, dt_softplus=True)
    y, last = selective_scan(**given, dt_softplus=True, output_final_state=True)
    outputs = [y, last]
    torch.autograd.grad(outputs, [x for x in given.values() if x.requires_grad], [torch.ones_like(o) for o in outputs])


def others(dtype: torch.dtype) -> None:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda")

    x, weight, bias = draw(2, 70, 72).to(dtype).requires_grad_(), draw(72, 4), draw(72)
    for trained in (False, True):
        taps, start = weight.clone().requires_grad_(trained), draw(2, 3, 72).to(dtype).requires_grad_()
        causal_conv1d(x, taps, bias, start).sum().backward()
    for parts in (1, 3):
        rows = row_bits(torch.arange(2, device="cuda"), 70)
        columns = torch.stack([column_bits(part, 72) for part in range(parts)]).cuda()
        sum(
            x.sum() for x in keyed_dropout(draw(2, 70, 80).to(dtype)[:, :, :72].requires_grad_(), rows, columns, 0.3)
        ).backward()
    for width in (72, 2048):
        stream, added = draw(5, width).requires_grad_(), draw(5, width).to(dtype).requires_grad_()
        scale = draw(width).requires_grad_()
        y, total = add_rms_norm(stream, added, scale, 1e-5, dtype)
        (y.float().sum() + total.sum()).backward()
    for width in (8, 4104):
        logits, count = draw(5, width).to(dtype).requires_grad_(), torch.tensor(5, device="cuda")
        cross_entropy(logits, torch.tensor([0, 3, IGNORE, 7, 1], device="cuda"), count).backward()
    with torch.no_grad():
        causal_conv1d_update(draw(9, 72).to(dtype), draw(9, 3, 72).to(dtype), weight, bias)
        for states in (4, 16, 24, 64):
            u, dt, z, B, C = (draw(9, size).to(dtype) for size in (72, 72, 72, states, states))
            A = -draw(72, states).abs()
            for offset in (None, draw(72, states)):
                selective_state_update(draw(9, 72, states), u, dt, A, B, C, bias, z, dt_bias=bias, state_offset=offset)


if __name__ == "__main__":
    backend.use("cuda")
    every = scans()
    for case in every:
        scan(case)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        others(dtype)
    torch.cuda.synchronize()
    print(f"{len(every)} scans, convolution, norm and steps in three dtypes: done")
