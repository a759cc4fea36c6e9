"""Searches: what they run, what they refuse, what they choose, and that none of it touches the reported split."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.conf_folder import own_conf
from helpers.make_records import make_record
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hydra_plugins.ssm_tune_launchers import serial
from ssm_tune.cli import main
from ssm_tune.config import groups
from ssm_tune.config.compose import compose
from ssm_tune.config.groups import names
from ssm_tune.config.tuned import merge, of_cell, read_tuned, variant, write_tuned
from ssm_tune.records.record import find_records, read_record
from ssm_tune.records.trial import find_trials, read_trial
from ssm_tune.sweeps.lr_search import Search, choose, read_search
from ssm_tune.sweeps.status import Results
from ssm_tune.sweeps.worker import run_settings
from ssm_tune.tasks.glue import Glue
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import encode_json

CELL = ["method=state_offset_y", "task=glue_rte", "model=tiny", "data=sample"]
QUICK = ["train.max_steps=2", "splits.selection_examples=6"]


def make_trial(rate: float, score: float | None, loss: float | None = 1.0, **changes: Any) -> Any:
    """A trial with a score on the selection split; None: it diverged."""
    record = make_record(**changes)
    trial = {key: record[key] for key in record if key not in ("schema", "metrics", "headline")}
    best = None if score is None else {"epoch": 1, "step": 50, "selection": {"rougeL": score}}
    trial |= {
        "trial": 1,
        "learning_rate": {"value": rate, "source": "given"},
        "best": best,
        "epochs": [{"epoch": 1, "step": 50, "train_loss": loss, "selection": best and best["selection"]}],
        "examples": 9,
    }
    return trial | {"status": "diverged" if score is None else "completed"}


def rates(search: Search) -> list[tuple[str, float | None]]:
    return [(variant(one.method), one.train.learning_rate) for one in search.configs]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """conf/ with a search of ours in it."""
    return own_conf(tmp_path, "search", monkeypatch)


@pytest.mark.parametrize("name", names("search"))
def test_every_search_gives_every_method_of_a_task_the_same_budget(name: str) -> None:
    search = read_search([f"search={name}", "data.root=DIR"])
    assert {config.trial and not config.frozen and config.protocol == "standard" for config in search.configs} == {True}
    counts = {len(numbers) for numbers in search.groups().values()}
    assert len(counts) == 1
    assert {method.partition(",")[0] for _, method in search.groups()} == set(names("method"))


def test_a_file_is_expanded_narrowed_and_changed(written: Path) -> None:
    written.write_text(
        "tuned: mine\ngrid: {lora: [1e-3, 3e-3], 'state_offset,rank=4': [2e-3, 4e-3]}\n"
        "blocks: [{task: [glue_rte, samsum], model: tiny, data: sample, train.max_steps: 5}]"
    )
    both = [("lora", 1e-3), ("lora", 3e-3), ("state_offset,rank=4", 2e-3), ("state_offset,rank=4", 4e-3)]
    assert sorted(rates(read_search(["search=mine"]))) == sorted(both * 2)
    assert rates(read_search(["search=mine", "task=samsum", "method=lora"])) == [("lora", 1e-3), ("lora", 3e-3)]
    other = read_search(["search=mine", "task=samsum", "grid.learning_rate=1e-4", "train.max_steps=2", "seed=7"])
    assert rates(other) == [("lora", 1e-4), ("state_offset,rank=4", 1e-4)]
    assert {(config.train.max_steps, config.seed) for config in other.configs} == {(2, 7)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("blocks: [{task: samsum}]", "must hold 'grid:'"),
        ("grid: {lora: [1e-3]}\nblocks: [{task: samsum}]", "must hold 'tuned:'"),
        ("tuned: t\ngrid: {lora: [1e-3]}", "must hold 'blocks:'"),
        ("tuned: t\ngrid: {lorra: [1e-3]}\nblocks: [{task: samsum}]", "grid has no method 'lorra': did you mean lora"),
        ("tuned: t\ngrid: {lora: 1e-3}\nblocks: [{task: samsum}]", "grid.lora must be a list of learning rates"),
        ("tuned: t\ngrid: {lora: [1e-3]}\nblocks: [{task: samsum, method: full}]", "methods and their learning rates"),
        (
            "tuned: t\ngrid: {lora: [1e-3, -2]}\nblocks: [{task: samsum, model: tiny, data: sample}]",
            "mine.yaml, block 1: train.learning_rate must be a positive number, got -2",
        ),
        (
            "tuned: t\ngrid: {lora: [1e-3, fast]}\nblocks: [{task: samsum, model: tiny, data: sample}]",
            "mine.yaml, block 1: train.learning_rate",
        ),
        (
            "tuned: t\ngrid: {lora: [1e-3], full: [1e-5, 1e-4]}\nblocks: [{task: samsum, model: tiny, data: sample}]",
            "every method of a task has the same budget, but on samsum lora has 1 trials and full 2",
        ),
        (
            "tuned: t\ngrid: {lora: [1e-3, 0.001]}\nblocks: [{task: samsum, model: tiny, data: sample}]",
            "lora on samsum has a learning rate twice",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_line(text: str, said: str, written: Path) -> None:
    written.write_text(text)
    with pytest.raises(UserError) as caught:
        read_search(["search=mine"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "name the learning rates to try"),
        (["grid.batch_size=4,8"], "a search chooses learning rates"),
        (["grid.learning_rate=1e-3,0"], "train.learning_rate must be a positive number, got 0"),
        (["grid.learning_rate=1e-3", "splits.selection=val"], "never sees the reported one"),
        (["grid.learning_rate=1e-3", "splits.report=carved"], "never sees the reported one"),
        (["grid.learning_rate=1e-3", "protocol=paper"], "selects on the very split that it reports"),
        (["grid.learning_rate=1e-3,1e-2", "seed=1,2"], "a learning rate twice"),
        (["grid.learning_rate=1e-3", "method=state_offset_y,lora", "train.epoch=1"], "did you mean train.epochs"),
        (["search=mamba_25n"], "there is no search 'mamba_25n': did you mean mamba_25m"),
    ],
)
def test_wrong_words_are_one_line(
    settings: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert main(["search", *CELL, *settings, f"output_dir={results}", "--to", str(tmp_path / "t.yaml")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not results.exists()


@given(
    st.dictionaries(
        st.floats(1e-6, 1),
        st.tuples(st.none() | st.sampled_from([0.0, 0.25]) | st.floats(0, 1), st.none() | st.sampled_from([0.5, 2.0])),
        min_size=1,
    )
)
def test_the_best_is_chosen_of_equal_ones_by_the_loss(found: dict[float, tuple[float | None, float | None]]) -> None:
    choice = choose([make_trial(rate, score, loss) for rate, (score, loss) in found.items()])
    scored = {rate: (score, math.inf if loss is None else loss) for rate, (score, loss) in found.items()}
    known = {rate: (-score, loss) for rate, (score, loss) in scored.items() if score is not None}
    if not known:
        assert choice is None
        return
    assert choice is not None
    assert choice.rate == sorted(known, key=lambda rate: (known[rate], rate))[0]
    assert choice.edge == (len(found) > 1 and choice.rate in (min(found), max(found)))


def test_a_rate_belongs_to_a_method_with_its_options() -> None:
    table = {"tiny": {"samsum": {"state_offset": 1e-3, "state_offset,rank=4": 2e-3}}}
    found = {}
    for options in ([], ["method.rank=4"], ["method.rank=8"]):
        method = compose(["method=state_offset", "task=samsum", "model=tiny", "data=sample", *options]).method
        found[variant(method)] = of_cell(table, "tiny", "samsum", method)
    assert found == {"state_offset": 1e-3, "state_offset,rank=4": 2e-3, "state_offset,rank=8": 1e-3}
    assert of_cell(table, "other", "samsum", method) is None


word = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="_,=. -:#'\""), min_size=1)


@given(st.dictionaries(st.tuples(word, word, word), st.floats(1e-9, 1e3)), st.dictionaries(word, st.integers()))
def test_a_tuned_file_is_read_as_it_was_written(
    cells: dict[tuple[str, str, str], float], about: dict[str, int]
) -> None:
    import tempfile

    tables: Any = {}
    origins: Any = {}
    for cell, rate in cells.items():
        merge(tables, cell, float(f"{rate:g}"))
        merge(origins, cell, about)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.yaml"
        write_tuned(path, tables, origins, "float32")
        assert read_tuned(path) == (tables, origins, "float32")


def test_a_file_of_someones_own_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (groups.conf_dir() / "tuned" / "tiny.yaml").read_bytes()
    assert main(["search", *CELL, "grid.learning_rate=1e-3", f"output_dir={tmp_path}"]) == 2
    assert "tiny.yaml was not written by a search" in capsys.readouterr().err
    assert (groups.conf_dir() / "tuned" / "tiny.yaml").read_bytes() == before


def test_a_damaged_trial_is_a_warning_and_runs_again(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "samsum" / "x"
    folder.mkdir(parents=True)
    for content in (b"{", b"{}", encode_json(make_trial(1e-3, 0.5) | {"best": None})):
        (folder / "trial.json").write_bytes(content)
        found, warnings = find_trials(tmp_path)
        assert not found
        assert "is no whole trial" in warnings[0]
    (folder / "trial.json").write_bytes(encode_json(make_trial(1e-3, 0.5)))
    assert len(find_trials(tmp_path)[0]) == 1


@pytest.mark.slow
def test_a_search_runs_what_is_missing_and_never_scores_the_reported_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: set[str] = set()
    score = Glue.score

    def watched(self: Glue, outputs: Any, examples: Any) -> Any:
        seen.update(example.id for example in examples)
        return score(self, outputs, examples)

    monkeypatch.setattr(Glue, "score", watched)
    # in this process, where it can be watched
    monkeypatch.setattr(serial._Worker, "run", lambda self, overrides: run_settings(overrides))
    results, tuned = tmp_path / "results", tmp_path / "mine.yaml"
    line = ["search", *CELL, *QUICK, "grid.learning_rate=1e-3,1e-1", f"output_dir={results}", "--to", str(tuned)]
    assert main(line) == 0
    said = capsys.readouterr()
    assert "2 done" in said.out
    assert "a trial: val is not looked at" in said.err
    cell = compose([*CELL])
    dataset = Glue(**{key: value for key, value in cell.task.items() if key != "_target_"}).load(
        {"source": "sample", "path": None, "check": "counts", "name": None, "root": None}, "standard"
    )
    assert len(seen) == 6
    assert seen <= {example.id for example in dataset.splits["train"]}
    found, _ = find_trials(results)
    assert sorted(trial["learning_rate"]["value"] for _, trial in found) == [1e-3, 1e-1]
    assert all("report" not in json.dumps(trial["best"]) for _, trial in found)
    # nothing that reads results takes a trial for one
    assert find_records(results) == ([], [])
    assert Results(results).folders() == []
    with pytest.raises(UserError, match="not a run's record"):
        read_record(found[0][0])
    for command in (["table", "--results", str(results)], ["status", "--results", str(results)]):
        assert main(command) == 2
    # what the file says of its choice, and that a run takes it
    rates, about, dtype = read_tuned(tuned)
    origin = about["tiny"]["glue_rte"]["state_offset_y"]
    assert (origin["steps"], origin["examples"], origin["seed"], dtype) == (2, 6, 42, "float32")
    assert [rate for rate, _ in origin["tried"]] == [1e-3, 1e-1]
    assert rates["tiny"]["glue_rte"]["state_offset_y"] in (1e-3, 1e-1)
    # the same line runs nothing, after a loss only what is lost
    capsys.readouterr()
    assert main(line) == 0
    assert "2 kept" in capsys.readouterr().out
    shutil.rmtree(found[0][0].parent)
    assert main(line) == 0
    assert "1 done, 1 kept" in capsys.readouterr().out.replace("1 kept, 1 done", "1 done, 1 kept")
    # another method leaves the first one's choice alone
    other = [*line[:1], "method=bitfit", *CELL[1:], *line[5:]]
    capsys.readouterr()
    assert main([*other, "train.max_steps=3"]) == 0
    assert "note: on glue_rte the file has other budgets for state_offset_y" in capsys.readouterr().err
    assert main(other) == 0
    assert "other budgets" not in capsys.readouterr().err
    merged = OmegaConf.to_container(OmegaConf.load(tuned))
    assert isinstance(merged, dict)
    assert set(merged["learning_rate"]["tiny"]["glue_rte"]) == {"state_offset_y", "bitfit"}
    assert read_trial(find_trials(results)[0][0][0])["splits"]["selection"] == "carved"


def test_batches_of_another_size_are_another_budget() -> None:
    words = ["method=initial_state,lora", "task=samsum", "model=mamba_1b4", "grid.learning_rate=1e-3,2e-3"]
    with pytest.raises(UserError, match=r"initial_state has train\.batch_size=2 and lora train\.batch_size=4"):
        read_search(words)
    assert len(read_search([*words, "train.batch_size=4"]).configs) == 4
