"""What the runs of one process have in common: made by the first that needs it, kept for those behind it.

A process of one run keeps nothing. What is kept goes by the settings that it depends on and by the files that it was
read from, as ``file_stamps`` knows them: a file that changes between two runs is read again. Imports no torch.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ssm_tune.config.schema import Config
from ssm_tune.tasks.base import Dataset, Roles, Task

if TYPE_CHECKING:
    from ssm_tune.experiment.lent_model import LentModel

T = TypeVar("T")
MOST_EXAMPLES = 1_000_000
"""Examples of all data sets that are kept, the latest data set apart."""


class Recent(Generic[T]):
    """The values that were used last, as many as are together no larger than ``limit``; the last one in any case."""

    def __init__(self, limit: int, size: Callable[[T], int]) -> None:
        self.limit, self.size = limit, size
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of that key, made if it is not there."""
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > 1 and sum(map(self.size, self._values.values())) > self.limit:
            self._values.popitem(last=False)
        return self._values[key]


@dataclass
class SharedData:
    """A task and its data. derived: what follows from them and is worth keeping, too (tokens, the base's scores)."""

    task: Task
    dataset: Dataset
    roles: Roles
    derived: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        return sum(len(split) for split in self.dataset.splits.values())


class Shared:
    """What a process keeps from run to run. model: the model that the last run took, if it may be taken again."""

    def __init__(self) -> None:
        self.data = Recent[SharedData](MOST_EXAMPLES, lambda data: data.examples)
        self.model: LentModel | None = None
        self._deterministic: bool | None = None

    def fits(self, config: Config) -> bool:
        """Whether the run may be done in this process after those before it.

        cuBLAS reads how it is to add when it starts, so that on a GPU runs with train.deterministic and runs without it
        need processes of their own.
        """
        wanted = config.train.deterministic and config.device != "cpu"
        if self._deterministic is None:
            self._deterministic = wanted
        return self._deterministic == wanted


def file_stamps(*places: object) -> tuple[tuple[str, int, int, int], ...]:
    """Path, number, size and time of change of every file at those of the places that are paths, folders walked."""
    found = []
    for place in places:
        for path in _files(place):
            try:
                status = path.stat()
            except OSError:
                continue  # whoever reads it says so
            found.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _files(place: object) -> Iterator[Path]:
    if not isinstance(place, str | Path) or not str(place):  # as a path "" would be the current folder
        return
    path = Path(os.path.expanduser(place))
    try:
        if path.is_file():
            yield path
        elif path.is_dir():
            for folder, _, names in os.walk(path, followlinks=True):
                yield from (Path(folder) / name for name in sorted(names))
    except (OSError, ValueError):  # no path at all
        return
