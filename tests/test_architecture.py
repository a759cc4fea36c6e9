"""Imports point one way, torch stays where it is needed, and public names are not hidden by modules."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import ssm_tune
from ssm_tune.config.groups import names

PACKAGE = Path(ssm_tune.__file__).parent

# The rooms, lowest first: a file imports from its own room, from rooms on lower levels, and never from those beside it.
LEVELS = (
    ("utils",),
    ("ops", "hub", "metrics", "config"),
    ("models", "tasks", "records"),
    ("data", "methods", "reporting"),
    ("training", "generation", "peft"),
    ("experiment", "api"),
    ("sweeps",),
    ("planning",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: number for number, level in enumerate(LEVELS) for room in level}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "conf" not in path.relative_to(PACKAGE).parts)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_from_its_own_room_and_lower_ones(path: Path) -> None:
    own = room_of(path)
    if own == "__init__":
        return  # names the public functions, and imports them when they are asked for
    for name in imports_of(path):
        room = name.split(".")[0]
        assert room == own or LEVEL.get(room, -1) < LEVEL[own], f"imports {name}"


def modules() -> dict[str, set[str]]:
    """Each module of the package and the modules of the package that it imports, at its top or inside a function."""
    names = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
    }
    return {
        name: {other for other in imports_of(path) if other in names and other != name} for name, path in names.items()
    }


def test_there_is_no_circle_of_imports() -> None:
    waiting = modules()
    while free := {name for name, imported in waiting.items() if not imported & waiting.keys()}:
        waiting = {name: imported for name, imported in waiting.items() if name not in free}
    assert not waiting, f"these import each other: {', '.join(sorted(waiting))}"


def test_no_method_imports_another() -> None:
    methods = set(names("method"))
    for name in methods:
        found = imports_of(PACKAGE / "methods" / f"{name}.py")
        assert not methods & {other.split(".")[1] for other in found if other.startswith("methods.")}, name


def loaded(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


WITHOUT_TORCH = (
    "cli",
    "commands.completion",
    "commands.compare",
    "commands.data",
    "commands.evaluate",
    "commands.generate",
    "commands.prompts",
    "commands.report",
    "commands.run",
    "commands.score",
    "commands.score_files",
    "commands.search",
    "commands.show",
    "commands.status",
    "commands.table",
    "config.compose",
    "config.tuned",
    "config.variants",
    "data.token_cache",
    "data.tokenization",
    "experiment.done_already",
    "experiment.finished",
    "experiment.run_lock",
    "hub.download",
    "metrics.rouge",
    "metrics.sql",
    "records.provenance",
    "records.record",
    "records.run_id",
    "records.trial",
    "reporting.bootstrap",
    "reporting.build",
    "reporting.html.page",
    "reporting.paired_tables",
    "sweeps.in_a_row",
    "sweeps.one_run",
    "sweeps.joined",
    "sweeps.joined_runs",
    "sweeps.run_sweep",
    "sweeps.search",
    "sweeps.search_rounds",
    "sweeps.status",
    "sweeps.sweep_file",
    "sweeps.worker",
    "tasks.classify",
    "tasks.dart",
    "tasks.glue",
    "tasks.samsum",
    "tasks.spider",
    "tasks.text2text",
    "training.distributed",
)


@pytest.mark.parametrize("module", ["ssm_tune", *(f"ssm_tune.{name}" for name in WITHOUT_TORCH)])
def test_these_need_no_torch(module: str) -> None:
    assert not loaded(f"import {module}") & {"torch", "matplotlib"}


SLOW_TO_IMPORT = {"torch", "hydra", "omegaconf", "numpy", "sklearn", "matplotlib", "datasets", "rich"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["status"]])
def test_these_answer_without_a_large_import(arguments: list[str], tmp_path: Path) -> None:
    code = f"import os; os.chdir({str(tmp_path)!r}); from ssm_tune.cli import main; main({arguments!r})"
    assert not loaded(code) & SLOW_TO_IMPORT


TRITON = "ops.state_space_dual.gpu", "ops.gated_rms_norm.gpu", "ops.gated_rms_norm.kernels"


def test_optional_packages_are_never_needed() -> None:
    """Every module imports with the optional packages blocked."""
    names = [
        f"ssm_tune.{name}"
        for name in modules()
        if name not in ("__init__", "__main__")
        and name.split(".")[0] != "peft"  # the one room that needs peft
        and not name.startswith(TRITON)  # imported where they run
    ]
    blocked = (
        "mamba_ssm",
        "causal_conv1d",
        "triton",
        "wandb",
        "transformers",
        "peft",
        "hydra_plugins.hydra_submitit_launcher",
    )
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    loaded(code + "\n".join(f"import {module}" for module in names))


def test_the_public_names_are_listed_without_loading_them() -> None:
    code = "import ssm_tune; assert set(ssm_tune.__all__) <= set(dir(ssm_tune))"
    assert "torch" not in loaded(code)


@pytest.mark.parametrize("name", ssm_tune.__all__)
def test_no_module_hides_a_public_name(name: str) -> None:
    assert importlib.util.find_spec(f"ssm_tune.{name}") is None
    assert callable(getattr(ssm_tune, name))
