"""Partial tuning: which parameters a name stands for, and that training moves these and no others."""

from __future__ import annotations

import pytest
import torch
from helpers.small_models import small_model

import ssm_tune
from ssm_tune.models.config import Mamba2Config, MambaConfig
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError

NAMED = {
    "mamba": {
        "A_log": ("mixer.A_log",),
        "D": ("mixer.D",),
        "conv1d": ("mixer.conv1d.weight", "mixer.conv1d.bias"),
        "conv1d.bias": ("mixer.conv1d.bias",),
        "dt_bias": ("mixer.dt_proj.bias",),
        "dt_proj": ("mixer.dt_proj.weight", "mixer.dt_proj.bias"),
        "x_proj": ("mixer.x_proj.weight",),
        "norm": ("norm.weight",),
    },
    "mamba2": {
        "A_log": ("mixer.A_log",),
        "D": ("mixer.D",),
        "conv1d": ("mixer.conv1d.weight", "mixer.conv1d.bias"),
        "dt_bias": ("mixer.dt_bias",),
        "in_proj": ("mixer.in_proj.weight",),
        "norm": ("norm.weight", "mixer.norm.weight"),
        "mixer.norm": ("mixer.norm.weight",),
    },
}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in NAMED for name in NAMED[family]])
def test_a_name_stands_for_these_parameters_of_every_layer(family: str, name: str) -> None:
    adapter = ssm_tune.attach(small_model(family=family), "partial", parameters=[name])
    expected = {f"backbone.layers.{layer}.{own}" for layer in (0, 1) for own in NAMED[family][name]}
    assert dict(adapter.named_parameters()).keys() == expected


def test_parameters_beside_the_layers() -> None:
    adapter = ssm_tune.attach(small_model(), "partial", parameters=["norm_f", "embedding"])
    assert dict(adapter.named_parameters()).keys() == {"backbone.embedding.weight", "backbone.norm_f.weight"}
    untied = Mamba(MambaConfig(16, 2, 64, d_state=4, tie_embeddings=False))
    assert ssm_tune.attach(untied, "partial", parameters=["lm_head"]).trainable == 64 * 16
    with pytest.raises(UserError, match="lm_head is its embedding"):
        ssm_tune.attach(small_model(), "partial", parameters=["lm_head"])


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_bitfit_is_a_case_of_it(family: str) -> None:
    partial = ssm_tune.attach(small_model(family=family), "partial", parameters=["conv1d.bias", "dt_bias"])
    bitfit = ssm_tune.attach(small_model(family=family), "bitfit")
    assert partial.state.keys() == bitfit.state.keys()
    assert partial.method.num_trainable_params(partial.model.config) == bitfit.trainable


def test_counts_of_the_published_sizes() -> None:
    """Sums by hand: D 1,536, N 16, K 4 and 24 layers; of the Mamba-2 24 heads and 1,792 channels of the convolution."""
    for config, count in (
        (MambaConfig(768, 24, 50_280), 24 * (1536 * 16 + 1536 + 1536 * 5 + 1536)),
        (Mamba2Config(768, 24, 50_288), 24 * (24 + 24 + 1792 * 5 + 24)),
    ):
        with torch.device("meta"):
            model = Mamba(config)
        names = ["A_log", "D", "conv1d", "dt_bias"]
        assert ssm_tune.attach(model, "partial", parameters=names).trainable == count


@pytest.mark.parametrize(
    ("family", "names", "words"),
    [
        ("mamba2", ["A_log", "x_proj"], ("'x_proj'", "a Mamba-2", "A_log, D, conv1d, dt_bias, embedding, in_proj")),
        ("mamba2", ["dt_proj.bias"], ("'dt_proj.bias'", "a Mamba-2")),
        ("mamba", ["conv1"], ("'conv1'", "a Mamba-1", "conv1d")),
        ("mamba", [], ("at least one",)),
        ("mamba", ["A_log", 3], ("name", "3")),
        ("mamba", "A_log", ("list",)),
    ],
)
def test_a_name_that_the_family_lacks_is_refused(family: str, names: object, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        ssm_tune.attach(small_model(family=family), "partial", parameters=names)
    assert all(word in str(caught.value) for word in words), caught.value
