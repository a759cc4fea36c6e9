"""``ssm-tune doctor``: what a run would find on this machine, and the one command that fixes what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Literal

from ssm_tune.commands.arguments import Parser
from ssm_tune.commands.doctor_inputs import DEFAULT_RUN, Asked, Finding, default_model, inputs
from ssm_tune.config.groups import names
from ssm_tune.utils.errors import UserError, first_line, nearest
from ssm_tune.utils.files import cache_dir, require_writable
from ssm_tune.utils.text import printable

COMMAND_SECONDS = 2.0
LITTLE_DISK, TOO_LITTLE_DISK = 20e9, 1e9
"""Bytes free: a note below the first, a problem below the second."""
OLDEST_PYTHON = (3, 11)
OPTIONAL = {
    "wandb": ("logger=wandb", "pip install 'ssm-tune[wandb]'"),
    "mamba-ssm": ("backend=mamba_ssm and the comparison in python -m benchmarks scan", "pip install 'ssm-tune[mamba]'"),
    "causal-conv1d": (
        "backend=mamba_ssm and the comparison in python -m benchmarks scan",
        "pip install 'ssm-tune[mamba]'",
    ),
    "submitit": ("sweeps on a cluster", "pip install 'ssm-tune[slurm]'"),
}


def main(arguments: Sequence[str]) -> int:
    """Print the findings; 1 if a run would fail here, else 0. Raises UserError for an unknown model, task or data."""
    options = _parser().parse_args(arguments)
    for group in ("model", "task", "data"):
        given = getattr(options, group)
        if given is not None and given not in names(group):
            raise UserError(f"there is no {group} {given!r}: {nearest(given, names(group))}")
    model = options.model or (options.task and default_model(options.task))
    findings = examine(Asked(model, options.task, options.data, Path(options.output_dir)))
    if options.format == "json":
        print(json.dumps([asdict(one) for one in findings], indent=2))
    else:
        _print(findings)
    return 1 if any(one.state == "problem" for one in findings) else 0


def examine(asked: Asked) -> list[Finding]:
    """Every check's findings, in the order of CHECKS; one that fails itself becomes a problem."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check(asked)
        except Exception as error:  # whatever is broken here must not hide the rest
            findings.append(Finding(check.__name__.strip("_"), "problem", f"the check failed: {first_line(error)}"))
    return findings


def _python(asked: Asked) -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return [Finding("Python", "problem", f"{version}, 3.11 is needed", "python3.11 -m venv .venv")]
    return [Finding("Python", "ok", version)]


def _torch(asked: Asked) -> list[Finding]:
    try:
        import torch
    except Exception as error:
        return [Finding("PyTorch", "problem", first_line(error), "pip install --force-reinstall torch")]
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for CPU alone"
    findings = [Finding("PyTorch", "ok", f"{torch.__version__}, built {built}")]
    driver = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    if not torch.cuda.is_available():
        if driver is None:
            return [*findings, Finding("GPU", "note", "none: runs take the CPU, enough for model=tiny")]
        mend = "pip install --force-reinstall torch" if not torch.version.cuda else "install a newer NVIDIA driver"
        return [*findings, Finding("GPU", "note", f"driver {driver}, but PyTorch sees no device", mend)]
    for index in range(torch.cuda.device_count()):
        its = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found = f"{its.name}, capability {its.major}.{its.minor}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
        old = its.major < 8
        why = "; our kernels need 8.0, plain PyTorch runs instead" if old else ""
        busy = free < total / 2
        state: Literal["ok", "note"] = "note" if old or busy else "ok"
        findings.append(Finding(f"GPU {index}", state, found + why, "nvidia-smi" if busy and not old else ""))
    return [*findings, Finding("driver", "ok" if driver else "note", driver or "nvidia-smi does not answer")]


def _nvrtc(asked: Asked) -> list[Finding]:
    import torch

    from ssm_tune.ops.cuda.compiler import KernelError, nvrtc_version, require_compiling
    from ssm_tune.ops.cuda.launch import arch_of

    there = torch.cuda.is_available()
    try:
        version = nvrtc_version()
        if not there:
            return [Finding("NVRTC", "ok", f"{version}, not needed without a GPU")]
        require_compiling(arch_of(torch.cuda.current_device()))
    except KernelError as error:
        found = str(error).split("; ")[0].split(" (")[0]
        return [Finding("NVRTC", "note", found, "pip install 'ssm-tune[cuda]'" if there else "")]
    return [Finding("NVRTC", "ok", f"{version}, compiles for this GPU")]


def _folders(asked: Asked) -> list[Finding]:
    findings = []
    for what, folder, other in (
        ("results folder", asked.output_dir, "output_dir=DIR"),
        ("cache folder", cache_dir(), "export SSM_TUNE_CACHE=DIR"),
    ):
        at = _existing(folder)
        try:
            require_writable(at, other.partition("=")[0])
            findings.append(Finding(what, "ok", f"{folder} can be written"))
        except UserError as error:
            # of the cache only what is fetched must be kept
            state: Literal["note", "problem"] = "problem" if what == "results folder" or asked.hub_needed else "note"
            findings.append(Finding(what, state, str(error), other))
            continue
        free = shutil.disk_usage(at).free
        if free < LITTLE_DISK:
            state = "problem" if free < TOO_LITTLE_DISK else "note"
            findings.append(Finding(f"disk of the {what}", state, f"{free / 1e9:.1f} GB free", other))
    return findings


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _packages(asked: Asked) -> list[Finding]:
    findings = []
    for name, (use, mend) in OPTIONAL.items():
        try:
            findings.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            findings.append(Finding(name, "note", f"not installed; only for {use}", mend))
    return findings


def _wordnet(asked: Asked) -> list[Finding]:
    from ssm_tune.metrics.wordnet import load_wordnet

    try:
        return [Finding("WordNet", "ok", load_wordnet().description)]
    except UserError as error:
        needed = asked.task == "dart" and asked.data != "sample"
        return [
            Finding(
                "WordNet",
                "problem" if needed else "note",
                f"{str(error).split(';')[0]} (task=dart)",
                "python -m nltk.downloader wordnet",
            )
        ]


def _slurm(asked: Asked) -> list[Finding]:
    if shutil.which("sbatch") is None:
        return [Finding("SLURM", "note", "no sbatch here: sweeps run on this machine")]
    partitions = _output(["sinfo", "--noheader", "--format=%R %a"])
    if partitions is None:
        return [Finding("SLURM", "note", "sbatch is here, but sinfo does not answer", "sinfo")]
    return [Finding("SLURM", "ok", "partitions: " + ", ".join(partitions.splitlines()))]


def _output(command: list[str]) -> str | None:
    """What a command prints; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=COMMAND_SECONDS, text=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


CHECKS = (_python, _torch, _nvrtc, _folders, _packages, inputs, _wordnet, _slurm)


def _print(findings: list[Finding]) -> None:
    width = max(len(one.what) for one in findings)
    for one in findings:
        print(f"{one.what:<{width}}  {one.state:<7}  {printable(one.found)}")
        if one.mend:
            print(f"{'':<{width}}  {'':<7}  -> {printable(one.mend)}")
    problems = sum(one.state == "problem" for one in findings)
    lacking = [one for one in findings if one.what == DEFAULT_RUN and one.state == "note"]
    if problems:
        print(f"{problems} problem{'s' * (problems != 1)}: a run would fail")
    elif lacking:
        print(f"the default run cannot start here; what can: a run with {lacking[0].mend}")
    else:
        print("a run can start here")


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune doctor",
        description="Check what runs need: Python, PyTorch, the GPU and its compiler, folders, optional packages, "
        "data, WordNet, SLURM. Each line says ok, note (runs go without) or problem (a run would fail), and "
        "how to fix it. Exit status 1 if there is a problem, else 0. --model, --task and --data say which run is "
        "meant; without them it is the default one, on published data with the task's own model.",
    )
    parser.add_argument("--model", metavar="NAME", help="as in model=NAME (default: the task's)")
    parser.add_argument("--task", metavar="NAME", help="as in task=NAME")
    parser.add_argument("--data", metavar="NAME", default="hub", help="as in data=NAME (default: hub)")
    parser.add_argument("--output-dir", metavar="DIR", default="results", help="as in output_dir=DIR")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser
