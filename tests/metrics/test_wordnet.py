"""Where WordNet is found and what is said where it is not, on a WordNet of four synsets; facts of the real one."""

import shutil
from pathlib import Path

import nltk.data
import pytest

from ssm_tune.metrics import wordnet
from ssm_tune.metrics.meteor import require_wordnet
from ssm_tune.utils.errors import UserError

# word class, its letter, number of the lexicographer file, synonyms
SYNSETS = (
    ("noun", "n", 6, ("car", "auto", "motor_car")),
    ("verb", "v", 40, ("buy", "purchase")),
    ("adj", "a", 0, ("glad",)),
    ("adv", "r", 2, ("soon",)),
)


def write_wordnet(folder: Path) -> Path:
    """The twelve files that nltk needs and Debian has, in the layout of wndb(5WN)."""
    folder.mkdir(parents=True)
    for name, letter, number, words in SYNSETS:
        header = "  1 This is no WordNet 3.0 Copyright 2006 by anyone  \n"
        frames = "01 + 08 00 " if letter == "v" else ""
        entry = f"{len(header):08} {number:02} {letter} {len(words):02x} " + "".join(f"{word} 0 " for word in words)
        (folder / f"data.{name}").write_text(f"{header}{entry}000 {frames}| a gloss  \n", encoding="utf-8")
        index = "".join(f"{word} {letter} 1 0 1 0 {len(header):08}  \n" for word in words)
        (folder / f"index.{name}").write_text(header + index, encoding="utf-8")
        (folder / f"{name}.exc").write_text("bought buy\n" if letter == "v" else "", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No WordNet but what a test makes, and nothing of it left for the next."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    monkeypatch.setattr(wordnet, "DEBIAN", tmp_path / "debian")
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    monkeypatch.setattr(wordnet, "load_wordnet", wordnet.cache(wordnet.load_wordnet.__wrapped__))


def synonyms(word: str) -> list[str]:
    return [name for synset in wordnet.load_wordnet().reader.synsets(word) for name in synset.lemma_names()]


def assert_found(origin: str) -> None:
    assert synonyms("bought") == ["buy", "purchase"]
    assert synonyms("autos") == ["car", "auto", "motor_car"]
    assert synonyms("sooner") == []
    assert wordnet.load_wordnet().description == f"WordNet 3.0 ({origin})"


def test_in_nltks_data(tmp_path: Path) -> None:
    write_wordnet(tmp_path / "nltk_data" / "corpora" / "wordnet")
    assert_found("nltk data")


def test_in_nltks_data_zipped(tmp_path: Path) -> None:
    write_wordnet(tmp_path / "packed" / "wordnet")
    corpora = tmp_path / "nltk_data" / "corpora"
    corpora.mkdir(parents=True)
    shutil.make_archive(str(corpora / "wordnet"), "zip", tmp_path / "packed", "wordnet")
    assert_found("nltk data")


def test_in_debians_folder(tmp_path: Path) -> None:
    write_wordnet(tmp_path / "debian")
    assert_found("Debian wordnet-base")


def test_in_the_folder_of_the_variable_before_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("debian", "nltk_data/corpora/wordnet", "mine"):
        write_wordnet(tmp_path / folder)
    (tmp_path / "link").symlink_to(tmp_path / "mine", target_is_directory=True)
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "link"))
    assert_found("WNSEARCHDIR")


@pytest.mark.filterwarnings("error")
def test_nothing_is_warned_of(tmp_path: Path) -> None:
    write_wordnet(tmp_path / "debian")
    assert wordnet.load_wordnet() is wordnet.load_wordnet()


def test_absent() -> None:
    with pytest.raises(UserError, match="not on this machine") as raised:
        require_wordnet()
    for way in ("python -m nltk.downloader wordnet", "apt-get install wordnet-base", "WNSEARCHDIR="):
        assert way in str(raised.value)
    assert "no_synonyms" not in str(raised.value)  # no choice for who scores a stored run again


def test_the_variable_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wordnet(tmp_path / "debian")
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "typo"))
    with pytest.raises(UserError, match=r"WNSEARCHDIR=.*typo is no folder of WordNet"):
        require_wordnet()


def test_found_once_it_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        require_wordnet()
    write_wordnet(tmp_path / "debian")
    require_wordnet()


@pytest.mark.parametrize(
    ("file", "text"),
    [("adv.exc", None), ("data.adj", "\xff"), ("index.noun", "car n 2 0 1 0 00000001\n"), ("verb.exc", "\n")],
    ids=["no-adv.exc", "data.adj", "index.noun", "verb.exc"],
)
def test_damaged(tmp_path: Path, file: str, text: str | None) -> None:
    path = write_wordnet(tmp_path / "debian") / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="cannot be read") as raised:
        require_wordnet()
    assert "\n" not in str(raised.value)
    assert "wordnet-base" in str(raised.value)


def test_a_damaged_archive(tmp_path: Path) -> None:
    archive = tmp_path / "nltk_data" / "corpora" / "wordnet.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"PK\x03\x04 half a download")
    with pytest.raises(UserError, match=r"cannot be read .* nltk\.downloader"):
        require_wordnet()


def test_lexicographer_files(tmp_path: Path) -> None:
    """Names that nltk's own documentation gives for such synsets."""
    write_wordnet(tmp_path / "debian")
    reader = wordnet.load_wordnet().reader
    names = {word: reader.synsets(word)[0].lexname() for word in ("car", "buy", "glad", "soon")}
    assert names == {"car": "noun.artifact", "buy": "verb.possession", "glad": "adj.all", "soon": "adv.all"}
    with reader.open("lexnames") as file:
        lines = file.read().splitlines()
    assert len(lines) == 45
    assert lines[44] == "44\tadj.ppl\t3"
