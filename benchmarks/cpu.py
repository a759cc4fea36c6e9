"""Training steps and decoding on the CPU, beside transformers' MambaForCausalLM."""

from __future__ import annotations

import importlib
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

import torch

from benchmarks.models import SIZES
from benchmarks.table import Row, Table
from benchmarks.train_step import LABELS
from ssm_tune.config.groups import method_section
from ssm_tune.config.schema import TrainConfig
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.generation.generate import generate
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.planning.profiling import RATE
from ssm_tune.records.provenance import hardware
from ssm_tune.training.settings import TrainSettings
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import UserError, first_line

NEW_TOKENS = 20
LORA = {"targets": ["in_proj", "x_proj"], "dropout": 0.0}
"""What peft can train as well: it refuses out_proj and has no parts of x_proj; transformers skips its dt_proj."""
TOLERANCE = 1e-4
"""By how much of themselves losses and gradient norms may differ: rounding in float32."""


@dataclass(frozen=True)
class Case:
    """Steps of a method on a batch, or the decoding of prompts with some beams.

    lengths: of the rows in tokens, the least and the most; those of a batch with two lie evenly between them.
    rounds: how often both are timed, in turn.
    """

    model: str
    rows: int
    lengths: tuple[int, int]
    rounds: int
    method: str = ""
    beams: int = 0

    @property
    def what(self) -> str:
        return f"step {self.method}" if self.method else f"decode, {self.beams} beam" + "s" * (self.beams > 1)

    @property
    def shape(self) -> str:
        least, most = self.lengths
        return f"{self.rows} x {most}" if least == most else f"{self.rows} x {least}-{most}"


CASES = (
    Case("tiny", 16, (64, 64), 3, method="bitfit"),
    Case("tiny", 16, (64, 64), 3, method="lora"),
    Case("tiny", 16, (64, 64), 3, method="full"),
    Case("tiny", 2, (256, 256), 3, method="bitfit"),
    Case("tiny", 8, (32, 128), 3, method="bitfit"),
    Case("mamba_130m", 4, (64, 64), 3, method="bitfit"),
    Case("tiny", 16, (32, 128), 5, beams=1),
    Case("tiny", 16, (32, 128), 3, beams=5),
    Case("mamba_130m", 4, (32, 128), 3, beams=1),
)
TABLE = Table({"what": 15, "model": 10, "rows x L": 11, "ours, ms": 9, "transformers, ms": 16, "speedup": 8})
Step = Callable[[], tuple[float, float]]
"""Takes a training step; gives its loss and the norm of its gradients."""


def run(models: Sequence[str], file: TextIO) -> dict[str, Any]:
    """Time the cases of these models (all where empty) on the CPU, printing a line for each; returns what the JSON
    output holds.

    Raises:
        UserError: there is no case of the models; transformers or peft is missing, or computes something else.
    """
    cases = [case for case in CASES if not models or case.model in models]
    if not cases:
        raise UserError(f"the benchmark cpu has no rows of {', '.join(models)}: leave --model out, or take tiny")
    found: dict[str, Any] = {
        **{name: value for name, value in hardware().items() if name in ("cpu", "cores")},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": _package("transformers").__version__,
    }
    return found | {"rows": TABLE.print(about(found), map(measured, cases), line, file)}


def about(found: dict[str, Any]) -> str:
    """What was measured, and what the columns hold."""
    return f"""\
{found["cpu"]}, {found["cores"]} cores, {found["threads"]} threads, torch {found["torch"]}, transformers \
{found["transformers"]}
float32, the same random weights, medians of both in turn. step: {LABELS} label tokens a row; from making a
batch to AdamW; losses and gradient norms are equal. lora: peft's, on in_proj and x_proj. decode: of each
prompt {NEW_TOKENS} new tokens, all prompts at once; outputs are equal. speedup: theirs over ours."""


def line(row: Row) -> str:
    cells = {"what": row["what"], "model": row["model"], "rows x L": row["shape"]}
    if "failed" in row:
        return TABLE.line(cells, row["failed"])
    cells |= {
        "ours, ms": f"{row['milliseconds']['ours']:.0f}",
        "transformers, ms": f"{row['milliseconds']['transformers']:.0f}",
        "speedup": f"{row['speedup']:.2f}",
    }
    return TABLE.line(cells)


def measured(case: Case) -> Row:
    """A row of the table; one that cannot be measured says why, under ``failed``.

    Raises:
        UserError: the two compute different things.
    """
    row: Row = {"what": case.what, "model": case.model, "shape": case.shape, "rounds": case.rounds}
    try:
        model = init_weights(Mamba(MambaConfig(*SIZES[case.model])), seed=0)
        works = (_steps if case.method else _decodings)(case, model, peer(model))
        ours, theirs = _medians(works, case.rounds)
    except RuntimeError as error:  # out of memory; mamba-ssm's kernels, which transformers takes on a CPU too
        return row | {"failed": first_line(error)}
    return row | {"milliseconds": {"ours": ours, "transformers": theirs}, "speedup": theirs / ours}


def peer(model: Mamba) -> Any:
    """transformers' model with the weights of ours."""
    transformers, config = _package("transformers"), model.config
    theirs = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            hidden_size=config.d_model, num_hidden_layers=config.n_layer, vocab_size=config.vocab_size
        )
    )
    weights = model.state_dict().items()
    theirs.load_state_dict({name.replace(".embedding.", ".embeddings."): value for name, value in weights})
    return theirs


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"the benchmark cpu needs the package {name} ({first_line(error)}): "
            "pip install 'transformers>=5' 'peft>=0.19'"
        ) from error


def _medians(works: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Milliseconds of each, measured in turn: what else the machine does meets all of them."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, taken in zip(works, times, strict=True):
            begun = time.perf_counter()
            work()
            taken.append(1e3 * (time.perf_counter() - begun))
    return [statistics.median(taken) for taken in times]


def _tokens(case: Case, vocabulary: int) -> list[list[int]]:
    """Random rows of the case's lengths, shuffled; without token 0, which pads and ends."""
    draw, (least, most) = random.Random(0), case.lengths
    lengths = [least + round(at * (most - least) / max(1, case.rows - 1)) for at in range(case.rows)]
    draw.shuffle(lengths)
    return [draw.choices(range(1, vocabulary), k=length) for length in lengths]


def _steps(case: Case, model: Mamba, theirs: Any) -> tuple[Step, Step]:
    """A step of ours and one of theirs on the same batch, warm.

    A row of L tokens is L inputs and L targets, of L + 1 tokens in all; transformers, which shifts labels itself, is
    given all of them.
    """
    rows = [[1, *tokens] for tokens in _tokens(case, model.config.vocab_size)]
    ours = _our_step(model, case.method, rows)
    theirs = _their_step(theirs, _trained_alike(theirs, model.adapter), rows)
    for which, mine, peers in zip(("losses", "gradient norms"), ours(), theirs(), strict=True):
        if not abs(mine - peers) <= TOLERANCE * abs(mine):
            raise UserError(
                f"{case.what}, {case.model}, {case.shape}: the {which} differ, {mine:.7g} here and {peers:.7g} in "
                f"transformers {_package('transformers').__version__}: times of different work are not comparable"
            )
    return ours, theirs


def _our_step(model: Mamba, method: str, rows: list[list[int]]) -> Step:
    sequences = [TokenizedExample(tokens, min(LABELS, len(tokens) - 1)) for tokens in rows]
    settings = TrainSettings.of(TrainConfig(epochs=10**6), RATE, len(rows), seed=0)
    section = method_section(method, LORA if method == "lora" else {})
    training = Trainer(attach(model, load_method(section)), sequences, settings, 0, check=False)
    model.train()

    def step() -> tuple[float, float]:
        row = training.train_steps()[0]
        return row["loss"], row["grad_norm"]

    return step


def _trained_alike(theirs: Any, adapter: Any) -> list[Any]:
    """Make of transformers' model what the adapter makes of ours; gives the trained parameters."""
    if adapter.method.name == "lora":
        peft, method = _package("peft"), adapter.method
        peft.inject_adapter_in_model(
            peft.LoraConfig(r=method.rank, lora_alpha=method.alpha, lora_dropout=0.0, target_modules=method.targets),
            theirs,
        )
    trained = []
    for name, parameter in theirs.named_parameters():
        name = name.replace(".embeddings.", ".embedding.")
        name = re.sub(r"(\w+)\.lora_([AB])\.default\.weight", r"injection.updates.\1.parts.\1.\2", name)
        mine = adapter.state.get(name)
        parameter.requires_grad_(mine is not None)
        if mine is not None:
            parameter.data.copy_(mine.data)
            trained.append(parameter)
    return trained


def _their_step(model: Any, parameters: list[Any], rows: list[list[int]]) -> Step:
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    model.train()

    def step() -> tuple[float, float]:
        input_ids, mask = _padded(rows, left=False)
        labels = torch.full_like(input_ids, -100)
        for at, tokens in enumerate(rows):
            labelled = slice(len(tokens) - min(LABELS, len(tokens) - 1), len(tokens))
            labels[at, labelled] = input_ids[at, labelled]
        optimizer.zero_grad()
        loss = model(input_ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.item(), norm.item()

    return step


def _padded(rows: list[list[int]], left: bool) -> tuple[Any, Any]:
    """Token ids padded with 0, and which are no padding; None where all are, since transformers is faster then."""
    longest = max(map(len, rows))
    fill = [[0] * (longest - len(tokens)) for tokens in rows]
    input_ids = torch.tensor([pad + row if left else row + pad for pad, row in zip(fill, rows, strict=True)])
    return input_ids, (input_ids != 0).long() if any(fill) else None


def _decodings(case: Case, model: Mamba, theirs: Any) -> tuple[Callable[[], list[list[int]]], ...]:
    """Decoding of all prompts by ours and by theirs, warm."""
    prompts = _tokens(case, model.config.vocab_size)
    works = tuple(partial(decode, one, prompts, case.beams) for decode, one in ((_ours, model), (_theirs, theirs)))
    ours, peers = (work() for work in works)
    if different := sum(mine != other for mine, other in zip(ours, peers, strict=True)):
        raise UserError(
            f"{case.what}, {case.model}, {case.shape}: {different} of {case.rows} outputs differ from those of "
            f"transformers {_package('transformers').__version__}: times of different work are not comparable"
        )
    return works


def _ours(model: Mamba, prompts: list[list[int]], beams: int) -> list[list[int]]:
    return generate(model, prompts, num_beams=beams, max_new_tokens=NEW_TOKENS, min_length=10**6)


def _theirs(model: Any, prompts: list[list[int]], beams: int) -> list[list[int]]:
    """Padded on the left: a masked token leaves transformers' states at zero, so that what follows is the same."""
    input_ids, mask = _padded(prompts, left=True)
    model.eval()
    outputs = model.generate(
        input_ids,
        attention_mask=mask,
        do_sample=False,
        num_beams=beams,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        pad_token_id=0,
        eos_token_id=0,
    )
    found: list[list[int]] = outputs[:, input_ids.shape[1] :].tolist()
    return found
