"""Tokenizers against what is known of the real one, and the clean-up against transformers' own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.models.source import PretrainedSource
from ssm_tune.models.tokenizer import EOS, Tokenizer, load_tokenizer
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.text import clean_up


@pytest.fixture(scope="module")
def real_file(shared: Path) -> Path:
    """The tokenizer of GPT-NeoX-20B, which the published checkpoints use."""
    return shared / "data" / "tokenizer" / "tokenizer.json"


@pytest.fixture(scope="module")
def real(real_file: Path) -> Tokenizer:
    return Tokenizer(real_file)


def write(folder: Path, special: tuple[str, ...] = (EOS,), **changes: Any) -> Path:
    """A byte-level tokenizer without merges: one id a byte, the special tokens first."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=0, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator([], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(model.to_str()), **changes}))
    return file


# ---------------------------------------------------------------- the GPT-NeoX tokenizer


def test_ids_of_the_protocol(real: Tokenizer) -> None:
    assert real.encode("###") == [4118]
    assert [real.encode(digit) for digit in "012"] == [[17], [18], [19]]
    assert real.encode(EOS) == [0]
    assert real.eos_id == 0
    assert real.encode(f"Paris{EOS}")[-1] == 0
    assert real.vocab_size == 50277
    assert real.encode("") == []


def test_the_separator_is_text(real: Tokenizer) -> None:
    for text in ("The sailors rode the breeze clear of the rocks.", "A: hi\r\nB: bye", "units "):
        assert real.encode(text + "###") == [*real.encode(text), 4118]
    assert real.encode("C#" + "###")[-1] != 4118  # regrouped, as the protocol says


def test_decoding_shows_special_tokens_and_skips_padding_rows(real: Tokenizer) -> None:
    assert real.decode([*real.encode("It is n't so ."), 0]) == f"It isn't so.{EOS}"
    assert real.decode([*real.encode("It is n't so ."), 0], clean_up=False) == f"It is n't so .{EOS}"
    assert real.decode([50278, 4118, 50279]) == "###"


def test_ids_equal_transformers(real: Tokenizer, real_file: Path) -> None:
    transformers = pytest.importorskip("transformers")
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_file=str(real_file), clean_up_tokenization_spaces=False)
    texts = [
        "naïve café",
        "日本語 text",
        "tab\tand\r\nlines\n\n",
        f"end{EOS}",
        "😀 ok",
        "x" * 3000,
        " lead",
        "e\u0301",
    ]
    assert real.encode_batch(texts) == [oracle(text, add_special_tokens=False).input_ids for text in texts]
    for ids in real.encode_batch(texts):
        assert real.decode(ids, clean_up=False) == oracle.decode(ids)


def test_the_real_one_fits_the_published_vocabulary(real: Tokenizer) -> None:
    real.check_fits(50280)
    real.check_fits(50277)
    with pytest.raises(UserError, match=r"ids up to 50276.* has 50276 rows"):
        real.check_fits(50276)


def test_the_hash_is_of_the_bytes(real: Tokenizer, real_file: Path) -> None:
    assert real.hash == hashlib.sha256(real_file.read_bytes()).hexdigest()


# ---------------------------------------------------------------- clean-up

pieces = st.sampled_from([" ", ".", "?", "!", ",", "'", "n't", "'m", "'s", "'ve", "'re", "a", "\n"])


@given(st.one_of(st.text(), st.lists(pieces, max_size=30).map("".join)))
def test_clean_up_equals_transformers(text: str) -> None:
    transformers = pytest.importorskip("transformers")
    oracle = transformers.PreTrainedTokenizerBase.clean_up_tokenization
    assert clean_up(text) == oracle(None, text)


def test_clean_up_by_hand() -> None:
    assert clean_up("was .537") == "was.537"
    assert clean_up("do n't , we 've ' em ' s !") == "don't, we've'em's!"


# ---------------------------------------------------------------- the wrapper, on a small tokenizer


@given(st.text(max_size=60))
def test_encode_and_decode_are_inverse(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes" / "tokenizer.json"
    tokenizer = Tokenizer(file if file.is_file() else write(file.parent))
    assert tokenizer.decode(tokenizer.encode(text), clean_up=False) == text
    assert tokenizer.encode_batch([text, "x", text]) == [tokenizer.encode(one) for one in (text, "x", text)]


def test_a_file_that_asks_for_truncation_padding_or_added_tokens_gets_none(tmp_path: Path) -> None:
    eos = {"SpecialToken": {"id": EOS, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [eos, text],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {EOS: {"id": EOS, "ids": [0], "tokens": [EOS]}},
    }
    file = write(
        tmp_path,
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": EOS,
        },
        post_processor=template,
    )
    assert tokenizers.Tokenizer.from_file(str(file)).encode("abcdef").ids[0] == 0  # the file does ask
    tokenizer = Tokenizer(file)
    assert len(tokenizer.encode("abcdefg")) == 7
    assert [len(ids) for ids in tokenizer.encode_batch(["a", "abc"])] == [1, 3]


def test_vocabulary_size_counts_the_highest_id(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write(tmp_path, special=(EOS, "<extra>")))
    assert tokenizer.vocab_size == 258
    tokenizer.check_fits(258)
    with pytest.raises(UserError, match="257 rows"):
        tokenizer.check_fits(257)


def test_a_lone_surrogate_is_named(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write(tmp_path))
    with pytest.raises(UserError, match=r"U\+D83D.* at character 2") as caught:
        tokenizer.encode_batch(["fine", "ab\ud83dc"])
    str(caught.value).encode()  # the message itself can be printed


# ---------------------------------------------------------------- loading and refusals


def test_a_folder_a_file_and_a_source(tmp_path: Path) -> None:
    file = write(tmp_path / "t")
    other = tmp_path / "renamed.json"
    other.write_bytes(file.read_bytes())
    wanted = Tokenizer(file).hash
    for name in (file, str(file), file.parent, str(file.parent), other, PretrainedSource("t", file.parent)):
        assert load_tokenizer(name).hash == wanted


def message_of(name: Any, revision: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_tokenizer(name, revision)
    message = str(caught.value)
    print(message)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[1]", b"\xff\xfe", b'{"model": {"type": "BPE"}}'])
def test_a_malformed_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    assert str(file) in message_of(tmp_path)


def test_a_truncated_file(real: Tokenizer, tmp_path: Path, real_file: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(real_file.read_bytes()[:100_000])
    assert str(file) in message_of(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    assert "no tokenizer.json" in message_of(tmp_path)
    assert "none.json" in message_of(tmp_path / "none.json")
    assert "no such folder" in message_of(tmp_path / "none")
    assert "revision" in message_of(write(tmp_path / "t"), "main")


def test_a_tokenizer_without_the_end_token(tmp_path: Path) -> None:
    assert EOS in message_of(write(tmp_path / "a", special=("</s>",)))
    file = write(tmp_path / "b")
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "added_tokens": []}))  # in the vocabulary, but not read inside text
    assert "as one token" in message_of(file)
