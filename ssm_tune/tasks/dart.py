"""DART: sentences from subject-relation-object triples. Nan et al. (2021), arXiv 2007.02871; version 1.1.1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ssm_tune.config.protocol import published_data
from ssm_tune.hub.download import dataset_files, read_table
from ssm_tune.metrics.bleu import bleu_scored, bleu_signature, sacrebleu, sacrebleu_signature
from ssm_tune.metrics.meteor import meteor, meteor_name, meteor_signature, require_wordnet
from ssm_tune.tasks.base import (
    OWN_WORDING,
    SEPARATOR,
    Dataset,
    Example,
    Roles,
    Scored,
    Task,
    data_name,
    make_dataset,
    text_field,
    with_normalisation,
)
from ssm_tune.tasks.files import ACCEPT, HUB_CHANGED, check_counts, place, read_json_list, read_text
from ssm_tune.tasks.sample_data import sample_rows
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import user_path
from ssm_tune.utils.text import as_decoded, nfc

FILES = {"train": "train", "val": "dev", "test": "test"}
STEM = "dart-v1.1.1-full-"
HUB_FILES = {
    split: f"default/{name}/*.parquet" for split, name in (("train", "train"), ("val", "validation"), ("test", "test"))
}
COUNTS = {
    "train entries": 30_526,
    "train references": 62_659,
    "val entries": 2_768,
    "val references": 6_980,
    "test entries": 5_097,
    "test references": 12_552,
}
"""Of the repository's files since April 2021."""
OLD_TEST = 6_959
"""Test entries before that, which the hub's copy may still have."""


class DART(Task):
    """An instruction line, encoded apart, then the triples and ``###``; a sentence about them is the answer.

    Training takes every reference of an entry as an example of its own, evaluation every entry once.
    hub: the data set's id on the hub; revision: a commit or ref. instruction: the first line, without its end.
    wordnet: required (METEOR with synonyms) or off (the metric meteor_no_synonyms). The sample data are always
    scored without, so that their scores are the same on every machine.
    """

    notes = (OWN_WORDING,)

    def __init__(self, name: str, hub: str, revision: str | None, instruction: str, wordnet: str) -> None:
        super().__init__(name)
        if wordnet is False:
            wordnet = "off"  # YAML 1.1 reads a bare off as false
        if wordnet not in ("required", "off"):
            raise UserError(f"task.wordnet must be required or off, got {wordnet!r}")
        if not isinstance(instruction, str):
            raise UserError(f"task.instruction must be text, got {instruction!r}")
        self.hub, self.revision, self.instruction, self.wordnet = hub, revision, instruction, wordnet

    def load(self, data: dict[str, Any], protocol: str) -> Dataset:
        origin: dict[str, str] = {}
        synonyms = self.wordnet == "required" and data["source"] != "sample"
        if data["source"] == "sample":
            entries = {
                split: _entries(sample_rows("dart", split), lambda number: f"sample row {number}") for split in FILES
            }
        elif data["source"] == "hub":
            entries = self._from_hub(origin)
            self._check(self.hub, entries, HUB_CHANGED, origin)
        else:
            folder = user_path(data["path"])
            entries = {split: _read(folder, STEM + name) for split, name in FILES.items()}
            if data["check"] != "off":
                self._check(str(folder), entries, ACCEPT, {})
        splits = {
            split: [one for n, entry in enumerate(given) for one in self._examples(str(n), entry, split, synonyms)]
            for split, given in entries.items()
        }
        primary = meteor_name(synonyms)
        name, published = data_name(data, self.name), published_data(data)
        return make_dataset(name, published, splits, primary, (primary, "bleu"), origin)

    def _examples(self, name: str, entry: Entry, split: str, synonyms: bool) -> list[Example]:
        triples, references = entry
        prompt = _triples_text(triples) + SEPARATOR
        prefix = self.instruction + "\n"
        if split != "train":
            return [Example(name, prompt, references[0], references, prefix, group=name, context=synonyms)]
        return [
            Example(f"{name}-{number}", prompt, reference, references, prefix, group=name, context=synonyms)
            for number, reference in enumerate(references)
        ]

    @property
    def fields(self) -> tuple[str, ...]:
        return ("tripleset",)

    def example_of(self, row: Mapping[str, Any], protocol: str) -> Example:
        """tripleset: a list of triples as in the official files, or the text of them that the model reads."""
        given = row.get("tripleset")
        if isinstance(given, list) and given and not all(map(_is_triple, given)):
            raise UserError("the tripleset must be a list of [subject, relation, object] texts")
        text = _triples_text(given) if isinstance(given, list) and given else text_field(row, "tripleset")
        return Example("", text + SEPARATOR, "", (), self.instruction + "\n")

    def _from_hub(self, origin: dict[str, str]) -> dict[str, list[Entry]]:
        found = dataset_files(self.hub, self.revision, list(HUB_FILES.values()))
        origin |= {"hub": self.hub, "commit": found.revision}
        entries = {}
        for split, pattern in HUB_FILES.items():
            rows = read_table(found.files[pattern], ("tripleset", "annotations"))
            entries[split] = _entries(rows, partial("{}, {}, row {} (counted from 0)".format, self.hub, pattern))
        return entries

    def _check(self, where: str, entries: dict[str, list[Entry]], remedy: str, origin: dict[str, str]) -> None:
        expected = dict(COUNTS)
        if "hub" in origin:
            old = len(entries["test"]) == OLD_TEST
            if old:  # its references were never counted
                del expected["test entries"], expected["test references"]
            origin["test split"] = "of before April 2021" if old else "since April 2021"
        found = {f"{split} entries": len(given) for split, given in entries.items()}
        found |= {f"{split} references": sum(len(texts) for _, texts in given) for split, given in entries.items()}
        check_counts(where, "DART v1.1.1", found, expected, remedy)

    def published_roles(self) -> Roles:
        return Roles(train="train", selection="val", report="val")

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> Scored:
        references, predictions = _references(examples), list(map(nfc, predictions))
        synonyms = self._synonyms(examples)
        mean, each = meteor(predictions, references, synonyms)
        corpus, counts = bleu_scored(predictions, references)
        name = meteor_name(synonyms)
        values = {name: mean, "bleu": corpus, "sacrebleu": sacrebleu(predictions, references)}
        statistics = [
            {name: own} | {f"bleu_{key}": value for key, value in parts.items()}
            for own, parts in zip(each, counts, strict=True)
        ]
        return Scored(values, statistics)

    def signatures(self, examples: Sequence[Example]) -> dict[str, str]:
        n, synonyms = len(examples), self._synonyms(examples)
        lines = {
            meteor_name(synonyms): meteor_signature(n, synonyms),
            "bleu": bleu_signature(n),
            "sacrebleu": sacrebleu_signature(_references(examples)),
        }
        return with_normalisation(lines, examples)

    def check_scoring(self, examples: Sequence[Example]) -> None:
        if self._synonyms(examples):
            try:
                require_wordnet()
            except UserError as error:
                raise UserError(
                    f"{error}; or add task.wordnet=off for METEOR without synonyms, another number under the name "
                    f"{meteor_name(synonyms=False)}"
                ) from error

    def _synonyms(self, examples: Sequence[Example]) -> bool:
        """As the data were loaded; examples made elsewhere (context None) go by the option."""
        return self.wordnet == "required" and all(example.context is not False for example in examples)


Entry = tuple[list[list[str]], tuple[str, ...]]
"""Triples and references."""


def _references(examples: Sequence[Example]) -> list[list[str]]:
    return [[as_decoded(reference) for reference in example.references] for example in examples]


def _entries(rows: Sequence[Any], where: Callable[[int], str]) -> list[Entry]:
    """The rows as entries. where: names the place of row n, counted from 0. Raises UserError."""
    entries = []
    for number, row in enumerate(rows):
        try:
            entries.append(_entry(row))
        except ValueError as error:
            raise UserError(f"{where(number)}: {error}") from error
    return entries


def _entry(row: Any) -> Entry:
    """Triples and references of a row of the official json, of the hub, or of the sample data. Raises ValueError."""
    if not isinstance(row, dict):
        raise ValueError("expected an object with a tripleset and annotations")
    triples, annotations = row.get("tripleset"), row.get("annotations")
    if not isinstance(triples, list) or not triples or not all(map(_is_triple, triples)):
        raise ValueError("the tripleset must be a list of [subject, relation, object] texts")
    if isinstance(annotations, dict):  # a struct of parallel lists, as parquet may have it
        texts = annotations.get("text")
    elif isinstance(annotations, list):
        texts = [one.get("text") if isinstance(one, dict) else None for one in annotations]
    else:
        texts = None
    if not isinstance(texts, list) or not texts:
        raise ValueError("the entry has no annotations")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError("an annotation without a text")
        if SEPARATOR in text:
            raise ValueError(f"a reference contains {SEPARATOR!r}, which separates prompt and answer")
    return triples, tuple(texts)


def _triples_text(triples: Sequence[Sequence[str]]) -> str:
    return " | ".join(" : ".join(triple) for triple in triples)


def _is_triple(triple: Any) -> bool:
    return isinstance(triple, list) and len(triple) == 3 and all(isinstance(cell, str) for cell in triple)


def _read(folder: Path, stem: str) -> list[Entry]:
    """One official file, json where there is one, else xml."""
    path, xml = folder / f"{stem}.json", folder / f"{stem}.xml"
    if not path.is_file() and xml.is_file():
        named = _xml_rows(xml)
        return _entries([row for _, row in named], lambda number: f"{xml}, entry {named[number][0]}")
    rows = read_json_list(path, f"DART's folder holds {stem}.json, or {stem}.xml, and the other two splits'", "entries")
    return _entries(rows, lambda number: place(path, number))


def _xml_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(eid, row in the json's form) of every entry of the xml, whose triples are in modifiedtripleset."""
    try:
        root = ElementTree.fromstring(read_text(path, ""))
    except ElementTree.ParseError as error:
        raise UserError(f"{path}, line {error.position[0]}: not valid XML ({error.msg})") from error
    except ValueError as error:  # a declared encoding other than UTF-8, or a NUL
        raise UserError(f"{path}: not valid XML ({error})") from error
    return [
        (
            str(entry.get("eid")),
            {
                "tripleset": [(one.text or "").split(" | ") for one in entry.iterfind("modifiedtripleset/mtriple")],
                "annotations": [{"text": one.text or ""} for one in entry.iterfind("lex")],
            },
        )
        for entry in root.iterfind("entries/entry")
    ]
