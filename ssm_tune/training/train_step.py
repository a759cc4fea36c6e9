"""One optimizer step as work on the device: nothing in it waits for the host, so that it can be captured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssm_tune.data.collator import Batch
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops.cross_entropy import cross_entropy
from ssm_tune.training.distributed import ALONE, World


def label_loss(model: Mamba, batch: Batch) -> Tensor:
    """Cross-entropy summed over the batch's label tokens and divided by ``batch.label_count``, a scalar.

    Logits are made at the labels' positions alone.
    """
    hidden = model.hidden(batch.input_ids).flatten(0, 1).index_select(0, batch.positions)
    return cross_entropy(model.logits(hidden), batch.targets, batch.label_count)


class Step:
    """Forward, backward, clipping and AdamW on a model's parameters, for a batch in one or in several parts.

    What the host tells it, the learning rate and the number of the step in its block, and what it answers, loss and
    gradient norm, lie on the device; the host reads a block of answers at once.

    block: steps at most between two reads. ahead: the host asks for steps that it does not wait for: the learning rate
    is a tensor then, and AdamW the fused one, which keeps all that it needs on the device. betas, eps, weight_decay:
    AdamW's. parts: that a batch comes in here; world: the processes that have the other parts.

    Where there is more than one part, gradients are summed in one stretch of memory for each dtype, which captured
    parts and the sum over processes need to be in one place.
    """

    def __init__(
        self, model: Mamba, parameters: list[nn.Parameter], max_grad_norm: float, block: int, ahead: bool,
        betas: tuple[float, float], eps: float, weight_decay: float, parts: int = 1, world: World = ALONE,
    ) -> None:  # fmt: skip
        self.model, self.parameters, self.max_grad_norm = model, parameters, max_grad_norm
        self.optimizer = torch.optim.AdamW(
            parameters, lr=torch.zeros((), device=model.device) if ahead else 0.0, betas=betas, eps=eps,
            weight_decay=weight_decay, fused=ahead or None, capturable=ahead and model.device.type == "cuda",
        )  # fmt: skip
        self.world = world
        self.loss = torch.zeros((), dtype=torch.float64, device=model.device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=model.device)
        self._answers = torch.zeros(block, 2, dtype=torch.float64, device=model.device)
        self._sums = _summed(parameters) if parts > 1 or world.size > 1 else []

    @property
    def whole(self) -> bool:
        """Whether a step is one piece of work: nothing is summed between its parts."""
        return not self._sums

    def prepare(self, rate: float, slot: int) -> None:
        """Set the learning rate and the number in the block, from 0, of the step that comes next."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._slot.fill_(slot)

    def begin(self) -> None:
        """Forget loss and gradients of the step before."""
        self.loss.zero_()
        self.forget_gradients()
        for total in self._sums:
            total.zero_()

    def backward(self, part: Batch) -> None:
        """Add a part's loss to ``loss`` and its gradients to those at the parameters."""
        with self.model.randomness.of(part.keys):
            loss = label_loss(self.model, part)
            loss.backward()
        self.loss += loss.detach()

    def reduce(self) -> None:
        """Add what the other processes have found. In place, on the current stream."""
        for total in self._sums:
            self.world.add(total)
        self.world.add(self.loss)

    def update(self) -> None:
        """Clip the gradients, let the optimizer step, and keep the answers."""
        gradients: dict[torch.dtype, list[Tensor]] = {}  # apart: what mixes dtypes makes a launch of each gradient
        for parameter in self.parameters:
            if parameter.grad is not None:
                gradients.setdefault(parameter.dtype, []).append(parameter.grad)
        norms = [torch.stack(torch._foreach_norm(same)) for same in gradients.values()]
        norm = torch.linalg.vector_norm(torch.cat(norms))
        factor = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for dtype, same in gradients.items():
            torch._foreach_mul_(same, factor.to(dtype))
        self.optimizer.step()
        answers = torch.stack([self.loss, norm.to(self.loss.dtype)])
        self._answers.index_copy_(0, self._slot, answers.unsqueeze(0))

    def gradients(self, parts: Sequence[Batch]) -> None:
        """All that comes before ``update``."""
        self.begin()
        for part in parts:
            self.backward(part)
        self.reduce()

    def __call__(self, parts: Sequence[Batch]) -> None:
        self.gradients(parts)
        self.update()

    def forget_gradients(self) -> None:
        """Let go of the gradients' memory, unless they are kept in one place."""
        if self.whole:
            self.optimizer.zero_grad(set_to_none=True)

    def read(self, count: int) -> list[list[float]]:
        """Loss and gradient norm of the block's first ``count`` steps. Waits for the device."""
        return [[short(value) for value in answers] for answers in self._answers[:count].tolist()]


def short(value: float) -> float:
    """Nine significant digits of it, which give back every float32 and take a third less of a file of steps."""
    return float(f"{value:.9g}")


def _summed(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Memory for all gradients, one tensor a dtype, of which the parameters' gradients become views."""
    sums = []
    for dtype in sorted({parameter.dtype for parameter in parameters}, key=str):
        same = [parameter for parameter in parameters if parameter.dtype == dtype]
        total = torch.zeros(sum(parameter.numel() for parameter in same), dtype=dtype, device=same[0].device)
        for parameter, piece in zip(same, total.split([parameter.numel() for parameter in same]), strict=True):
            parameter.grad = piece.view_as(parameter)
        sums.append(total)
    return sums
