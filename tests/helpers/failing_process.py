"""A run of ``ssm-tune`` whose second process fails, or gets a signal, at its fourth step; for test_distributed."""

from __future__ import annotations

import os
import signal
import sys

from ssm_tune.cli import main
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import UserError

how, *arguments = sys.argv[1:]
plain = Trainer.train_steps


def train_steps(training: Trainer) -> list[dict[str, float]]:
    if training.position.step == 3 and os.environ["RANK"] == "1":
        if how == "fails":
            raise UserError("enough of this; do something else")
        os.kill(os.getpid(), signal.SIGTERM)
    return plain(training)


Trainer.train_steps = train_steps  # type: ignore[method-assign]
sys.exit(main(arguments))
