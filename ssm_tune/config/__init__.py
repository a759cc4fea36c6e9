"""Configuration: the typed settings, the yamls of conf/, composition with Hydra and its error messages."""
