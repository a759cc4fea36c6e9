"""The processes that train one run together, as ``torchrun`` starts them; a single process is a group of one.

Every process holds the whole model and the same adapter, and computes its share of each batch and of each evaluation.
Only rank 0 takes the run lock, prints, and writes files. Processes exchange values when all of them have reached the
same call; while one waits for the others it still reacts to signals. Imports torch only where it is needed.
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

from ssm_tune.utils.errors import PeerFailed, Stopped, UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
TIMEOUT = timedelta(hours=1)
"""A process that does not reach a collective call within this time is taken for dead."""
FAILURE_TIMEOUT = timedelta(seconds=10)
"""How long the others wait for a failed process to print its error and to write its files."""
POLL_SECONDS = 0.2
"""Between two looks at whether another process was asked to stop."""
_FAILURE, _STOP, _END = "failure", "stop", "end"


def _do_nothing() -> None: ...


class ProcessGroup:
    """The processes of one run.

    rank: this process's number, from 0. size: how many there are. store: a key-value store that all of them read and
    write at any time (``torch.distributed.Store``).
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._barriers = 0
        self._last_poll = 0.0

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum ``tensor`` over all processes, in place; on a GPU without waiting for the result."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)

    def stop_requested(self, signal: int | None) -> int | None:
        """The signal that asked this process, or a moment ago another one, to stop. signal: this process's."""
        if self.size == 1:
            return signal
        now = time.monotonic()
        if signal is not None:
            self._store.compare_set(_STOP, "", str(signal))
            return signal
        if now - self._last_poll < POLL_SECONDS:
            return None
        self._last_poll = now
        return int(self._store.get(_STOP)) if self._store.check([_STOP]) else None

    def stop_agreed(self, signal: int | None) -> int | None:
        """``stop_requested``, but a collective call: all processes get the same result."""
        if self.size == 1:
            return signal
        import torch
        import torch.distributed as dist

        requested = torch.tensor(self.stop_requested(signal) or 0)
        dist.all_reduce(requested, dist.ReduceOp.MAX)
        found = int(requested)
        return found or None

    def barrier(self, poll: Callable[[], None] = _do_nothing) -> None:
        """Wait until all processes are here. ``poll`` is called while waiting, and may raise to end the wait."""
        if self.size == 1:
            return
        self._barriers += 1
        name = f"barrier {self._barriers}"
        self._store.add(name, 1)
        while self._store.add(name, 0) < self.size:
            self._raise_peer_failure()
            try:
                poll()
            except Stopped:
                if self._store.add(name, -1) < self.size - 1:
                    raise
                self._store.add(name, 1)  # all are here: they continue together, and stop together later
                return
            time.sleep(0.01)

    def broadcast(self, value: T, poll: Callable[[], None] = _do_nothing) -> T:
        """Rank 0's ``value``. A collective call."""
        return self.all_gather(value, poll)[0]

    def all_gather(self, value: T, poll: Callable[[], None] = _do_nothing) -> list[T]:
        """Every process's ``value``, by rank. A collective call."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        self.barrier(poll)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def mark_ended(self) -> None:
        """Let the others know that this process has nothing left to print or to write."""
        with suppress(Exception):  # torchrun, which holds the store, may have ended
            self._store.set(f"{_END} {self.rank}", "")

    @contextmanager
    def propagate_failures(self) -> Iterator[None]:
        """Tell the other processes of an error inside the block; raise PeerFailed where the error is another's.

        The process that fails first raises its own error, and is the one that prints it.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except PeerFailed:
            raise
        except Stopped as error:
            self._store.compare_set(_STOP, "", str(error.signal))
            self._raise_peer_failure(error)
            if self.is_rank_zero:
                raise
            self._wait_for_end_of(0, TIMEOUT)  # it saves a checkpoint
            raise PeerFailed(str(error), 128 + error.signal) from error
        except Exception as error:
            self._publish_failure(error)
            raise

    def _publish_failure(self, error: Exception) -> None:
        """Publish this process's failure, or raise PeerFailed where another process's end has caused it."""
        expected = isinstance(error, UserError)
        if not expected and not self.is_rank_zero and self._store.check([_STOP]):
            raise PeerFailed("stopped", 128 + int(self._store.get(_STOP))) from error
        line = str(error) if expected else first_line(error)
        own = json.dumps({"rank": self.rank, "status": 2 if expected else 1, "line": line})
        if self._store.compare_set(_FAILURE, "", own).decode() != own:
            self._raise_peer_failure(error)

    def _wait_for_end_of(self, rank: int, longest: timedelta) -> None:
        """Wait until a process has written its files: torchrun ends all processes as soon as one has ended."""
        until = time.monotonic() + longest.total_seconds()
        while not self._store.check([f"{_END} {rank}"]) and time.monotonic() < until:
            time.sleep(0.05)

    def _raise_peer_failure(self, cause: Exception | None = None) -> None:
        """Raise PeerFailed if another process has failed."""
        if not self._store.check([_FAILURE]):
            return
        failure = json.loads(self._store.get(_FAILURE))
        if failure["rank"] != self.rank:
            self._wait_for_end_of(failure["rank"], FAILURE_TIMEOUT)
            raise PeerFailed(f"process {failure['rank']}: {failure['line']}", failure["status"]) from cause


SINGLE_PROCESS = ProcessGroup()


def world_size() -> int:
    """How many processes ``torchrun`` has started, this one included; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_rank_zero() -> bool:
    """Whether this process is the one that prints."""
    return world_size() == 1 or os.environ.get("RANK", "0") == "0"


@contextmanager
def rank_zero_reports() -> Iterator[None]:
    """For work that gives the same result in every process, before they form a group: rank 0 alone raises UserError.

    The others raise PeerFailed, which is not printed.
    """
    try:
        yield
    except UserError as error:
        if is_rank_zero():
            raise
        time.sleep(FAILURE_TIMEOUT.total_seconds())  # torchrun ends this process as soon as rank 0 has ended
        raise PeerFailed(str(error), 2) from error


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the group that torchrun started, and leave it at the end. device: cpu, cuda or auto.

    Raises UserError where the processes cannot work together.
    """
    if world_size() == 1:
        yield SINGLE_PROCESS
        return
    import torch
    import torch.distributed as dist

    cuda = device != "cpu" and torch.cuda.is_available()
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        store, rank, size = next(iter(dist.rendezvous("env://")))
    except (RuntimeError, ValueError, OSError) as error:
        raise _no_rendezvous(error) from error
    group = ProcessGroup(rank, size, dist.PrefixStore("ssm-tune", store))
    atexit.register(group.mark_ended)
    with group.propagate_failures():
        if cuda and local_rank < torch.cuda.device_count():
            torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        try:
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        except (RuntimeError, ValueError, OSError) as error:
            raise _no_rendezvous(error) from error
        if cuda and local_size > torch.cuda.device_count():
            raise UserError(
                f"torchrun started {local_size} processes for {torch.cuda.device_count()} GPUs: each needs one of its "
                f"own (--nproc-per-node={torch.cuda.device_count()}, or device=cpu)"
            )
        yield group
    dist.destroy_process_group()  # not after an error, when the others may no longer answer: the process's end does it


def _no_rendezvous(error: Exception) -> UserError:
    return UserError(f"the processes that torchrun started do not find each other: {first_line(error)}")


def micro_batches(batch_size: int, micro_batch: int | None, group: ProcessGroup) -> list[slice]:
    """The rows of a batch that this process computes, one slice for each micro batch.

    micro_batch: examples in each; None: all that this process has of a batch.
    Raises UserError where the batch does not divide evenly.
    """
    if batch_size % group.size:
        raise UserError(
            f"train.batch_size={batch_size} cannot be shared evenly by {group.size} processes: start a number of them "
            "that divides it"
        )
    share = batch_size // group.size
    size = micro_batch or share
    if share % size:
        words = f" / {group.size} processes = {share}" if group.size > 1 else ""
        raise UserError(f"train.micro_batch={size} does not divide train.batch_size={batch_size}{words}")
    return [slice(start, start + size) for start in range(group.rank * share, (group.rank + 1) * share, size)]
