"""``ssm-tune export``: a run's adapter as a folder of its own, or merged into a checkpoint for transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssm_tune.commands.arguments import Parser
from ssm_tune.utils.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Write the folder and print its path; 0. Raises UserError for a run without adapter or a method without merge."""
    options = _parser().parse_args(arguments)
    source = options.run / "adapter" if (options.run / "adapter").is_dir() else options.run
    target: Path = options.to
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--to {target} exists already and is not empty: name a new folder, nothing is overwritten")
    # torch: only once the arguments are good
    if options.merge:
        from ssm_tune.api import load_tuned
        from ssm_tune.methods.merge import merge_and_unload
        from ssm_tune.models.pretrained import save_transformers

        tuned = load_tuned(source, "cpu", _model_section(options.model))
        save_transformers(*merge_and_unload(tuned.adapter), tuned.tokenizer, target)
        print(f"merged checkpoint: {target} (transformers' layout; here: model=local model.path={target})")
    elif options.peft:
        loading = _write_for_peft(source, target, options.model)
        print(f"adapter for peft: {target} ({loading})")
    else:
        from ssm_tune.methods.adapter_files import DESCRIPTION, WEIGHTS
        from ssm_tune.methods.load import read_adapter
        from ssm_tune.utils.files import atomic_write

        read_adapter(source)  # refuses what is damaged
        for name in (WEIGHTS, DESCRIPTION):
            atomic_write(target / name, [(source / name).read_bytes()])
        print(f'adapter: {target} (ssm_tune.load_adapter(model, "{target}"); its format: docs/adapters.md)')
    return 0


def _model_section(name: str | None) -> dict[str, Any] | None:
    """The ``model`` section that ``--model`` stands for."""
    if name is None:
        return None
    from ssm_tune.config.compose import compose
    from ssm_tune.experiment.finished import model_words

    section: dict[str, Any] = compose(["method=full", "task=samsum", "data=sample", *model_words(name)]).model
    return section


def _write_for_peft(source: Path, target: Path, model: str | None) -> str:
    """Write the adapter in peft's format; how it is loaded, in code."""
    from ssm_tune.api import load_tuned
    from ssm_tune.methods.load import read_adapter
    from ssm_tune.methods.peft_format import write_peft_adapter
    from ssm_tune.methods.peft_lora import write_peft_lora

    description, tensors = read_adapter(source)
    loading = f'PeftModel.from_pretrained(model, "{target}")'
    if all(".injection.updates." in name for name in tensors):
        section = _model_section(model)
        write_peft_lora(load_tuned(source, "cpu", section).adapter, section or description["model"], target)
        return loading
    write_peft_adapter(description, tensors, target)
    return f"import ssm_tune.peft; {loading}"


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune export",
        description="Take the adapter out of a run's folder: as a folder with adapter.safetensors and adapter.json, "
        "which ssm_tune.load_adapter reads; with --peft, as a folder that Hugging Face peft loads, for the state-based "
        "methods where ssm_tune.peft is imported (docs/peft.md); or, with --merge, as a whole checkpoint in "
        "transformers' layout (config.json, model.safetensors, tokenizer.json), which transformers and model=local "
        "read without ssm-tune's methods. Methods that act on states or virtual tokens do not merge, and are refused.",
        epilog="example: ssm-tune export results/runs/samsum/sample-tiny-lora-... --merge --to my-model",
    )
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="a run's folder, or the adapter/ folder in it")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to write; new or empty")
    parser.add_argument(
        "--model", metavar="NAME", help="where the adapter's file names none: of conf/model, or a folder"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--merge", action="store_true", help="write plain weights instead of the adapter")
    form.add_argument("--peft", action="store_true", help="write the adapter in Hugging Face peft's format")
    return parser
