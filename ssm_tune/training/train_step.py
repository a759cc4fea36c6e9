"""One optimizer step as work on the device that never waits for the host, so that a CUDA graph can hold it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssm_tune.data.collator import Batch
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops.cross_entropy import cross_entropy
from ssm_tune.training.distributed import SINGLE_PROCESS, ProcessGroup


def label_loss(model: Mamba, batch: Batch) -> Tensor:
    """Cross-entropy summed over the batch's label tokens and divided by ``batch.label_count``, a scalar.

    Logits are computed at the labels' positions alone.
    """
    hidden = model.hidden(batch.input_ids).flatten(0, 1).index_select(0, batch.positions)
    return cross_entropy(model.logits(hidden), batch.targets, batch.label_count)


class TrainStep:
    """Forward, backward, gradient clipping and AdamW, for a batch that comes in one or several micro batches.

    The learning rate, and the loss and gradient norm of the last ``read_every`` steps, live on the device; the host
    reads the results of several steps at once.

    asynchronous: the host queues steps without waiting for them. The learning rate is a tensor then, and AdamW the
    fused one, which keeps its state on the device. betas, eps, weight_decay: AdamW's. accumulation_steps: micro batches
    of a batch in this process. group: the processes that share each batch. groups: the trained parameters, by the
    factor on their learning rate.

    With several micro batches or processes, the gradients of each dtype are views of one flat tensor: captured
    backward passes add to it in place, and one all-reduce sums it over the processes.
    """

    def __init__(
        self,
        model: Mamba,
        groups: list[tuple[float, list[nn.Parameter]]],
        *,
        max_grad_norm: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        read_every: int,
        asynchronous: bool,
        accumulation_steps: int = 1,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.model, self.max_grad_norm = model, max_grad_norm
        self.parameters = [parameter for _, members in groups for parameter in members]
        self._rate_factors = [factor for factor, _ in groups]
        rates = [torch.zeros((), device=model.device) if asynchronous else 0.0 for _ in groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": members, "lr": rate} for (_, members), rate in zip(groups, rates, strict=True)],
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            fused=asynchronous or None,
            capturable=asynchronous and model.device.type == "cuda",
        )
        self.group = group
        self.loss = torch.zeros((), dtype=torch.float64, device=model.device)
        self._index = torch.zeros(1, dtype=torch.int64, device=model.device)
        self._results = torch.zeros(read_every, 2, dtype=torch.float64, device=model.device)
        self._flat_gradients = _flat_gradients(self.parameters) if accumulation_steps > 1 or group.size > 1 else []

    @property
    def is_single_graph(self) -> bool:
        """Whether one graph holds a step: no gradients are summed over micro batches or processes."""
        return not self._flat_gradients

    def prepare(self, learning_rate: float, index: int) -> None:
        """Set the next step's learning rate, and the row of the results that it writes."""
        for param_group, factor in zip(self.optimizer.param_groups, self._rate_factors, strict=True):
            if isinstance(param_group["lr"], Tensor):
                param_group["lr"].fill_(factor * learning_rate)
            else:
                param_group["lr"] = factor * learning_rate
        self._index.fill_(index)

    def begin(self) -> None:
        """Reset the loss and the gradients."""
        self.loss.zero_()
        self.zero_gradients()
        for flat in self._flat_gradients:
            flat.zero_()

    def backward(self, micro_batch: Batch) -> None:
        """Add a micro batch's loss to ``loss`` and its gradients to the parameters'."""
        with self.model.randomness.of(micro_batch.keys):
            loss = label_loss(self.model, micro_batch)
            loss.backward()
        self.loss += loss.detach()

    def all_reduce(self) -> None:
        """Sum loss and gradients over the processes, in place, on the current stream."""
        for flat in self._flat_gradients:
            self.group.all_reduce(flat)
        self.group.all_reduce(self.loss)

    def update(self) -> None:
        """Clip the gradients, step the optimizer, and store loss and gradient norm."""
        gradients: dict[torch.dtype, list[Tensor]] = {}  # by dtype: foreach operations on mixed dtypes run one by one
        for parameter in self.parameters:
            if parameter.grad is not None:
                gradients.setdefault(parameter.dtype, []).append(parameter.grad)
        norms = [torch.stack(torch._foreach_norm(same)) for same in gradients.values()]
        norm = torch.linalg.vector_norm(torch.cat(norms))
        factor = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for dtype, same in gradients.items():
            torch._foreach_mul_(same, factor.to(dtype))
        self.optimizer.step()
        results = torch.stack([self.loss, norm.to(self.loss.dtype)])
        self._results.index_copy_(0, self._index, results.unsqueeze(0))

    def compute_gradients(self, batch: Sequence[Batch]) -> None:
        """All that comes before ``update``. batch: its micro batches."""
        self.begin()
        for micro_batch in batch:
            self.backward(micro_batch)
        self.all_reduce()

    def __call__(self, batch: Sequence[Batch]) -> None:
        """A whole step. batch: its micro batches."""
        self.compute_gradients(batch)
        self.update()

    def zero_gradients(self) -> None:
        """Free the gradients' memory, unless they are views of one flat tensor."""
        if self.is_single_graph:
            self.optimizer.zero_grad(set_to_none=True)

    def moments(self, names: Sequence[str]) -> dict[str, Tensor]:
        """AdamW's state (not copies), as ``NAME/KEY``. names: of ``parameters``, in their order."""
        named = zip(names, self.parameters, strict=True)
        found = ((name, self.optimizer.state.get(parameter, {})) for name, parameter in named)
        return {f"{name}/{key}": value for name, state in found for key, value in state.items()}

    def load_moments(self, names: Sequence[str], tensors: dict[str, Tensor]) -> None:
        """Take what ``moments`` gave. The state moves in memory."""
        numbers, state = {name: number for number, name in enumerate(names)}, dict[int, dict[str, Tensor]]()
        for path, tensor in tensors.items():
            name, key = path.rsplit("/", 1)
            state.setdefault(numbers[name], {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def reset_moments(self) -> None:
        """Set AdamW's state to what it is before the first step, where it lies."""
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()

    def read(self, count: int) -> list[list[float]]:
        """Loss and gradient norm of the last ``count`` steps. Waits for the device."""
        return [[round_to_9_digits(value) for value in pair] for pair in self._results[:count].tolist()]


def round_to_9_digits(value: float) -> float:
    """Nine significant digits, which restore every float32 exactly and take a third less space in steps.jsonl."""
    return float(f"{value:.9g}")


def _flat_gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    """One flat tensor for each dtype, of which the parameters' gradients become views."""
    flat_gradients = []
    for dtype in sorted({parameter.dtype for parameter in parameters}, key=str):
        same = [parameter for parameter in parameters if parameter.dtype == dtype]
        flat = torch.zeros(sum(parameter.numel() for parameter in same), dtype=dtype, device=same[0].device)
        for parameter, piece in zip(same, flat.split([parameter.numel() for parameter in same]), strict=True):
            parameter.grad = piece.view_as(parameter)
        flat_gradients.append(flat)
    return flat_gradients
