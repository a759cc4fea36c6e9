"""One optimizer step as work on the device: nothing in it waits for the host, so that it can be captured."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_tune.batching import IGNORE, Batch
from ssm_tune.models.mamba import Mamba


def label_loss(model: Mamba, batch: Batch) -> Tensor:
    """Mean cross-entropy over the batch's label tokens, a scalar; logits are made at their positions alone."""
    hidden = model.hidden(batch.input_ids).flatten(0, 1).index_select(0, batch.positions)
    logits = model.logits(hidden)
    return F.cross_entropy(
        logits.float() if logits.dtype != torch.float64 else logits, batch.targets, ignore_index=IGNORE
    )


class Step:
    """Forward, backward, clipping and AdamW on a model's parameters.

    What the host tells it, the learning rate and the number of the step in its block, and what it answers, loss and
    gradient norm, lie on the device; the host reads a block of answers at once.

    block: steps at most between two reads. ahead: the host asks for steps that it does not wait for: the learning rate
    is a tensor then, and AdamW the fused one, which keeps all that it needs on the device. betas, eps, weight_decay:
    AdamW's.
    """

    def __init__(
        self, model: Mamba, parameters: list[nn.Parameter], max_grad_norm: float, block: int, ahead: bool,
        betas: tuple[float, float], eps: float, weight_decay: float,
    ) -> None:  # fmt: skip
        self.model, self.parameters, self.max_grad_norm = model, parameters, max_grad_norm
        self.optimizer = torch.optim.AdamW(
            parameters, lr=torch.zeros((), device=model.device) if ahead else 0.0, betas=betas, eps=eps,
            weight_decay=weight_decay, fused=ahead or None, capturable=ahead and model.device.type == "cuda",
        )  # fmt: skip
        self._slot = torch.zeros(1, dtype=torch.int64, device=model.device)
        self._answers = torch.zeros(block, 2, dtype=torch.float64, device=model.device)

    def prepare(self, rate: float, slot: int) -> None:
        """Set the learning rate and the number in the block, from 0, of the step that comes next."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._slot.fill_(slot)

    def backward(self, batch: Batch) -> Tensor:
        """The loss; leaves its gradients at the parameters."""
        self.forget_gradients()
        loss = label_loss(self.model, batch)
        loss.backward()
        return loss.detach()

    def update(self, loss: Tensor) -> None:
        """Clip the gradients, let the optimizer step, and keep the answers."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        factor = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for dtype in sorted({gradient.dtype for gradient in gradients}, key=str):
            # in their own dtype: a factor of another would make a launch of each gradient's product
            torch._foreach_mul_([x for x in gradients if x.dtype == dtype], factor.to(dtype))
        self.optimizer.step()
        answers = torch.stack([loss.to(self._answers.dtype), norm.to(self._answers.dtype)])
        self._answers.index_copy_(0, self._slot, answers.unsqueeze(0))

    def __call__(self, batch: Batch) -> None:
        self.update(self.backward(batch))

    def forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def read(self, count: int) -> list[list[float]]:
        """Loss and gradient norm of the block's first ``count`` steps. Waits for the device."""
        answers: list[list[float]] = self._answers[:count].tolist()
        return answers
