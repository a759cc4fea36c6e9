"""Mamba-2 on a GPU: logits, gradients, decoding and captured steps, against plain PyTorch and single launches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from helpers.small_models import Silent, methods_of

from ssm_tune.config.groups import method_section
from ssm_tune.config.schema import TrainConfig
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.generation.generate import generate
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.methods.adapter import Adapter, attach
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import Mamba2Config
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops import backend
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.training.graphed_step import GraphedTrainStep
from ssm_tune.training.settings import TrainSettings
from ssm_tune.training.trainer import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CONFIG = Mamba2Config(d_model=64, n_layer=2, vocab_size=256, headdim=64, d_state=64, ngroups=2)
EXAMPLES = [
    TokenizedExample([(7 * i + j) % 255 + 1 for j in range(20 + 9 * (i % 2) * (i % 3))], 4 + i % 3) for i in range(40)
]
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """In place of this folder's fixture: everything is tested as it runs."""
    backend.use("auto")
    yield
    backend.use("auto")


def tuned(name: str, dtype: torch.dtype = torch.float32) -> Adapter:
    """A small model with a method's tensors away from their start."""
    model = init_weights(Mamba(CONFIG), 0).cuda()
    model.cast_params(dtype)
    far = 0.02 if name in ("full", "partial") else 0.2
    adapter = attach(model, load_method(method_section(name, family="mamba2")))
    with torch.no_grad():
        for value in adapter.parameters():
            value += (far * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))).to(value)
    return adapter


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize("name", methods_of("mamba2"))
def test_prefill_and_steps_are_those_of_plain_pytorch(name: str, dtype: torch.dtype) -> None:
    model = tuned(name, dtype).model.eval()
    tokens = torch.randint(1, 256, (4, 137), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    lengths, found = torch.tensor([137, 64, 1, 65], device="cuda"), []
    for how in ("auto", "reference"):
        backend.use(how)
        with torch.no_grad():
            logits, cache = model.prefill(tokens, lengths)
            found.append([model(tokens), logits, *(model.step(tokens[:, i], cache) for i in range(3))])
    for mine, plain in zip(*found, strict=True):
        assert (mine.float() - plain.float()).norm() <= ROUNDING[dtype] * plain.float().norm()


@pytest.mark.parametrize("name", methods_of("mamba2"))
def test_gradients_are_those_of_plain_pytorch(name: str) -> None:
    adapter = tuned(name)
    model = adapter.model.train()
    tokens = torch.randint(1, 256, (4, 137), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    found = []
    for how in ("auto", "reference"):
        backend.use(how)
        torch.manual_seed(0)  # the same dropout
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        found.append({key: value.grad for key, value in adapter.named_parameters()})
    for key, mine in found[0].items():
        assert (mine - found[1][key]).norm() <= 1e-3 * found[1][key].norm(), key


@pytest.mark.parametrize("num_beams", [1, 5])
@pytest.mark.parametrize("name", methods_of("mamba2"))
def test_decoding_on_the_gpu_gives_the_tokens_of_the_cpu(name: str, num_beams: int) -> None:
    """Captured, with prompts of different lengths; in float32, where rounding decides no token of so few."""
    model = tuned(name).model.eval()
    prompts = [[(5 * i + j) % 255 + 1 for j in range(1 + 7 * (i % 5))] for i in range(12)]
    settings = DecodeSettings(num_beams=num_beams, max_new_tokens=12)
    mine = generate(model, prompts, settings)
    plain = generate(model.cpu(), prompts, settings)
    assert sum(one == other for one, other in zip(mine, plain, strict=True)) >= len(prompts) - 1


def losses(name: str, monkeypatch: pytest.MonkeyPatch, capture: bool) -> list[float]:
    model = init_weights(Mamba(CONFIG), 0).cuda()
    model.cast_params(torch.bfloat16)
    adapter = attach(model, load_method(method_section(name, family="mamba2")), dtype=torch.float32)
    settings = TrainSettings.of(TrainConfig(epochs=100, max_steps=13), 1e-2, 4, seed=42)
    trainer = Trainer(adapter, EXAMPLES, settings, 0, CudaCapture(model.device))
    assert trainer.graphs is not None
    with monkeypatch.context() as patch:
        patch.setattr(trainer.graphs, "reset", lambda: None)
        if not capture:
            patch.setattr(GraphedTrainStep, "_capture", lambda *_: None)
        trainer.fit(lambda epoch, step: None, Silent())
    assert not capture or (trainer.graphs.captured and not trainer.graphs.fallback)
    return [row["loss"] for row in trainer.result.steps]


@pytest.mark.parametrize("name", methods_of("mamba2"))
def test_captured_steps_give_the_losses_of_single_launches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    singly, graphs = losses(name, monkeypatch, capture=False), losses(name, monkeypatch, capture=True)
    assert graphs == pytest.approx(singly, rel=2e-2)
