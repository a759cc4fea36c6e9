"""The processes that train one cell together, as ``torchrun`` starts them; a single process is a world of one.

Every process holds the whole model and the same adapter, and computes its share of each batch and of each evaluation.
The first leads: it alone claims the cell, speaks, and writes. Values pass between processes only where all of them have
arrived, which each waits for with its eyes open: a request to stop is heard while waiting. Imports torch where needed.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ssm_tune.utils.errors import Elsewhere, Stopped, UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
LONGEST = timedelta(hours=1)
"""A process that does not come to a sum within this is taken for dead."""
PATIENCE = timedelta(seconds=10)
"""For the process that has failed to say so and to leave its notes."""
LOOK_SECONDS = 0.2
"""Between two looks at whether another process was asked to stop."""
_FAILURE, _STOP, _END = "failure", "stop", "end"


class World:
    """rank: this process's number; size: how many there are. store: what all of them can read and write at any time."""

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._meetings, self._looked = 0, 0.0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def add(self, tensor: Tensor) -> None:
        """Make ``tensor`` the sum over all processes, in place; on a GPU without waiting for it."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)

    def stop_asked(self, signal: int | None) -> int | None:
        """The signal that has asked this or, a moment ago, another process to stop. signal: this one's."""
        if self.size == 1:
            return signal
        now = time.monotonic()
        if signal is not None:
            self._store.compare_set(_STOP, "", str(signal))
            return signal
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        return int(self._store.get(_STOP)) if self._store.check([_STOP]) else None

    def stop_agreed(self, signal: int | None) -> int | None:
        """The same, but all processes call it, and all get the same answer."""
        if self.size == 1:
            return signal
        import torch
        import torch.distributed as dist

        asked = torch.tensor(self.stop_asked(signal) or 0)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        found = int(asked)
        return found or None

    def meet(self, poll: Callable[[], None] = lambda: None) -> None:
        """Wait until all processes are here. ``poll`` is called while waiting, and may raise to end the wait."""
        if self.size == 1:
            return
        self._meetings += 1
        name = f"meeting {self._meetings}"
        self._store.add(name, 1)
        while self._store.add(name, 0) < self.size:
            self._raise_failure()
            try:
                poll()
            except Stopped:
                if self._store.add(name, -1) < self.size - 1:
                    raise
                self._store.add(name, 1)  # all are here, and go on together to where they stop together
                return
            time.sleep(0.01)

    def shared(self, value: T, poll: Callable[[], None] = lambda: None) -> T:
        """The leading process's ``value``. All processes call it."""
        return self.gathered(value, poll)[0]

    def gathered(self, value: T, poll: Callable[[], None] = lambda: None) -> list[T]:
        """Every process's ``value``, by rank. All processes call it."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        self.meet(poll)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def end(self) -> None:
        """Let the others know that this process has nothing left to say or to write."""
        with suppress(Exception):  # torchrun may be gone, and who holds the store with it
            self._store.set(f"{_END} {self.rank}", "")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Let the other processes know of an error inside the block, and raise Elsewhere where it is theirs.

        The first that fails raises what it failed with, and is the one that says it.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except Elsewhere:
            raise
        except Stopped as error:
            self._store.compare_set(_STOP, "", str(error.signal))
            self._raise_failure(error)
            if self.leads:
                raise
            self._await_end_of(0, LONGEST)  # it saves what it has
            raise Elsewhere(str(error), 128 + error.signal) from error
        except Exception as error:
            self._tell(error)
            raise

    def _tell(self, error: Exception) -> None:
        """Note down this process's failure, or raise Elsewhere where another's end has brought it about."""
        mended = isinstance(error, UserError)
        if not mended and not self.leads and self._store.check([_STOP]):
            raise Elsewhere("stopped", 128 + int(self._store.get(_STOP))) from error
        line = str(error) if mended else first_line(error)
        own = json.dumps({"rank": self.rank, "status": 2 if mended else 1, "line": line})
        if self._store.compare_set(_FAILURE, "", own).decode() != own:
            self._raise_failure(error)

    def _await_end_of(self, rank: int, longest: timedelta) -> None:
        """Wait until a process has done what it does at its end: torchrun ends all where one has ended."""
        until = time.monotonic() + longest.total_seconds()
        while not self._store.check([f"{_END} {rank}"]) and time.monotonic() < until:
            time.sleep(0.05)

    def _raise_failure(self, cause: Exception | None = None) -> None:
        """Raise Elsewhere if another process has failed."""
        if not self._store.check([_FAILURE]):
            return
        said = json.loads(self._store.get(_FAILURE))
        if said["rank"] != self.rank:
            self._await_end_of(said["rank"], PATIENCE)
            raise Elsewhere(f"process {said['rank']}: {said['line']}", said["status"]) from cause


ALONE = World()


def processes() -> int:
    """How many processes ``torchrun`` has started, of which this is one; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def leads() -> bool:
    """Whether this process is the one of them that speaks."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


@contextmanager
def said_once() -> Iterator[None]:
    """For work that comes out the same in every process, before they are joined: the leading one says what is wrong."""
    try:
        yield
    except UserError as error:
        if leads():
            raise
        time.sleep(PATIENCE.total_seconds())  # normally torchrun ends this process as soon as the other has spoken
        raise Elsewhere(str(error), 2) from error


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The world of this process, left again at the end. device: as the configuration has it.

    Raises UserError where the processes cannot work together.
    """
    if processes() == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    cuda = device != "cpu" and torch.cuda.is_available()
    local, here = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        store, rank, size = next(iter(dist.rendezvous("env://")))
    except (RuntimeError, ValueError, OSError) as error:
        raise _apart(error) from error
    world = World(rank, size, dist.PrefixStore("ssm-tune", store))
    atexit.register(world.end)
    with world.telling():
        if cuda and local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        try:
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST)
        except (RuntimeError, ValueError, OSError) as error:
            raise _apart(error) from error
        if cuda and here > torch.cuda.device_count():
            raise UserError(
                f"torchrun started {here} processes for {torch.cuda.device_count()} GPUs: each needs one of its own "
                f"(--nproc-per-node={torch.cuda.device_count()}, or device=cpu)"
            )
        yield world
    dist.destroy_process_group()  # behind an error the others may not answer any more: the process's end does it


def _apart(error: Exception) -> UserError:
    return UserError(f"the processes that torchrun started do not find each other: {first_line(error)}")


def parts_of(batch_size: int, micro_batch: int | None, world: World) -> list[slice]:
    """Which rows of a batch this process computes, and how many at a time.

    Raises UserError where the batch does not divide.
    """
    if batch_size % world.size:
        raise UserError(
            f"train.batch_size={batch_size} cannot be shared evenly by {world.size} processes: start a number of them "
            "that divides it"
        )
    mine = batch_size // world.size
    size = micro_batch or mine
    if mine % size:
        share = f" / {world.size} processes = {mine}" if world.size > 1 else ""
        raise UserError(f"train.micro_batch={size} does not divide train.batch_size={batch_size}{share}")
    return [slice(start, start + size) for start in range(world.rank * mine, (world.rank + 1) * mine, size)]
