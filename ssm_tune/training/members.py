"""Runs that train together: *members* of one step, whose batches go through the frozen model as one.

Each member is a ``Trainer`` of its own, with its own order of examples, dropout keys, learning rate, clipping, AdamW
and position, over parameters of its own (``adapter.attach_members``). Only the gradients are computed for all: the
members' rows lie one behind the other, padded to the longest of them, and each trained tensor is theirs stacked
(ops/member_rows.py). Every member's loss is that of its own rows and reaches its own parameters alone, so that a member
does what it would do by itself, but for the rounding of products over more rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from ssm_tune.data.collator import Batch, batch_extent
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.swapped import swapped_parameters
from ssm_tune.ops.cross_entropy import cross_entropy
from ssm_tune.training.determinism import deterministic_algorithms
from ssm_tune.training.trainer import Trainer


def begin_steps(trainers: Sequence[Trainer]) -> None:
    """Move each of the trainers on by a step and compute its gradients; ``finish_step`` and ``read_steps`` are left to
    the caller, for what they raise is one member's alone.

    The trainers have one model, as many rows a micro batch, and no other processes.
    """
    first = trainers[0]
    taken = [trainer.begin_step() for trainer in trainers]
    for trainer in trainers:
        trainer.step.begin()
    with deterministic_algorithms() if first.deterministic else nullcontext():
        for rows in first.rows:
            length = max(batch_extent(examples.sequences[rows])[0] for examples in taken)
            made = zip(trainers, taken, strict=True)
            batches = [trainer.micro_batch(examples, rows, length) for trainer, examples in made]
            for trainer, batch in zip(trainers, batches, strict=True):
                trainer.current_shape = batch.shape
            _add_gradients(trainers, batches)


def _add_gradients(trainers: Sequence[Trainer], batches: Sequence[Batch]) -> None:
    """Add each batch's loss to its trainer's, and its gradients to the trainer's parameters'."""
    model = trainers[0].adapter.model
    batches = [batch.to(model.device) for batch in batches]
    named = [dict(trainer.adapter.named_parameters()) for trainer in trainers]
    stacked = {name: torch.stack([own[name] for own in named]) for name in named[0]}
    keys = torch.cat([batch.keys for batch in batches])
    with swapped_parameters(model, stacked), model.randomness.of(keys):
        losses = member_losses(model, batches)
        torch.stack(losses).sum().backward()
    for trainer, loss in zip(trainers, losses, strict=True):
        trainer.step.loss += loss.detach()


def member_losses(model: Mamba, batches: Sequence[Batch]) -> list[Tensor]:
    """``label_loss`` of each batch, computed in one forward. The batches have as many rows and tokens each."""
    rows, length, _ = batches[0].shape
    hidden = model.hidden(torch.cat([batch.input_ids for batch in batches])).flatten(0, 1)
    positions = [batch.positions + number * rows * length for number, batch in enumerate(batches)]
    logits = model.logits(hidden.index_select(0, torch.cat(positions)))
    parts = logits.split([batch.shape[2] for batch in batches])
    return [cross_entropy(own, batch.targets, batch.label_count) for own, batch in zip(parts, batches, strict=True)]
