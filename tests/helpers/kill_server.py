"""A process that stays warm and forks one child a run, so that a run costs a second or two; for the resume tests.

Reads a JSON line a run from stdin: arguments of ``ssm-tune``, the file for its stderr, and the moment at which the
child gets a signal: ``at``, a function as module:name, ``call``, the number of its call from 1, ``when``, before or
after it, and ``signal``. The child hooks that function; the package knows nothing of it. Answers with the child's
status, negative where a signal ended it, and the seconds from that signal to the child's end.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import rouge_score.rouge_scorer
import rouge_score.scoring
import sklearn.metrics
import torch
import torch._dynamo

from ssm_tune.config.compose import compose
from ssm_tune.config.schema import Config
from ssm_tune.experiment.run import run
from ssm_tune.metrics import rouge
from ssm_tune.utils.errors import Stopped

WARM = rouge_score.rouge_scorer, rouge_score.scoring, sklearn.metrics, torch._dynamo
"""What a run imports when it first needs it, in seconds."""


def hook(at: str, call: int, when: str, number: int, sent: Path) -> None:
    """Let this process get a signal at a call of a function."""
    module, *path = at.split(":")
    owner: Any = importlib.import_module(module)
    *inner, name = path[0].split(".")
    for part in inner:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = 0

    def send() -> None:
        sent.write_text(str(time.monotonic()))
        os.kill(os.getpid(), number)

    def hooked(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        mine = calls == call
        if mine and when == "before":
            send()
        result = original(*arguments, **named)
        if mine and when == "after":
            send()
        return result

    setattr(owner, name, hooked)


def child(order: dict[str, Any], config: Config) -> int:
    errors = os.open(order["stderr"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(errors, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    if order.get("at"):
        hook(order["at"], order["call"], order["when"], order["signal"], Path(order["stderr"] + ".sent"))
    try:
        run(dataclasses.replace(config, output_dir=order["output"]))
    except Stopped as error:
        print(error, file=sys.stderr, flush=True)
        return 128 + error.signal
    return 0


def serve() -> None:
    torch.set_num_threads(1)  # a fork inherits no threads
    rouge.BOOTSTRAP_RESAMPLES = 10  # most of a tiny run's time, for both of those that are compared
    composed: dict[tuple[str, ...], Config] = {}
    for line in sys.stdin:
        order = json.loads(line)
        arguments = tuple(order["arguments"])
        if arguments not in composed:
            composed[arguments] = compose(list(arguments))
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                status = child(order, composed[arguments])
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        _, code = os.waitpid(pid, 0)
        sent = Path(order["stderr"] + ".sent")
        seconds = time.monotonic() - float(sent.read_text()) if sent.exists() else 0.0
        sent.unlink(missing_ok=True)
        print(os.waitstatus_to_exitcode(code), seconds, flush=True)


if __name__ == "__main__":
    serve()
