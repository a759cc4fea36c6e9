"""The flags of the subcommands: argparse, whose errors are one line."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from ssm_tune.utils.errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """As argparse's, but a mistake is a UserError, without the usage: the line says how to get it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('ssm-tune ')}: {message} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"there is no {value!r}: {nearest(value, [*action.choices])}")
