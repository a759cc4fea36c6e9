"""Small random models of transformers, one for each architecture that ssm_tune.peft tunes."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

VOCABULARY = 64
_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ATTENTION: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
_MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 16,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
    "mamba_expand": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "Mamba": {"state_size": 8, "num_hidden_layers": 2, "time_step_rank": 4},
    "FalconMamba": {"state_size": 8, "num_hidden_layers": 2, "time_step_rank": 4},
    "Jamba": _ATTENTION
    | {
        "num_hidden_layers": 4,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    "Mamba2": {
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 16,
        "n_groups": 2,
        "chunk_size": 8,
        "expand": 2,
    },
    "Bamba": _ATTENTION | _MAMBA2 | {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "GraniteMoeHybrid": _ATTENTION
    | _MAMBA2
    | {
        "num_hidden_layers": 3,
        "layer_types": ["mamba", "attention", "mamba"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 48,
    },
    "FalconH1": _ATTENTION
    | _MAMBA2
    | {
        "num_hidden_layers": 2,
        "mamba_d_ssm": 64,
        "ssm_in_multiplier": 1.25,
        "ssm_out_multiplier": 0.7,
        "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 0.7],
        "embedding_multiplier": 1.5,
        "lm_head_multiplier": 0.5,
        "key_multiplier": 0.8,
        "attention_out_multiplier": 0.9,
        "head_dim": 8,
    },
    "NemotronH": _ATTENTION
    | {
        "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
        "mamba_num_heads": 16,
        "mamba_head_dim": 4,
        "ssm_state_size": 16,
        "n_groups": 8,
        "chunk_size": 8,
        "head_dim": 8,
    },
    "Zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "num_mem_blocks": 1,
        "use_shared_attention_adapter": False,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
        "mamba_d_state": 16,
        "mamba_ngroups": 2,
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "mamba_expand": 2,
        "chunk_size": 8,
        "adapter_rank": 4,
    },
}
MAMBA1 = ("Mamba", "FalconMamba", "Jamba")
MAMBA2 = tuple(name for name in CONFIGS if name not in MAMBA1)
WITH_LEAST_STEP = ("NemotronH", "Zamba2")
"""These bound the step size from below in their scan and not in their decoding, so that the two differ."""


def small_model(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """A random model in evaluation mode, with weights large enough that states matter."""
    settings = _SHARED | CONFIGS[name] | changes
    if name in WITH_LEAST_STEP:
        settings.setdefault("time_step_min", 1e-9)
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2 and parameter.shape[0] != parameter.numel():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random token ids (rows, length), none of them special."""
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
