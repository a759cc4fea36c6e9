"""The command ``ssm-tune``: subcommands take ordinary flags; everything else is a run, composed by Hydra.

The only place where errors become exit statuses: 0 done, 1 a run diverged or the program is at fault, 2 something
that the user can fix, 128 + the signal's number stopped by one (130: Ctrl-C).
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from ssm_tune.commands import SUBCOMMANDS
from ssm_tune.config.choices import CHOICES
from ssm_tune.config.groups import names
from ssm_tune.config.mistyped import mistyped
from ssm_tune.training.distributed import is_rank_zero
from ssm_tune.utils.errors import PeerFailed, Stopped, UserError, first_line
from ssm_tune.utils.instantiate import TRUST_OPTION, take_trusted, trusting
from ssm_tune.utils.phases import CLOCK
from ssm_tune.utils.text import printable

HELP = """\
ssm-tune: compare parameter-efficient fine-tuning methods on state space models

  ssm-tune method=METHOD task=TASK [model=MODEL] [data=DATA] [key=value ...]
      train and score one run; the path of its record is the last line printed
  ssm-tune -m method=A,B task=TASK [seed=42,1042,2042] ...
      a sweep: every combination that has no record yet; +sweep=NAME: those of a sweep file; hydra/launcher={launcher}
  torchrun --standalone --nproc-per-node=N -m ssm_tune method=METHOD ...
      one run on N GPUs, with the batch and the results of one
  ssm-tune SUBCOMMAND --help
{subcommands}

  a first run, without network or GPU:  ssm-tune method=state_offset task=samsum model=tiny data=sample

METHOD  {method}
TASK    {task}
MODEL   {model}
DATA    {data}
SWEEP   {sweep}
SEARCH  {search}

settings (defaults: ssm-tune method=... task=... --cfg job prints all of them)
  seed=42  device={device}  backend={backend}
  protocol={protocol}  output_dir=results  force=true (run again)  frozen=false (no base model's score)
  logger={logger}  sweep.on_error={sweep.on_error}  sweep.together={sweep.together}|N
  train.epochs  train.max_steps  train.batch_size  train.micro_batch  train.learning_rate
  train.lr_schedule={train.lr_schedule}  train.lr_warmup=STEPS or PART (of the learning rate)
  train.adapter_dtype={train.adapter_dtype}  train.cuda_graphs={train.cuda_graphs}
  train.recompute={train.recompute}  train.memory=GB  train.deterministic=true  train.evaluate_every
  decode.num_beams  decode.max_new_tokens  decode.batch_size
  splits.selection  splits.report  splits.selection_examples  tuned=NAME (learning rates of conf/tuned)
  splits.limit=N (at most N examples of every split: does a run work? its record and tables say so)
  data.path=DIR  data.root=DIR  data.check=counts|off  data.name
  model.path=DIR  model.name  model.dtype  model.tokenizer
  checkpoint.minutes=10  checkpoint.steps
  method.<option>, as in conf/method/METHOD.yaml

--trust-code MODULE.CLASS lets a method or task of your own, outside ssm-tune, run; no file can ask for that.
--completion bash|zsh prints a completion script: source <(ssm-tune --completion bash)
OMP_NUM_THREADS=N sets the CPU threads; without it models up to a width of 256 take one, larger ones a thread a core.
SSM_TUNE_TRACEBACK=1 shows where an error comes from. Hydra's own flags work too: --cfg job, --info, --hydra-help.
"""


def _wait_briefly() -> None:
    """Have PyTorch's threads (GNU OpenMP reads this as it is loaded) wait awake for microseconds, not milliseconds: as
    fast on idle cores, and not in the way of those that work on busy ones. What the user has set stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    _wait_briefly()
    try:
        arguments, classes = take_trusted(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        return _fail(str(error))
    for name in classes:
        if is_rank_zero():
            print(f"ssm-tune: {TRUST_OPTION}: code of {name}, which is no part of ssm-tune, may run", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal's encoding may lack what names and texts hold
            stream.reconfigure(errors="backslashreplace")
    with trusting(classes), CLOCK.one_run():
        CLOCK.go_on("import")
        return _flushed(_dispatch(arguments))


def _flushed(status: int) -> int:
    """The exit status, after what was printed is written: a full disk is found here, not when Python ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has gone, as with "| head"
        _discard_stdout()
    except OSError as error:
        return _unwritten(error) if status == 0 else status
    return status


def _unwritten(error: OSError) -> int:
    _discard_stdout()
    return _fail(f"cannot write to standard output: {error.strerror or error}")


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return _guarded(lambda: print(_help(), end=""))
    if arguments[0] == "--version":
        return _guarded(lambda: print(f"ssm-tune {import_module('ssm_tune').__version__}"))
    first = arguments[0]
    if first == "--completion":
        from ssm_tune.commands.completion import script

        return _guarded(lambda: print(script(arguments[1:]), end=""))
    if first in SUBCOMMANDS:
        command = import_module(f"ssm_tune.commands.{first}")
        return _guarded(lambda: command.main(arguments[1:]))
    if first == "bench":
        return _fail(
            "benchmarks are no subcommand now: python -m benchmarks scan|step|generate|cpu|sweep, from a checkout"
        )
    if not {"-h", "--help"}.isdisjoint(arguments):
        return _guarded(lambda: print(_help(), end=""))
    if line := mistyped(arguments, SUBCOMMANDS):
        return _fail(line)
    return _guarded(
        lambda: _run(arguments),
        "interrupted: the run left no record; its last checkpoint, if any, stays",
    )


def _help() -> str:
    groups = {group: ", ".join(names(group)) for group in ("method", "task", "model", "data", "sweep", "search")}
    lines = "\n".join(f"      {name:<9} {what}" for name, what in SUBCOMMANDS.items())
    text = HELP.replace("{subcommands}", lines).replace("{launcher}", "|".join(names("hydra/launcher")))
    for name, words in groups.items():
        text = text.replace(f"{{{name}}}", words)
    for name, choices in CHOICES.items():
        text = text.replace(f"{{{name}}}", "|".join(choices))
    return text


def _run(arguments: list[str]) -> int:
    """Compose and run what the settings ask for: one run, or with -m a sweep."""
    # an import of its own: --help and the subcommands that need no Hydra stay quick
    return int(import_module("ssm_tune.commands.run").main(arguments))


def _guarded(work: Callable[[], Any], interrupted: str = "interrupted") -> int:
    """Run ``work`` with every error as one line on stderr. interrupted: what Ctrl-C leaves to say."""
    try:
        return int(work() or 0)
    except PeerFailed as error:
        _trace()
        return error.status
    except UserError as error:
        _trace()
        return _fail(str(error))
    except Stopped as error:
        if is_rank_zero():
            _say(f"ssm-tune: {error}")
        return 128 + error.signal
    except KeyboardInterrupt:
        if is_rank_zero():
            _say(f"\n{interrupted}")
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone, as with "| head"
        _discard_stdout()
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:  # a full disk under stdout
            return _unwritten(error)
        return _unexpected(error)
    except SystemExit as error:  # argparse has said what it had to say
        return error.code if isinstance(error.code, int) else 2
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    _trace()
    _say(f"ssm-tune: unexpected {printable(first_line(error))} (SSM_TUNE_TRACEBACK=1 shows where)")
    return 1


def _trace() -> None:
    if os.environ.get("SSM_TUNE_TRACEBACK"):
        traceback.print_exc()


def _fail(message: str) -> int:
    _say(f"ssm-tune: {printable(' '.join(message.split()))}")
    return 2


def _say(line: str) -> None:
    """Print on stderr, which a lost terminal has closed: the exit status is what counts then."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
