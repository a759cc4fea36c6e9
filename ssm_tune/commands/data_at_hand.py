"""The examples that runs were scored on, from data on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from ssm_tune.records.schema import Record
from ssm_tune.tasks.base import Example
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import user_path
from ssm_tune.utils.text import printable


class DataAtHand:
    """Of a record the examples of its reported split by id, empty where its data are not at hand: why, is said
    once. Each data set is read once; the hub is not asked.

    flag: what says where they lie; root: the folder of local data now; path: the very data.
    """

    def __init__(self, flag: str, root: Path | None = None, path: str | None = None) -> None:
        self.flag, self.root, self.path = flag, root, path
        self._known: dict[str, dict[str, Example]] = {}

    def __call__(self, record: Record) -> dict[str, Example]:
        key = f"{record['hashes']['data']} {record['splits']['report']}"
        if key not in self._known:
            try:
                self._known[key] = self._read(record)
            except UserError as error:
                print(f"no inputs and references of {printable(record['cell']['data'])}: {error}", file=sys.stderr)
                self._known[key] = {}
        return self._known[key]

    def _read(self, record: Record) -> dict[str, Example]:
        from ssm_tune.commands.score import load_data

        data = record["config"].get("data")
        if not isinstance(data, dict) or data.get("source") not in ("sample", "local"):
            raise UserError("data from the hub are not read here")
        path = self.path
        if data["source"] == "local" and not (path or self.root or user_path(str(data.get("path"))).exists()):
            raise UserError(f"{data.get('path')} is not there: add {self.flag} DIR, the folder where they lie now")
        if self.root is not None and data["source"] == "local" and isinstance(data.get("path"), str):
            path = str(self.root / Path(data["path"]).name)
        _, dataset = load_data(record, path)
        return {example.id: example for example in dataset.splits[record["splits"]["report"]]}
