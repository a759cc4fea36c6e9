"""The settings that take one of a few words."""

CHOICES: dict[str, tuple[str, ...]] = {
    "data.source": ("hub", "local", "sample"),
    "data.check": ("counts", "off", "own"),
    "train.adapter_dtype": ("auto", "bfloat16", "float32"),
    "train.lr_schedule": ("linear", "cosine", "constant"),
    "train.cuda_graphs": ("auto", "off"),
    "train.recompute": ("auto", "on", "off"),
    "protocol": ("auto", "paper", "standard"),
    "device": ("auto", "cpu", "cuda"),
    "backend": ("auto", "cuda", "mamba_ssm", "reference"),
    "logger": ("none", "wandb"),
    "sweep.on_error": ("continue", "stop"),
    "sweep.together": ("off", "auto"),
}
"""The values of each; help, completion and checks read them here, without Hydra."""
