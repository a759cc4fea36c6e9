"""Convolution, norm and decode steps on the GPU against the plain operations in float64, and the whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.config.groups import method_section
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops import backend
from ssm_tune.ops.causal_conv1d import causal_conv1d, causal_conv1d_update, split_conv1d
from ssm_tune.ops.cross_entropy import IGNORE, cross_entropy
from ssm_tune.ops.keyed_dropout import column_bits, keyed_dropout, row_bits
from ssm_tune.ops.rms_norm import add_rms_norm
from ssm_tune.ops.rms_norm import cuda as norm_kernels
from ssm_tune.ops.selective_scan import selective_scan, selective_state_update

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*deterministic.*")]

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
DTYPES = list(TOLERANCE)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda")


def compare(work: Any, given: dict[str, Tensor], tolerance: float) -> None:
    """``work``'s outputs and all gradients, on the kernels and in float64, within a relative ``tolerance``."""
    results = []
    for how, dtype in (("cuda", None), ("reference", torch.float64)):
        backend.use(how)
        own = {name: (x if dtype is None else x.to(dtype)).detach().requires_grad_() for name, x in given.items()}
        outputs = work(**own)
        torch.manual_seed(1)
        weights = [torch.randn(out.shape, device="cuda").to(given["x"].dtype).to(out.dtype) for out in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, list(own.values()), weights)])
    for index, (mine, exact) in enumerate(zip(*results, strict=True)):
        assert (mine.double() - exact).norm() <= tolerance * exact.norm(), index


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 65, 500])
@pytest.mark.parametrize("start", [False, True])
def test_convolution(dtype: torch.dtype, length: int, start: bool) -> None:
    given = {"x": draw(3, length, 144)[:, :, 72:].to(dtype), "weight": draw(72, 4), "bias": draw(72)}
    if start:
        given["initial_state"] = draw(3, 3, 72).to(dtype)
    compare(lambda **own: [causal_conv1d(**own)], given, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trained", [("x",), ("x", "weight", "bias", "start"), ("weight",), ("start",)], ids=str)
def test_convolution_of_one_half(dtype: torch.dtype, trained: tuple[str, ...]) -> None:
    """With the other half's gradient as the scan gives it, in memory that is twice as wide, and as others do."""
    values = {
        "x": draw(3, 37, 144).to(dtype),
        "weight": draw(72, 4),
        "bias": draw(72),
        "start": draw(3, 3, 72).to(dtype),
    }
    B, C, A = draw(3, 37, 8).to(dtype), draw(3, 37, 8).to(dtype), -draw(72, 8).abs()
    weights = draw(3, 37, 72).to(dtype)
    found: dict[str, list[Tensor]] = {}
    for how in ("cuda", "reference"):
        backend.use(how)
        exact = how == "reference"
        own = {name: (x.double() if exact else x).requires_grad_(name in trained) for name, x in values.items()}
        _, u, z = split_conv1d(own["x"], 0, own["weight"], own["bias"], own["start"])
        scanned = selective_scan(u, u.abs() / 9, A.to(u.dtype), B.to(u.dtype), C.to(u.dtype), z=z)
        losses = [(scanned * weights).sum(), (u * z.sin() * weights).sum()]
        found[how] = [u, z, scanned]
        for loss in losses:
            found[how] += torch.autograd.grad(loss, [own[name] for name in trained], retain_graph=True)
    for index, (mine, exact_one) in enumerate(zip(found["cuda"], found["reference"], strict=True)):
        assert (mine.double() - exact_one).norm() <= 4 * TOLERANCE[dtype] * exact_one.norm(), index


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 768, 1032, 2048, 5120])
@pytest.mark.parametrize("added", [False, True])
def test_norm(dtype: torch.dtype, width: int, added: bool) -> None:
    given = {"x": draw(5, 7, width), "weight": draw(width)}
    if added:
        given["added"] = draw(5, 7, width).to(dtype)

    def work(x: Tensor, weight: Tensor, added: Tensor | None = None) -> list[Tensor]:
        wide = torch.float64 if x.dtype == torch.float64 else dtype
        y, total = add_rms_norm(x, added, weight, 1e-5, wide)
        return [y] if added is None else [y, total]

    compare(work, given, TOLERANCE[dtype])


@pytest.mark.parametrize("frozen", [("weight",), ("weight", "added"), ("weight", "residual"), ("residual", "added")])
def test_gradients_of_what_is_frozen_are_left_out(frozen: tuple[str, ...]) -> None:
    given = {"residual": draw(5, 7, 2 * 64)[..., 64:], "added": draw(5, 7, 64), "weight": draw(64)}
    trained = [name for name in given if name not in frozen]
    results = []
    for how in ("cuda", "reference"):
        backend.use(how)
        own = {name: x.detach().requires_grad_(name in trained) for name, x in given.items()}
        y, total = add_rms_norm(own["residual"], own["added"], own["weight"], 1e-5, torch.float32)
        plain, _ = add_rms_norm(own["residual"], None, own["weight"], 1e-5, torch.float32)
        loss = (y * torch.arange(64, device="cuda")).sum() + total.square().sum() + plain.cumsum(0).sum()
        results.append(torch.autograd.grad(loss, [own[name] for name in trained]))
    for mine, plain in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)


def test_the_ops_pass_opcheck() -> None:
    residual, added, scale = (draw(*shape).requires_grad_() for shape in ((5, 64), (5, 64), (64,)))
    torch.library.opcheck(norm_kernels._forward, (residual, added, scale, 1e-5, torch.float32))
    torch.library.opcheck(norm_kernels._forward, (residual, None, scale, 1e-5, torch.bfloat16))


def test_row_bits_are_the_same_on_both_devices() -> None:
    keys = torch.tensor([0, 1, 2**31 - 1, 123456789])
    assert torch.equal(row_bits(keys, 500), row_bits(keys.cuda(), 500).cpu())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("states", [5, 8, 16, 24, 64])
def test_decode_steps(dtype: torch.dtype, states: int) -> None:
    rows, channels = 300, 72
    x, dt, z = draw(rows, 3 * channels).to(dtype).chunk(3, dim=1)
    B, C = draw(rows, 2 * states).to(dtype).chunk(2, dim=1)
    conv, taps, bias, ssm = (
        draw(rows, 3, channels).to(dtype),
        draw(channels, 4),
        draw(channels),
        draw(rows, channels, states),
    )
    fixed = {"A": -draw(channels, states).abs(), "D": draw(channels)}
    extra = {"dt_bias": bias, "state_offset": draw(channels, states), "output_offset": draw(channels)}

    def steps(wide: torch.dtype) -> list[Tensor]:
        def to(value: Tensor) -> Tensor:
            return value.to(wide) if wide == torch.float64 else value.clone()

        u, window = causal_conv1d_update(to(x), to(conv), to(taps), to(bias))
        y, state = selective_state_update(
            to(ssm),
            u,
            to(dt),
            to(fixed["A"]),
            to(B),
            to(C),
            to(fixed["D"]),
            to(z),
            **{name: to(value) for name, value in extra.items()},
        )
        return [u, window, y, state]

    backend.use("cuda")
    mine = steps(torch.float32)
    backend.use("reference")
    for name, a, b in zip(("u", "window", "y", "state"), mine, steps(torch.float64), strict=True):
        assert (a.double() - b).norm() <= 2 * TOLERANCE[dtype] * b.norm(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_gives_the_same_on_both_backends(dtype: torch.dtype) -> None:
    model = init_weights(Mamba(MambaConfig(64, 3, 96)), 0).to("cuda").eval()
    for name, parameter in model.named_parameters():
        if not name.endswith(("A_log", ".D")):
            parameter.data = parameter.data.to(dtype)
    tokens = torch.randint(0, 96, (4, 37), device="cuda")
    lengths = torch.tensor([37, 20, 1, 36], device="cuda")
    results = []
    for how in ("cuda", "reference"):
        backend.use(how)
        with torch.no_grad():
            logits = [model(tokens)]
            first, cache = model.prefill(tokens, lengths)
            logits += [first, *(model.step(tokens[:, i], cache) for i in range(3))]
        results.append(logits)
    scale = 1e-5 if dtype == torch.float32 else 3e-2
    for mine, plain in zip(*results, strict=True):
        assert (mine.float() - plain.float()).norm() <= scale * plain.float().norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 96, 50280])
def test_cross_entropy(dtype: torch.dtype, width: int) -> None:
    """Of logits from flat to certain, one of them minus infinity, and rows without loss."""
    logits = (draw(40, width) * torch.logspace(-2, 2, 40, device="cuda").unsqueeze(1)).to(dtype)
    targets = torch.randint(0, width, (40,), device="cuda")
    logits[3, (targets[3] + 1) % width] = float("-inf")
    targets[::7] = IGNORE
    backend.use("cuda")
    broken = logits.clone()
    broken[1] = float("nan")
    assert cross_entropy(broken, targets, torch.tensor(50, device="cuda")).isnan()
    found = []
    for how in ("cuda", "reference"):
        backend.use(how)
        own = (logits if how == "cuda" else logits.double()).detach().requires_grad_()
        loss = cross_entropy(own, targets, torch.tensor(50, device="cuda"))
        found.append((loss, *torch.autograd.grad(3 * loss, own)))
    (loss, gradient), (exact_loss, exact) = found
    assert loss.dtype == torch.float32
    assert abs(float(loss) - float(exact_loss)) <= 1e-6 * abs(float(exact_loss))
    assert not gradient[::7].any()
    # shares are exact to float32's differences of logits, of which one has 3/50 taken off; then the result is rounded
    largest = logits.double().nan_to_num(neginf=0).abs().amax(1)
    shares = 4 * torch.finfo(torch.float32).eps * (1 + largest) * 3 / 50
    rounding = torch.finfo(dtype).eps * exact.abs().amax(1) + torch.finfo(dtype).smallest_normal
    assert ((gradient.double() - exact).abs().amax(1) <= shares + rounding).all()


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("state_offset", {}),
    ("initial_state", {}),
    ("lora", {"dropout": 0.0, "targets": ["in_proj", "x_proj.B", "dt_proj"]}),
    ("lora", {"dropout": 0.0, "targets": ["in_proj.x", "x_proj", "dt_proj", "out_proj"], "use_dora": True}),
    ("lora", {"dropout": 0.0, "targets": ["in_proj", "x_proj.B"], "init": "pissa"}),
    ("additional_scan", {"a_init": "s4d"}),
    ("bitfit", {}),
    ("full", {}),
    ("prefix", {}),
]


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_the_gradients_of_a_model_are_the_same_on_both_backends(name: str, options: dict[str, Any]) -> None:
    model = init_weights(Mamba(MambaConfig(64, 3, 96)), 0)
    adapter = attach(model, load_method(method_section(name, options)))
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    model = model.to("cuda").train()
    tokens = torch.randint(0, 96, (4, 37), device="cuda")
    found = []
    for how in ("cuda", "reference"):
        backend.use(how)
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        found.append({key: value.grad for key, value in adapter.named_parameters()})
    for key, mine in found[0].items():
        assert (mine - found[1][key]).norm() <= 1e-4 * found[1][key].norm(), key


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 3])
def test_keyed_dropout(dtype: torch.dtype, parts: int) -> None:
    """The same elements as the plain operations leave, and their gradients; x is a part of a wider tensor."""
    rows = row_bits(torch.arange(5, device="cuda"), 33)
    columns = torch.stack([column_bits(place, 72) for place in range(parts)]).cuda()
    wide, weights = draw(5, 33, 144).to(dtype), draw(parts, 5, 33, 72).to(dtype)
    found = {}
    for how in ("cuda", "reference"):
        backend.use(how)
        x = wide.clone().requires_grad_()
        out, beside = keyed_dropout(x[..., 72:], rows, columns, 0.1)
        found[how] = out, *torch.autograd.grad(out, x, weights, retain_graph=True)
        found[how] += torch.autograd.grad([out, beside], x, [weights, weights[0].clone()])
    assert torch.equal(found["cuda"][0], found["reference"][0])
    torch.testing.assert_close(found["cuda"][1], found["reference"][1])
    mine, plain = (found[how][2].double() for how in ("cuda", "reference"))  # sums that round at other places
    assert (mine - plain).norm() <= TOLERANCE[dtype] * plain.norm()
