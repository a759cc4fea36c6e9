"""METEOR against nltk called without any memory, against its formula, and against published values."""

import json
from collections.abc import Callable
from pathlib import Path

import nltk.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import word_tokenize
from nltk.tokenize.punkt import PunktParameters, save_punkt_params
from nltk.translate.meteor_score import meteor_score

from ssm_tune.metrics import meteor as module
from ssm_tune.metrics.meteor import meteor, meteor_name, meteor_signature
from ssm_tune.metrics.wordnet import Reader, load_wordnet
from ssm_tune.utils.errors import UserError

GUIDE = "It is a guide to action which ensures that the military always obeys the commands of the party"
REFERENCES = (
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party",
)

words = st.sampled_from(["tea", "Tea", "walk", "walks", "walking", "a", "the", "."])
texts = st.lists(words, max_size=9).map(" ".join)


@pytest.fixture(scope="module")
def reader() -> Reader:
    try:
        return load_wordnet().reader
    except UserError as error:
        pytest.skip(str(error))


def by_hand(prediction: list[str], reference: list[str]) -> float:
    """Exact and stem stages: from the last predicted word to the first, each takes the last free equal one."""
    stem: Callable[[str], str] = PorterStemmer().stem
    links: dict[int, int] = {}
    for same in (str.lower, lambda word: stem(word.lower())):
        for i in reversed(range(len(prediction))):
            free = [
                j
                for j in range(len(reference))
                if j not in links.values() and same(reference[j]) == same(prediction[i])
            ]
            if i not in links and free:
                links[i] = free[-1]
    if not links:
        return 0.0
    m = len(links)
    chunks = sum(links.get(i - 1, -2) + 1 != j for i, j in links.items())
    precision, recall = m / len(prediction), m / len(reference)
    return (1 - 0.5 * (chunks / m) ** 3) * precision * recall / (0.9 * precision + 0.1 * recall)


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_the_formula(prediction: str, references: list[str]) -> None:
    # a full stop inside a text ends a sentence, and stays a word of its own as it was here
    mean, (score,) = meteor([prediction], [references], synonyms=False)
    assert score == pytest.approx(max(by_hand(prediction.split(), text.split()) for text in references), abs=1e-12)
    assert mean == score


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_the_corpus_value_is_the_mean(pairs: list[tuple[str, str]]) -> None:
    predictions, references = [prediction for prediction, _ in pairs], [reference for _, reference in pairs]
    mean, scores = meteor(predictions, references, synonyms=False)
    assert mean == pytest.approx(sum(scores) / len(pairs), abs=1e-12)
    assert scores == [meteor([prediction], [reference], synonyms=False)[0] for prediction, reference in pairs]


def test_a_copy_scores_less_than_one() -> None:
    assert meteor(["tea for two"], ["Tea for two"], synonyms=False)[0] == pytest.approx(1 - 0.5 / 27)


def test_nothing_shared_or_nothing_there() -> None:
    assert meteor(["tea", "", "tea", ""], ["rain", "tea", "", ""], synonyms=False)[1] == [0.0] * 4


def test_published_values(reader: Reader) -> None:
    """The example of nltk's documentation, in its own tokens the same as in ours."""
    assert round(meteor([GUIDE], [REFERENCES[0]])[0], 4) == 0.6944
    assert round(meteor([GUIDE], [REFERENCES[1]])[0], 4) == 0.625
    assert round(meteor([GUIDE], [REFERENCES])[0], 4) == 0.6944


def test_synonyms_count(reader: Reader) -> None:
    # "auto" and "car" are one synset; two words in one chunk
    assert meteor(["an auto"], ["an car"])[0] == pytest.approx(1 - 0.5 / 8)
    assert meteor(["an auto"], ["an car"], synonyms=False)[0] == pytest.approx((1 - 0.5) * 0.5)


def test_the_whole_of_wordnet(reader: Reader) -> None:
    """Facts of WordNet 3.0 and lines of nltk's documentation."""
    assert len(set(reader.all_lemma_names())) == 147_306
    assert "Synset('domestic_dog.n.01')" not in map(str, reader.synsets("dog"))
    assert [str(synset) for synset in reader.synsets("dog")][:2] == ["Synset('dog.n.01')", "Synset('frump.n.01')"]
    assert reader.synset("dog.n.01").lemma_names() == ["dog", "domestic_dog", "Canis_familiaris"]
    assert reader.synset("dog.n.01").lexname() == "noun.animal"
    assert reader.synset("entity.n.01").lexname() == "noun.Tops"


def dart(shared: Path) -> list[list[str]]:
    """All references of every entry of DART's development set that has several (the folder holds it in three parts)."""
    files = sorted((shared / "data" / "dart_small").glob("*.json"))
    entries = [entry for file in files for entry in json.loads(file.read_text(encoding="utf-8"))]
    given_texts = [[annotation["text"] for annotation in entry["annotations"]] for entry in entries]
    return [several for several in given_texts if len(several) > 1]


def test_nltk_without_memory_agrees_on_real_texts(shared: Path, reader: Reader) -> None:
    entries = dart(shared)[:150]
    # another entry's text beside its own, so that there is something to miss
    predictions = [entries[i - i % 2][0] for i in range(len(entries))]
    references = [several[1:] for several in entries]
    expected = [
        meteor_score([module._tokens(text) for text in several], module._tokens(prediction), wordnet=reader)
        for prediction, several in zip(predictions, references, strict=True)
    ]
    assert meteor(predictions, references)[1] == expected
    assert 0.3 < sum(expected) / len(expected) < 0.9


def test_real_references_against_each_other(shared: Path, reader: Reader) -> None:
    """nltk's value on the same texts, measured apart from this code with an untrained Punkt."""
    if module._splitter()[1] != "untrained Punkt":
        pytest.skip("the expected value is for an untrained Punkt, and a trained one is installed")
    entries = dart(shared)
    assert len(entries) == 1668
    value = meteor([several[0] for several in entries], [several[1:] for several in entries])[0]
    # versions of nltk differ in how they look up inflected words: 74.394 with 3.9.1, 74.399 with 3.10.4
    assert 100 * value == pytest.approx(74.399, abs=0.006)


@pytest.fixture
def punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Punkt that knows one abbreviation, where nltk looks for the trained one."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path), *nltk.data.path])
    known = PunktParameters()
    known.abbrev_types.add("jr")
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    save_punkt_params(known, dir=str(folder))
    monkeypatch.setattr(module, "_splitter", module.cache(module._splitter.__wrapped__))
    monkeypatch.setattr(module, "_tokens", module.cache(module._tokens.__wrapped__))


def test_a_trained_punkt_is_used_and_stated(punkt: None) -> None:
    text = "Ann met Bob Jr. at noon. She left."
    assert module._tokens(text) == tuple(word_tokenize(text))
    assert "Jr." in module._tokens(text)
    assert "sentences of punkt_tab |" in meteor_signature(3, synonyms=False)


def test_an_untrained_punkt_is_used_and_stated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(module, "_splitter", module.cache(module._splitter.__wrapped__))
    tokens = module._tokens.__wrapped__("He can't go. She's here, at 5 p.m. or so")
    assert tokens == ("He", "ca", "n't", "go", ".", "She", "'s", "here", ",", "at", "5", "p.m", ".", "or", "so")
    assert "sentences of untrained Punkt |" in meteor_signature(3, synonyms=False)


def test_names_and_signatures(reader: Reader) -> None:
    assert (meteor_name(), meteor_name(synonyms=False)) == ("meteor", "meteor_no_synonyms")
    assert "Porter stem, WordNet 3.0 (" in meteor_signature(9)
    assert "Porter stem, no synonyms |" in meteor_signature(9, synonyms=False)
    assert meteor_signature(9).endswith("| best reference | mean | n=9")
