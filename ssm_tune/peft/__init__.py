"""State-based tuning for Hugging Face peft: importing this registers the methods.

    import ssm_tune.peft
    from ssm_tune.peft import StateOffsetConfig

    model = peft.get_peft_model(model, StateOffsetConfig(rank=8))

See docs/peft.md for the models and what works on each. Raises ImportError where transformers or peft is missing or too
old.
"""

from ssm_tune.peft.registration import register, require_versions

require_versions()


from ssm_tune.peft.config import AdditionalScanConfig, InitialStateConfig, StateOffsetConfig  # noqa: E402
from ssm_tune.peft.tuners import AdditionalScanModel, InitialStateModel, StateOffsetModel  # noqa: E402

register("state_offset", StateOffsetConfig, StateOffsetModel)
register("initial_state", InitialStateConfig, InitialStateModel)
register("additional_scan", AdditionalScanConfig, AdditionalScanModel)

__all__ = [
    "AdditionalScanConfig",
    "AdditionalScanModel",
    "InitialStateConfig",
    "InitialStateModel",
    "StateOffsetConfig",
    "StateOffsetModel",
]
