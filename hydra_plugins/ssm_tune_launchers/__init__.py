"""The launchers of ssm-tune. The folder above is a namespace package, shared with other plugins: it has no file."""
