"""Searches: what they run, what they refuse, what they choose, and that none of it touches the reported split."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.conf_folder import own_conf
from helpers.make_records import make_record
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ssm_tune.cli import main
from ssm_tune.config import groups
from ssm_tune.config.compose import Composer, compose
from ssm_tune.config.groups import names
from ssm_tune.config.schema import Config
from ssm_tune.config.tuned import TunedFile, learning_rate_of, merge, read_tuned, write_tuned
from ssm_tune.config.variants import of_cell, variant
from ssm_tune.records.record import find_records, read_record
from ssm_tune.records.trial import find_trials, read_trial
from ssm_tune.records.where import shipped_dir
from ssm_tune.sweeps.in_a_row import InARow
from ssm_tune.sweeps.one_run import run_settings
from ssm_tune.sweeps.search import Search, read_search
from ssm_tune.sweeps.search_choice import candidates, choose
from ssm_tune.sweeps.search_rounds import check_rounds, rounds
from ssm_tune.sweeps.status import Results
from ssm_tune.tasks.glue import Glue
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import encode_json

CELL = ["method=state_offset_y", "task=glue_rte", "model=tiny", "data=sample"]
RESULTS = shipped_dir()
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


@pytest.mark.skipif(not (RESULTS / "trials").is_dir(), reason="the results lie in a checkout alone")
def test_the_committed_trials_choose_the_committed_rates() -> None:
    file = read_tuned(groups.conf_dir() / "tuned" / "mamba_25m.yaml")
    found: dict[str, list[Any]] = {}
    for _, trial in find_trials(RESULTS)[0]:
        found.setdefault(json.dumps([trial["cell"]["task"], trial["config"]["method"]["name"]]), []).append(trial)
    checked = 0
    for key, trials in found.items():
        task, _ = json.loads(key)
        by_options: dict[str, list[Any]] = {}
        for trial in trials:
            by_options.setdefault(json.dumps(trial["cell"]["method_options"], sort_keys=True), []).append(trial)
        for alike in by_options.values():
            method = variant(alike[0]["config"]["method"])
            choice, origin = choose(candidates(alike)), file.trials["mamba_25m"][task][method]
            assert choice is not None
            assert file.rates["mamba_25m"][task][method] == choice.rate
            assert (origin["trials"], origin["edge"]) == (len(alike), choice.edge)
            assert origin["seconds"] == pytest.approx(sum(one["seconds"]["total"] for one in alike), abs=0.1)
            checked += 1
    assert checked == sum(map(len, file.rates["mamba_25m"].values()))


@pytest.mark.parametrize("name", names("search"))
def test_every_search_gives_every_method_of_a_task_the_same_budget(name: str) -> None:
    search = read_search([f"search={name}", "data.root=DIR"])
    assert {config.trial and not config.frozen and config.protocol == "standard" for config in search.configs} == {True}
    counts = {len(numbers) for numbers in search.groups.values()}
    assert len(counts) == 1
    check_rounds(search)


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
        (["grid.batch_size=4,8"], "state_offset_y has no option 'batch_size'"),
        (["grid.learning_rate=1e-3,0"], "train.learning_rate must be a positive number, got 0"),
        (["grid.learning_rate=1e-3", "splits.selection=val"], "never sees the reported one"),
        (["grid.learning_rate=1e-3", "splits.report=carved"], "never sees the reported one"),
        (["grid.learning_rate=1e-3", "protocol=paper"], "selects on the very split that it reports"),
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
    choice = choose(candidates([make_trial(rate, score, loss) for rate, (score, loss) in found.items()]))
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

    tuned = TunedFile(adapter_dtype="float32")
    for cell, rate in cells.items():
        merge(tuned.rates, cell, float(f"{rate:g}"))
        merge(tuned.options, cell, about)
        merge(tuned.trials, cell, about)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.yaml"
        write_tuned(path, tuned)
        assert read_tuned(path) == tuned


def test_a_file_of_someones_own_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (groups.conf_dir() / "tuned" / "tiny.yaml").read_bytes()
    assert main(["search", *CELL, "grid.learning_rate=1e-3", f"output_dir={tmp_path}"]) == 2
    assert "tiny.yaml was not written by a search" in capsys.readouterr().err
    assert (groups.conf_dir() / "tuned" / "tiny.yaml").read_bytes() == before


def test_an_installed_package_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = tmp_path / "package" / "conf"
    shutil.copytree(groups.conf_dir(), inside)
    monkeypatch.setattr(groups, "_INSIDE", inside)
    assert main(["search", *CELL, "grid.learning_rate=1e-3,1e-2", f"output_dir={tmp_path}"]) == 2
    assert "--to" in capsys.readouterr().err


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


def looked(search: Search, score: Callable[[Config], float | None]) -> list[Any]:
    """What trials would leave whose scores are a function of their settings."""
    made = []
    for run, config in zip(search.sweep.runs, search.configs, strict=True):
        options = {name: config.method[name] for name in run.searched}
        rate = config.train.learning_rate
        assert rate is not None
        made.append(make_trial(rate, score(config), seed=config.seed, cell__method_options=options))
    return made


def hill(top: float) -> Callable[[Config], float]:
    """Scores that fall on both sides of the best rate."""
    return lambda config: 1 / (1 + abs(math.log(config.train.learning_rate or 1.0) - math.log(top)))


TRIED = [*CELL, "grid.learning_rate=1e-3,3e-3,1e-2", "train.max_steps=120"]


@given(st.floats(1e-7, 1e2), st.integers(1, 6))
@settings(max_examples=10)
def test_a_grid_grows_until_the_best_lies_inside_or_the_limit_is_reached(top: float, limit: int) -> None:
    search = read_search(TRIED, extend=limit)
    check_rounds(search)
    found = list(rounds(search, lambda one: looked(one, hill(top))))
    rates = [config.train.learning_rate or 0.0 for part in found for config in part.configs]
    choice = choose(candidates([trial for part in found for trial in looked(part, hill(top))]))
    assert choice is not None
    assert choice.rate == min(rates, key=lambda rate: (abs(math.log(rate) - math.log(top)), rate))
    grown = len(rates) - 3
    assert grown == len(found) - 1 <= limit
    assert choice.edge == (grown == limit and choice.rate in (min(rates), max(rates)))
    if 1e-3 < top < 1e-2 and choice.rate == 3e-3:
        assert grown == 0
    for one, other in itertools.pairwise(sorted(rates)):
        assert 2.9 < other / one < 3.4


def test_a_grid_grows_for_each_method_by_itself_and_downwards_where_all_diverge() -> None:
    search = read_search([*TRIED, "method=lora,bitfit", "seed=1,2"], extend=2)

    def score(config: Config) -> float | None:
        return None if config.method["name"] == "lora" else hill(3e-3)(config)

    found: dict[str, list[Config]] = {}
    for part in rounds(search, lambda one: looked(one, score)):
        for (_, _, method), numbers in part.groups.items():
            found.setdefault(method, []).extend(part.configs[number] for number in numbers)
    assert {one.train.learning_rate for one in found["bitfit"]} == {1e-3, 3e-3, 1e-2}
    assert {one.train.learning_rate for one in found["lora"]} == {1e-4, 3e-4, 1e-3, 3e-3, 1e-2}
    assert len(found["lora"]) == 10  # each rate at both seeds


def test_a_missing_trial_stops_a_methods_grid_from_growing() -> None:
    search = read_search(TRIED, extend=2)
    assert len(list(rounds(search, lambda one: [None, *looked(one, hill(1.0))[1:]]))) == 1


@pytest.mark.parametrize(("count", "by", "plan"), [(9, 3, [(9, 40), (3, 120)]), (5, 2, [(5, 30), (3, 60), (2, 120)])])
def test_halving_keeps_the_best_and_gives_them_longer_trials(count: int, by: int, plan: list[tuple[int, int]]) -> None:
    grid = [10.0 ** -(2 + number / 4) for number in range(count)]
    words = [*CELL, f"grid.learning_rate={','.join(map(repr, grid))}", "train.max_steps=120"]
    search = read_search(words, halving=by)
    check_rounds(search)
    best = 1.1 * grid[1]
    found = list(rounds(search, lambda one: looked(one, hill(best))))
    assert [(len(one.configs), one.configs[0].train.max_steps) for one in found] == plan
    for one, (kept, _) in zip(found, plan, strict=True):
        nearest = sorted(grid, key=lambda rate: abs(math.log(rate) - math.log(best)))[:kept]
        assert {config.train.learning_rate for config in one.configs} == set(nearest)


def test_options_are_searched_with_the_rates_and_runs_take_what_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["method=lora", *CELL[1:], "grid.learning_rate=1e-3,1e-2", "grid.rank=2,8,16", "seed=1,2"]
    search = read_search(words)
    assert [group.method for group in search.groups] == ["lora"]
    (numbers,) = search.groups.values()
    score: dict[tuple[Any, ...], float] = {(16, 1e-2, 1): 0.9, (16, 1e-2, 2): 0.3, (2, 1e-3, 1): 0.5, (2, 1e-3, 2): 0.8}
    trials = looked(search, lambda one: score.get((one.method["rank"], one.train.learning_rate, one.seed), 0.0))
    tried = candidates(trials, search.searched(numbers))
    choice = choose(tried)
    assert choice is not None
    # the mean over seeds decides; the smaller of two rates is an edge, for its rank
    assert (len(tried), choice.rate, choice.best.options, choice.edge) == (6, 1e-3, {"rank": 2}, True)
    tuned = TunedFile(adapter_dtype="float32")
    merge(tuned.options, ("tiny", "glue_rte", "lora"), choice.best.options)
    merge(tuned.rates, ("tiny", "glue_rte", "lora,rank=2"), choice.rate)
    (tmp_path / "tuned").mkdir()
    write_tuned(tmp_path / "tuned" / "found.yaml", tuned)
    line = ["method=lora", *CELL[1:], "tuned=found", f"hydra.searchpath=[file://{tmp_path}]"]
    for made in (compose(line), Composer().config(line)):
        assert (made.method["rank"], learning_rate_of(made, "tiny")) == (2, (1e-3, "found"))
    for made in (compose([*line, "method.rank=8"]), Composer().config([*line, "method.rank=8"])):
        assert (made.method["rank"], learning_rate_of(made, "tiny")[1]) == (
            8,
            "the method's default: no tuned rate for this run",
        )


def test_trials_are_as_long_as_the_runs_of_the_sweep_that_they_are_for(written: Path) -> None:
    (written.parent.parent / "sweep").mkdir()
    (written.parent.parent / "sweep" / "runs.yaml").write_text(
        "blocks:\n- {task: [glue_rte, samsum], model: tiny, data: sample, seed: [5, 6], train.max_steps: 9}\n"
        "settings: {tuned: tiny}\nmethods:\n- {method: [lora, bitfit]}\n- {method: lora, method.rank: [2, 4]}\n"
        "- {method: state_offset, method.rank: null}\n"
    )
    written.write_text("tuned: t\nsweep: runs\nextend: 2\ngrid: {'*': [1e-3, 1e-2], 'lora,rank=4': [2e-3, 5e-3]}")
    search = read_search(["search=mine"])
    assert search.extend == 2
    assert {(config.train.max_steps, config.seed) for config in search.configs} == {(9, 5)}
    found = {
        group: [search.configs[n].train.learning_rate for n in numbers] for group, numbers in search.groups.items()
    }
    assert {method for _, _, method in found} == {"lora", "bitfit", "lora,rank=2", "lora,rank=4", "state_offset"}
    assert len(found) == 10
    for (_, _, method), tried in found.items():
        assert tried == ([2e-3, 5e-3] if method == "lora,rank=4" else [1e-3, 1e-2])
    written.write_text("tuned: t\nsweep: runs\nsettings: {seed: [1, 2]}\ngrid: {'*': [1e-3], full: [1e-5]}")
    with pytest.raises(UserError, match="grid has full, and no run is of it"):
        read_search(["search=mine"])
    written.write_text("tuned: t\nsweep: runs\nsettings: {seed: [1, 2]}\ngrid: {'*': [1e-3]}")
    assert {config.seed for config in read_search(["search=mine"]).configs} == {1, 2}
    written.write_text("tuned: t\nsweep: runs\ngrid: {lora: {learning_rate: [1e-3], rank: [2, 8]}, '*': [1e-3]}")
    with pytest.raises(UserError, match=r"method.rank of lora is given, and the grid tries several of it"):
        read_search(["search=mine"])


@pytest.mark.parametrize(
    ("words", "asked", "said"),
    [
        (["grid.learning_rate=1e-3"], {"extend": 2}, "cannot be extended: with one learning rate there is no step"),
        (["grid.learning_rate=1e3,1e5"], {"extend": 2}, "cannot be extended by 2: train.learning_rate must be"),
        (["grid.learning_rate=1e-3,1e-2"], {"extend": 1, "halving": 2}, "leave out extend or halving"),
        (["grid.learning_rate=1e-3,1e-2"], {"halving": 2}, "halving by 2 needs more candidates than 2"),
        (["grid.learning_rate=1e-3,1e-2,1e-1", "train.max_steps=null"], {"halving": 2}, "it needs train.max_steps"),
        (["grid.learning_rate=1e-3"], {"extend": 1000}, "extend must be a whole number from 0 to 20, got 1000"),
        (["grid.learning_rate=1e-3,1e-2,1e-1"], {"halving": 1}, "halving must be a whole number from 2"),
        (["grid.learning_rate=1e-3", "method=lora,bitfit", "grid.rank=2,4"], {}, "bitfit has no option 'rank'"),
    ],
)
def test_rounds_that_cannot_be_had_are_refused_in_one_line(
    words: list[str], asked: dict[str, int], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    out = ["--to", str(tmp_path / "t.yaml"), f"output_dir={tmp_path}"]
    assert main(["search", *CELL, "train.max_steps=9", *words, *flags, *out]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_search_that_grows_counts_what_it_cost_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(InARow, "run", lambda self, overrides: run_settings(overrides))
    tuned = tmp_path / "mine.yaml"
    line = ["search", *CELL, *QUICK, "grid.learning_rate=1e-6,2e-6", f"output_dir={tmp_path}", "--to", str(tuned)]
    assert main([*line, "--extend", "2", "--dry-run"]) == 0
    assert "2 to 4 trials" in capsys.readouterr().out
    assert main([*line, "--extend", "2"]) == 0
    origin = read_tuned(tuned).trials["tiny"]["glue_rte"]["state_offset_y"]
    done = len(find_trials(tmp_path)[0])
    assert (origin["grid"], origin["extend"], origin["trials"], len(origin["tried"])) == (2, 2, done, done)
    assert 2 < done <= 4  # with two rates the best is always at an edge
    first = tuned.read_bytes()
    capsys.readouterr()
    assert main([*line, "--extend", "2"]) == 0
    assert "done," not in capsys.readouterr().out
    assert tuned.read_bytes() == first
    # successive halving: shorter trials first, reported as such
    line = ["search", *CELL, "train.max_steps=4", "splits.selection_examples=6", *line[-2:], f"output_dir={tmp_path}"]
    line.append("grid.learning_rate=1e-3,2e-3,4e-3")
    assert main([*line, "--halving", "2"]) == 0
    origin = read_tuned(tuned).trials["tiny"]["glue_rte"]["state_offset_y"]
    assert (origin["halving"], origin["grid"], origin["trials"], len(origin["tried"]), origin["steps"]) == (
        2,
        3,
        5,
        2,
        4,
    )


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
    monkeypatch.setattr(InARow, "run", lambda self, overrides: run_settings(overrides))
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
    file = read_tuned(tuned)
    origin = file.trials["tiny"]["glue_rte"]["state_offset_y"]
    assert (origin["steps"], origin["examples"], origin["seed"], file.adapter_dtype) == (2, 6, 42, "float32")
    assert [rate for rate, _ in origin["tried"]] == [1e-3, 1e-1]
    assert file.rates["tiny"]["glue_rte"]["state_offset_y"] in (1e-3, 1e-1)
    assert (origin["trials"], origin["grid"]) == (2, 2)
    assert origin["seconds"] == pytest.approx(sum(trial["seconds"]["total"] for _, trial in found), abs=0.1)
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
