"""Steps as CUDA graphs against the same steps launched singly: every method, both adapter dtypes."""

from __future__ import annotations

import copy
import gc
import logging
import math
import os
from collections.abc import Iterator

import pytest
import torch
from helpers.small_models import Silent

from ssm_tune.config.groups import method_section, names
from ssm_tune.config.schema import TrainConfig
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops import backend
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.training.determinism import FIXED, VARIABLE
from ssm_tune.training.graphed_step import GraphedTrainStep
from ssm_tune.training.settings import TrainSettings
from ssm_tune.training.train_step import TrainStep
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Diverged

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
METHODS = names("method")
STEPS = 23
SEQUENCES = [
    TokenizedExample([(7 * i + j) % 255 + 1 for j in range(20 + 9 * (i % 2) * (i % 3))], 4 + i % 3) for i in range(40)
]
ROUNDING = {torch.float32: 2e-4, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """In place of this folder's fixture: steps are tested as they run, on the CUDA kernels."""
    backend.use("cuda")
    yield
    backend.use("auto")


def started(
    name: str,
    capture: bool,
    adapter: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.bfloat16,
    rate: float = 1e-2,
    micro_batch: int | None = None,
    deterministic: bool = False,
    **options: object,
) -> Trainer:
    model = init_weights(Mamba(MambaConfig(d_model=64, n_layer=2, vocab_size=256)), 0).cuda()
    model.cast_params(dtype)
    attached = attach(model, load_method(method_section(name, options)), dtype=adapter)
    settings = TrainSettings.of(TrainConfig(epochs=100, max_steps=STEPS), rate, 4, seed=42)
    graphs = CudaCapture(model.device) if capture else None
    return Trainer(attached, SEQUENCES, settings, 0, graphs, micro_batch, deterministic=deterministic)


def losses(training: Trainer) -> list[float]:
    training.fit(lambda epoch, step: None, Silent())
    return [row["loss"] for row in training.result.steps]


def captured(training: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The losses of a training whose graphs are not forgotten at its end, and all of which were captured."""
    assert training.graphs is not None
    monkeypatch.setattr(training.graphs, "reset", lambda: None)
    found = losses(training)
    assert not training.graphs.fallback
    assert len(training.graphs.captured) >= 2
    return found


def launched_singly(training: Trainer) -> list[float]:
    """The losses of the same steps without captures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GraphedTrainStep, "_capture", lambda *_: None)
        return losses(training)


@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_graphs_give_the_losses_of_single_launches(
    name: str, adapter: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = launched_singly(started(name, True, adapter))
    graphs = captured(started(name, True, adapter), monkeypatch)
    worst = max(abs(one - two) / one for one, two in zip(eager, graphs, strict=True))
    print(f"{name} {adapter}: loss {eager[0]:.3f} to {eager[-1]:.3f}, worst relative difference {worst:.1e}")
    assert worst < ROUNDING[torch.bfloat16]  # the activations' dtype


@pytest.mark.parametrize("micro_batch", [None, 2, 1])
def test_graphs_give_what_plain_training_gives(micro_batch: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws the same numbers in every step, padded and in parts."""
    alone = losses(started("lora", False, dtype=torch.float32))
    both = captured(started("lora", True, dtype=torch.float32, micro_batch=micro_batch), monkeypatch)
    worst = max(abs(one - two) / one for one, two in zip(alone, both, strict=True))
    print(f"lora with dropout, float32, {micro_batch or 4} examples at a time: worst relative difference {worst:.1e}")
    assert worst < ROUNDING[torch.float32]


@pytest.mark.parametrize(("blocks", "parts"), [(1, 0), (2, 0), (0, 2), (1, 1)])
@pytest.mark.parametrize("name", METHODS)
def test_recomputed_activations_give_the_same_losses(
    name: str, blocks: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, again = (started(name, True) for _ in range(2))
    again.adapter.model.recompute, again.adapter.model.recompute_selective = blocks, parts
    assert captured(kept, monkeypatch) == captured(again, monkeypatch)


@pytest.mark.parametrize("capture", [False, True], ids=["plain", "captured"])
@pytest.mark.parametrize("name", METHODS)
def test_two_deterministic_trainings_have_the_same_bits(
    name: str, capture: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.environ.get(VARIABLE) not in FIXED:
        pytest.skip(f"start pytest with {VARIABLE}={FIXED[0]}")
    one, two = (started(name, capture, torch.bfloat16, deterministic=True) for _ in range(2))
    assert losses(one) == losses(two)
    for parameter, other in zip(one.step.parameters, two.step.parameters, strict=True):
        assert torch.equal(parameter, other)


def test_dropout_differs_between_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    training = started("lora", True, dropout=0.5, rate=1e-30)  # nothing moves: what differs is dropout's
    training.check = None
    with torch.no_grad():
        for name, parameter in training.adapter.named_parameters():
            if name.endswith(".B"):
                parameter.normal_()
    training.sequences = [SEQUENCES[0]] * len(SEQUENCES)
    monkeypatch.setattr(training.graphs, "reset", lambda: None)
    found = losses(training)
    assert training.graphs is not None
    assert len(training.graphs.captured) == 1
    assert len(set(found)) == len(found)


def test_a_resumed_training_ends_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = started("lora", True, dtype=torch.float32)
    losses(whole)
    cut = started("lora", True, dtype=torch.float32)
    cut.adapter.model.train()
    while cut.position.step < 10:
        cut.train_steps()
    progress, kept = cut.state(), {name: value.clone() for name, value in cut.tensors().items()}
    rest = started("lora", True, dtype=torch.float32)
    rest.load(copy.deepcopy(progress), {name: value.clone() for name, value in kept.items()})
    losses(rest)
    cut.load(copy.deepcopy(progress), kept)  # in place, after captures
    losses(cut)
    for other in (rest, cut):
        for one, two in zip(whole.result.steps, other.result.steps, strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=ROUNDING[torch.float32])


def test_a_loss_that_is_not_finite_is_found_at_its_step() -> None:
    training = started("state_offset", True)
    training.adapter.model.train()
    while training.position.step < 10:
        training.train_steps()
    step = training.position.step
    with torch.no_grad():
        training.adapter.model.backbone.norm_f.weight[0] = math.inf
    with pytest.raises(Diverged, match=f"not finite at step {step + 1}"):
        training.train_steps()
    assert training.position.step == len(training.result.steps) == step + 1


def test_what_cannot_be_captured_runs_without_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    eager = losses(started("lora", False, dtype=torch.float32))
    plain = TrainStep.update

    def waits(step: TrainStep) -> None:
        step.loss.item()
        plain(step)

    monkeypatch.setattr(TrainStep, "update", waits)
    training = started("lora", True, dtype=torch.float32)
    assert training.graphs is not None
    monkeypatch.setattr(training.graphs, "reset", lambda: None)
    with caplog.at_level(logging.WARNING):
        found = losses(training)
    assert not training.graphs.captured
    assert (
        sum("cannot be captured" in record.message for record in caplog.records) == len(training.graphs.fallback) >= 2
    )
    assert len(found) == len(eager) == STEPS
    assert all(math.isfinite(loss) for loss in found)


def test_no_garbage_is_collected_during_a_capture() -> None:
    capture, x, seen = CudaCapture(torch.device("cuda")), torch.zeros(1, device="cuda"), []

    def work() -> None:
        x.add_(1)
        seen.append(gc.isenabled())

    with capture.running():
        capture(work)()
    assert (seen, gc.isenabled(), float(x)) == ([False], True, 1.0)
