"""Answers of the frozen and of the tuned model to a split, shared by the processes, scored by the leading one."""

from __future__ import annotations

from pathlib import Path

from ssm_tune.experiment.base_model import frozen_outputs
from ssm_tune.experiment.run_checkpointer import Session
from ssm_tune.experiment.setup import Prepared
from ssm_tune.experiment.state import Answers
from ssm_tune.generation.predict import Predictions, predict
from ssm_tune.metrics.names import heading
from ssm_tune.records.record import references_sha256
from ssm_tune.tasks.base import Example
from ssm_tune.utils.errors import Diverged, UserError
from ssm_tune.utils.files import write_jsonl
from ssm_tune.utils.progress import Display


def score_frozen(session: Session, ui: Display) -> None:
    """The untrained model's score on the report split, decoded or from the cache, by the leading process alone."""
    if session.world.is_rank_zero:
        _score_frozen(session, ui)
    session.state.frozen = session.world.broadcast(session.state.frozen, session.poll)
    session.milestone()


def _score_frozen(session: Session, ui: Display) -> None:
    prepared, state, split = session.prepared, session.state, session.prepared.roles.report
    label = f"frozen model: {split}"

    def fresh() -> list[str]:
        try:
            return _outputs(session, prepared.dataset.splits[split], ui, label, "frozen")
        except Diverged as error:
            raise UserError(f"the frozen {prepared.model_name} cannot be used: {error}") from error

    outputs, cached = frozen_outputs(prepared, fresh, session.poll)
    answers = _scored(session, outputs, split)
    write_predictions(session.folder / "predictions-frozen.jsonl.gz", prepared, answers)
    state.frozen = {"split": split, "values": answers.scored.values}
    state.answered.pop(label, None)
    scores = points(answers.scored.values, prepared.dataset.headline)
    ui.say(f"frozen model  {split}: {scores}{'  (kept)' if cached else ''}")


def answers_of(session: Session, split: str, ui: Display, label: str) -> Answers:
    """The tuned model's answers to a split, each process giving its share of them, scored by the leading one.

    Raises Diverged, in all processes, where one finds logits that are not finite.
    """
    world, state, examples = session.world, session.state, session.prepared.dataset.splits[split]
    if world.size > 1:
        label = f"{label}, share {world.rank + 1} of {world.size}"
    found: tuple[list[str], int] | Diverged
    try:
        mine = examples[world.rank :: world.size]
        outputs = _outputs(session, mine, ui, label, "evaluate") if mine else []
        found = outputs, state.answered[label].tokens if mine else 0
    except Diverged as error:
        found = error
    outputs, tokens = [""] * len(examples), 0
    for rank, theirs in enumerate(world.all_gather(found, session.poll)):
        if isinstance(theirs, Diverged):
            raise theirs
        outputs[rank :: world.size], given = theirs
        tokens += given
    scored = _scored(session, outputs, split) if world.is_rank_zero else None
    answers = world.broadcast(scored, session.poll)
    assert answers is not None
    state.generated += tokens
    state.answered.clear()
    return answers


def _outputs(session: Session, examples: list[Example], ui: Display, label: str, phase: str) -> list[str]:
    """The model's answer to every example, as the task's mode has it; those given already are kept."""
    prepared, task = session.prepared, session.prepared.task
    done = session.state.answered.setdefault(label, Predictions())
    with session.timed(phase):
        return predict(
            prepared.model,
            examples,
            prepared.tokenizer,
            task.mode,
            prepared.decode,
            ui,
            label,
            task.clean_up,
            done,
            session,
        )


def _scored(session: Session, outputs: list[str], split: str) -> Answers:
    """Outputs and what they score. Scoring may be long and cannot be polled, and a signal may have ended its helpers:
    a request to stop is met with the outputs saved, and the scores dropped."""
    with session.interruption.at_once(session.save):
        scored = session.prepared.task.score(outputs, session.prepared.dataset.splits[split])
    session.poll()
    return Answers(outputs, scored)


def write_predictions(path: Path, prepared: Prepared, answers: Answers | None) -> None:
    """A line an example of the report split: its id, the output, its scores; of the data only a hash."""
    assert answers is not None  # both epochs that are kept have answered the report split
    examples = prepared.dataset.splits[prepared.roles.report]
    write_jsonl(
        path,
        (
            {
                "id": example.id,
                "output": output,
                "statistics": statistics,
                "references_sha256": references_sha256(example.references),
            }
            for example, output, statistics in zip(examples, answers.outputs, answers.scored.statistics, strict=True)
        ),
    )


def points(scores: dict[str, float], names: tuple[str, ...]) -> str:
    # a split may lack a metric: the part of train that selects has no matched and mismatched half
    return "  ".join(f"{heading(name)} {100 * scores[name]:.2f}" for name in names if name in scores)
