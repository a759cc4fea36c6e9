"""``keyed_dropout``: dropout that can be drawn again anywhere, for each decision is a hash of what names the element.

The generators of PyTorch draw by shape and in turn, so a batch that is padded, cut into parts or spread over processes
would meet other numbers. Here an element's number depends on its row's key, its position, the place in the model and
its column alone, whatever else is computed with it.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ssm_tune.ops.backend import kernels_run

_GOLDEN = 0x9E3779B9
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B
"""Odd factors of a 32-bit hash (C. Wellons's lowbias32): every input bit flips every output bit about half the time."""


def row_key(seed: int, step: int, example: int) -> int:
    """What tells a row of a batch in training from all others: 31 bits of a hash."""
    digest = hashlib.blake2b(f"{seed} {step} {example}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1


def row_bits(keys: Tensor, length: int) -> Tensor:
    """Random bits of each position, (B, L) int32, for the rows' keys, (B,) int64."""
    positions = torch.arange(length, device=keys.device) * _signed(_GOLDEN)
    return _mixed(_mixed(keys.to(torch.int32)).unsqueeze(1) + positions.to(torch.int32))


def column_bits(place: int, width: int) -> Tensor:
    """Random bits of each column, (D,) int32 on the CPU, for a place in the model that no other dropout has."""
    return row_bits(torch.tensor([place]), width)[0]


def keyed_dropout(x: Tensor, rows: Tensor, columns: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Copies of ``x``, each with a share of its own of the elements set to zero; the others stay as they are (the usual
    1 / (1 - share) is left to a factor that the caller has anyway).

    Args:
        x: (B, L, D). rows: (B, L), as ``row_bits`` gives; columns: (P, D), each as ``column_bits`` does, on x's device.
        share: in [0, 1).

    Returns (P, B, L, D) in x's dtype, and x for its other reader, as ``projections`` hand theirs on.
    """
    threshold = round(share * 2**32) - 2**31
    if x.shape[2] % 8 == 0 and kernels_run("keyed_dropout", x, x.shape[2]):  # other ranks of dt_proj are few columns
        from ssm_tune.ops.keyed_dropout.cuda import DropoutWithInput

        dropped, beside = DropoutWithInput.apply(x, rows, columns, threshold)
        return dropped, beside
    bits = rows.unsqueeze(-1) ^ columns[:, None, None]
    bits.mul_(_signed(_FIRST))
    bits.bitwise_xor_((bits >> 15).bitwise_and_(0x1FFFF))
    bits.mul_(_signed(_SECOND))
    return torch.where(bits >= threshold, x, 0.0), x


def _mixed(bits: Tensor) -> Tensor:
    """int32 -> int32, one to one, without any pattern left."""
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * _signed(_FIRST)
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    bits = bits * _signed(_SECOND)
    return bits ^ ((bits >> 16) & 0xFFFF)


def _signed(number: int) -> int:
    """The int32 of the same 32 bits."""
    return number - 2**32 if number >= 2**31 else number
