"""Signals: noted, acted on at once where asked, not lost in libraries, a second Ctrl-C not swallowed, handlers given
back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from omegaconf import DictConfig

from ssm_tune.experiment.signals import SIGNALS, note_signals, raise_stopped
from ssm_tune.sweeps.one_run import run_settings
from ssm_tune.utils.errors import Stopped

STOPPED_IN_AN_IMPORT = """
import dataclasses, json, os, signal, sys

from ssm_tune.sweeps.one_run import run_settings


class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGTERM)


module, path, *overrides = sys.argv[1:]
sys.meta_path.insert(0, Stop())
outcome = run_settings(overrides)
open(path, "w").write(json.dumps(dataclasses.asdict(outcome)))
sys.exit(outcome.exit)
"""


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> object:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def hangups_are_heard() -> Iterator[None]:
    """Under nohup the tests' process ignores a hangup, and so would what it tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_handlers_come_back(number: int) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with note_signals() as interruption:
        assert interruption.signal is None
        signal.raise_signal(number)
        assert interruption.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_work_that_cannot_look_up_is_saved_by_the_handler_once() -> None:
    saved: list[int] = []
    with note_signals() as interruption, interruption.save_at_once(lambda: saved.append(1)):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert saved == [1]


def test_another_thread_hears_nothing() -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    seen: list[object] = []

    def work() -> None:
        with note_signals():
            seen.extend(signal.getsignal(one) for one in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before


@pytest.mark.parametrize("number", [one for one in SIGNALS if one != signal.SIGINT])
def test_stopping_is_raised_whatever_a_library_makes_of_it(number: int) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    said = f"stopped by {signal.Signals(number).name} before there was anything to save"

    def swallowed() -> None:
        with suppress(Exception):
            signal.raise_signal(number)

    def broken() -> None:
        swallowed()
        raise RecursionError

    def taken_over() -> None:
        swallowed()
        with note_signals():
            pytest.fail("nothing is begun any more")

    def within() -> None:
        swallowed()
        with raise_stopped():
            taken_over()

    for work in (lambda: signal.raise_signal(number), swallowed, broken, taken_over, within):
        with pytest.raises(Stopped, match=said) as caught, raise_stopped():
            work()
        assert caught.value.signal == number
    assert [signal.getsignal(one) for one in SIGNALS] == before
    with raise_stopped(), note_signals() as interruption:  # nothing is left of it
        assert interruption.signal is None


def test_an_error_without_a_signal_stays_what_it_is() -> None:
    with pytest.raises(RecursionError), raise_stopped():
        raise RecursionError


def test_an_error_behind_a_signal_that_was_noted_stays_what_it_is() -> None:
    def broken() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise RecursionError

    with pytest.raises(RecursionError), raise_stopped(), note_signals():
        broken()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["numpy", "numpy.exceptions", "numpy.linalg", "ssm_tune.experiment.run"])
def test_a_worker_that_is_stopped_within_an_import_says_so(module: str, tmp_path: Path) -> None:
    """PyTorch swallows what ends NumPy's import, and the rest of the process would find a NumPy that is half there."""
    path = tmp_path / "outcome.json"
    settings = ["model=tiny", "data=sample", "task=dart", "method=prefix", f"output_dir={tmp_path}"]
    child = subprocess.run(
        [sys.executable, "-c", STOPPED_IN_AN_IMPORT, module, str(path), *settings],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 128 + signal.SIGTERM, child.stderr
    assert "NumPy" not in child.stderr  # PyTorch's warning that it goes on without
    outcome = json.loads(path.read_text())
    assert (outcome["status"], outcome["line"]) == ("stopped", "stopped by SIGTERM before there was anything to save")
    assert not [*tmp_path.rglob("failed.json"), *tmp_path.rglob("unprepared-*.json")]


def test_a_cell_that_is_stopped_while_it_is_composed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """OmegaConf makes errors of its own of what is raised within it."""

    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(DictConfig, "_set_value", stop)
    assert run_settings(["model=tiny"]).status == "stopped"
