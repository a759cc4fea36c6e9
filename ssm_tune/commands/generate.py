"""``ssm-tune generate``: answer a prompt with a tuned model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ssm_tune.commands.arguments import Parser
from ssm_tune.config.choices import CHOICES
from ssm_tune.utils.errors import UserError


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune generate",
        description="Answer a prompt with a tuned model. The prompt is given as the task's inputs are: for SAMSum "
        "the dialogue, one turn a line; the separator ### is added where it is missing.",
        epilog="example: ssm-tune generate --adapter results/runs/samsum/... --prompt 'Anna: Shall we go on Friday?'",
    )
    parser.add_argument(
        "--adapter",
        required=True,
        type=Path,
        metavar="DIR",
        help="a run's folder, the adapter/ folder in it, or one that peft wrote",
    )
    parser.add_argument("--prompt", required=True, help="the text to answer; - reads it from standard input")
    parser.add_argument("--num-beams", type=int, help="1 is greedy (default: as the run decoded)")
    parser.add_argument("--max-new-tokens", type=int, help="(default: as the run decoded)")
    parser.add_argument("--device", default="auto", choices=CHOICES["device"])
    parser.add_argument("--raw", action="store_true", help="add no separator to the prompt")
    return parser


def main(arguments: list[str]) -> int:
    """Print the answer. Raises UserError for an adapter that cannot be read or does not fit its model."""
    options = _parser().parse_args(arguments)
    folder = options.adapter / "adapter" if (options.adapter / "adapter").is_dir() else options.adapter
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt.replace("\\n", "\n")

    # torch: only once the arguments are good
    from ssm_tune.api import load_tuned
    from ssm_tune.generation.generate import generate
    from ssm_tune.tasks.base import SEPARATOR

    tuned = load_tuned(folder, options.device)
    if not options.raw and not prompt.endswith(SEPARATOR):
        prompt = prompt.rstrip("\n") + SEPARATOR
    wanted: dict[str, Any] = {"num_beams": options.num_beams, "max_new_tokens": options.max_new_tokens}
    settings = tuned.decode | {name: value for name, value in wanted.items() if value is not None}
    tokens = tuned.tokenizer.encode(prompt)
    if not tokens:
        raise UserError("the prompt is empty")
    try:
        (answer,) = generate(tuned.model, [tokens], **settings)
    except FloatingPointError as error:
        raise UserError(f"{folder}: {error}") from error
    print(tuned.tokenizer.decode(answer))
    return 0
