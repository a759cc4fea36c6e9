"""PyTorch's compiler stays out of a process until something needs it."""

from __future__ import annotations

import subprocess
import sys

TRAINS = """
import sys, torch
from ssm_tune.utils.without_compiler import leave_out_compiler
leave_out_compiler()
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.AdamW([weight])
weight.sum().backward()
optimizer.step()
assert weight[0] < 1
loaded = "torch._dynamo.eval_frame" in sys.modules
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_an_optimizer_does_without() -> None:
    assert run(TRAINS + "print(loaded)") == "False"


def test_whoever_needs_it_gets_it() -> None:
    asked = "print(loaded, torch._dynamo.config.cache_size_limit > 0, 'torch._dynamo.eval_frame' in sys.modules)"
    assert run(TRAINS + asked) == "False True True"


def test_a_part_of_it_can_be_imported() -> None:
    assert run(TRAINS + "import torch._dynamo.config; print(torch._dynamo.config.cache_size_limit > 0)") == "True"


def test_one_that_is_there_stays() -> None:
    assert run("import torch._dynamo" + TRAINS + "print(loaded, torch._dynamo.config is not None)") == "True True"
