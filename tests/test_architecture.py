"""Imports point one way, torch stays where it is needed, and public names are not hidden by modules."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import ssm_tune

PACKAGE = Path(ssm_tune.__file__).parent

# what a part must not import, next to itself
FORBIDDEN = {
    "ops": ("models", "methods", "tasks", "metrics", "loop", "run", "record", "batching"),
    "models": ("methods", "tasks", "metrics", "loop", "run", "record", "batching", "config"),
    "methods": ("tasks", "metrics", "loop", "run", "record", "batching", "config"),
    "metrics": ("models", "methods", "tasks", "ops", "loop", "run", "record"),
    "tasks": ("models", "methods", "ops", "loop", "run", "record", "batching", "config"),
    "encoding.py": ("models.mamba", "methods", "loop", "run", "record", "config"),
    "loop.py": ("tasks.samsum", "tasks.glue", "methods.state_offset", "run", "record", "config"),
    "divergence.py": ("models", "methods", "tasks", "ops", "loop", "run", "record", "config"),
    "step.py": ("tasks", "methods", "loop", "run", "record", "config", "capture"),
    "capture.py": ("tasks", "methods", "models", "loop", "run", "record", "config"),
    "parallel.py": ("models", "methods", "tasks", "ops", "loop", "step", "run", "record", "config", "session"),
    "determinism.py": ("models", "methods", "tasks", "ops", "loop", "step", "run", "record", "config", "session"),
    "memory.py": ("tasks", "loop", "step", "run", "record", "config", "session"),
    "evaluation.py": ("run", "tasks.samsum", "tasks.glue", "methods", "models"),
    "slots.py": ("tasks", "methods", "models", "loop", "run", "record", "config", "capture"),
    "continuous.py": ("tasks", "methods", "loop", "run", "record", "config"),
    "answering.py": ("tasks.samsum", "tasks.glue", "methods.state_offset", "run", "record", "config", "session"),
    "checkpoint.py": ("models", "methods", "tasks", "ops", "loop", "run", "record", "config", "session", "outcome"),
    "interruption.py": ("models", "methods", "tasks", "ops", "loop", "run", "record", "config", "session", "outcome"),
    "session.py": ("run", "methods", "ops", "tasks.samsum", "tasks.glue"),
    "config.py": ("models", "methods", "tasks", "ops", "loop", "run", "record", "batching"),
    "tables.py": ("models", "methods", "tasks", "ops", "loop", "run", "config"),
    "reporting": ("models", "methods", "tasks", "ops", "loop", "run", "commands"),
    "claim.py": ("models", "methods", "tasks", "ops", "loop", "run", "record", "config", "compose"),
    "sweep.py": ("models", "methods", "tasks", "ops", "loop", "run", "record", "worker", "states"),
    "states.py": ("models", "methods", "ops", "loop", "run", "compose", "multirun"),
    "trial.py": ("models", "methods", "tasks", "ops", "loop", "run", "config"),
    "search.py": ("models", "methods", "tasks", "ops", "loop", "run", "prepare", "multirun", "states"),
    "tuned.py": ("models", "methods", "tasks", "ops", "loop", "run", "record", "trial", "search"),
    "unchanged.py": ("methods", "tasks", "ops", "loop", "run", "session"),
    "record.py": ("models", "methods", "tasks", "ops", "loop", "run", "config"),
}


def imports_of(path: Path) -> set[str]:
    """What a file imports of ours, as dotted names below the package."""
    found = set()
    parts = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join(["ssm_tune", *parts[: len(parts) - node.level + 1], *filter(None, [module])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("ssm_tune.") for name in found if name.startswith("ssm_tune.")}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_one_way(part: str) -> None:
    files = [PACKAGE / part] if part.endswith(".py") else sorted((PACKAGE / part).rglob("*.py"))
    assert files
    for path in files:
        for name in imports_of(path):
            for barred in FORBIDDEN[part]:
                assert not f"{name}.".startswith(f"{barred}."), f"{path.name} imports {name}"


def test_no_method_imports_another() -> None:
    for path in (PACKAGE / "methods").glob("*.py"):
        others = {name.split(".")[1] for name in imports_of(path) if name.startswith("methods.")}
        assert others <= {"base"}, path.name


def loaded(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


WITHOUT_TORCH = (
    "claim", "cli", "commands.compare", "commands.data", "commands.report", "commands.score", "commands.score_files",
    "commands.search", "commands.status", "commands.table", "compose", "parallel", "encoding", "hub", "metrics.sql",
    "multirun", "reporting.build", "reporting.html", "reporting.pairs", "reporting.resample", "search", "states",
    "sweep", "tokens", "trial", "tuned", "worker", "tasks.classify", "tasks.dart",
    "tasks.glue", "tasks.samsum", "tasks.spider", "tasks.text2text",
)  # fmt: skip


@pytest.mark.parametrize("module", ["ssm_tune", *(f"ssm_tune.{name}" for name in WITHOUT_TORCH)])
def test_these_need_no_torch(module: str) -> None:
    assert not loaded(f"import {module}") & {"torch", "matplotlib"}


def test_optional_packages_are_never_needed() -> None:
    """Every module imports with the optional packages blocked."""
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py") and "conf" not in path.parts
    ]
    blocked = ("mamba_ssm", "causal_conv1d", "triton", "wandb", "transformers", "peft",
               "hydra_plugins.hydra_submitit_launcher")  # fmt: skip
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    loaded(code + "\n".join(f"import {module}" for module in modules))


@pytest.mark.parametrize("name", ssm_tune.__all__)
def test_no_module_hides_a_public_name(name: str) -> None:
    assert importlib.util.find_spec(f"ssm_tune.{name}") is None
    assert callable(getattr(ssm_tune, name))
