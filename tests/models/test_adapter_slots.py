"""What a block's slots may hold beside each other."""

from __future__ import annotations

import pytest
import torch
from helpers.small_models import small_model
from torch import nn

from ssm_tune.config.groups import method_section
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method


def test_extra_states_and_an_update_of_x_proj_are_refused() -> None:
    """The update would be lost otherwise: the block makes the product with extra states itself."""
    model = small_model()
    attach(model, load_method(method_section("additional_scan")))
    mixer = model.mixers[1]
    mixer.injection.updates["x_proj"] = nn.Linear(*reversed(mixer.x_proj.weight.shape))
    with pytest.raises(ValueError, match="extra states or an update of x_proj, not both"):
        model(torch.zeros(1, 3, dtype=torch.int64))
