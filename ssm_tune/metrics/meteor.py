"""METEOR as nltk computes it, which is what ``evaluate``'s "meteor" reports. Not METEOR 1.5, the Java program.

Without WordNet's synonyms it is another number, so it has another name, ``meteor_no_synonyms``.
Lavie and Agarwal (2007), aclanthology.org/W07-0734.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

from ssm_tune.metrics.pairs import References, paired

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5


def meteor(
    predictions: Sequence[str], references: Sequence[References], synonyms: bool = True
) -> tuple[float, list[float]]:
    """The mean over the predictions and each prediction's own score, 0..1; of several references the best counts.

    Words are matched exactly, then by Porter stem, then by WordNet's synonyms unless ``synonyms`` is off. A
    perfect copy of m words scores 1 - 0.5 / m^3; a prediction without a match 0.

    Raises:
        ValueError: no predictions, another number of references, or a prediction without a reference.
        UserError: synonyms are asked for and WordNet is not there.
    """
    from nltk.translate.meteor_score import meteor_score

    pairs = paired(predictions, references)
    wordnet = _synonyms() if synonyms else SimpleNamespace(synsets=lambda word: ())
    score = partial(meteor_score, stemmer=_stemmer(), wordnet=wordnet, alpha=ALPHA, beta=BETA, gamma=GAMMA)
    scores = [float(score([_tokens(text) for text in texts], _tokens(prediction))) for prediction, texts in pairs]
    return math.fsum(scores) / len(scores), scores


def meteor_name(synonyms: bool = True) -> str:
    """The metric's name: a score without synonyms must not pass for METEOR."""
    return "meteor" if synonyms else "meteor_no_synonyms"


def meteor_signature(n: int, synonyms: bool = True) -> str:
    """What produced the numbers over ``n`` examples: versions, parameters, tokens, and whose synonyms.

    Raises:
        UserError: synonyms are asked for and WordNet is not there.
    """
    from ssm_tune.metrics.wordnet import load_wordnet

    third = load_wordnet().description if synonyms else "no synonyms"
    return (
        f"nltk {version('nltk')} | alpha {ALPHA:g}, beta {BETA:g}, gamma {GAMMA:g} | exact, Porter stem, {third} | "
        f"NLTKWordTokenizer on sentences of {_splitter()[1]} | best reference | mean | n={n}"
    )


def require_wordnet() -> None:
    """Call before a long run that ends in METEOR: finds and opens WordNet, which scoring then uses.

    Raises:
        UserError: WordNet is not there, with the ways to get it.
    """
    from ssm_tune.metrics.wordnet import load_wordnet

    load_wordnet()


# nltk's scorer works every word out again for every reference; these remember. It asks its stemmer for stem(word)
# and its WordNet for synsets(word), nothing else.


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return SimpleNamespace(stem=cache(PorterStemmer().stem))


@cache
def _synonyms() -> Any:
    from ssm_tune.metrics.wordnet import load_wordnet

    return SimpleNamespace(synsets=cache(load_wordnet().reader.synsets))


@lru_cache(maxsize=1 << 16)
def _tokens(text: str) -> tuple[str, ...]:
    """nltk's word_tokenize, except that Punkt may be untrained."""
    from nltk.tokenize import NLTKWordTokenizer

    split, _ = _splitter()
    words = NLTKWordTokenizer()
    return tuple(word for sentence in split(text) for word in words.tokenize(sentence))


@cache
def _splitter() -> tuple[Callable[[str], list[str]], str]:
    """Sentence splitter and its name. The trained one is data to download; without it abbreviations end sentences.

    On DART's development set that moves METEOR by less than 0.0001, so it is used without asking, but it is stated.
    """
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTokenizer

    try:
        return PunktTokenizer("english").tokenize, "punkt_tab"
    except LookupError:
        return PunktSentenceTokenizer().tokenize, "untrained Punkt"
