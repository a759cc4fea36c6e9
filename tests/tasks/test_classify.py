"""Classification: the token after each prompt, the same in a batch as alone, over the whole vocabulary."""

from __future__ import annotations

import pytest
import torch
from helpers.small_models import Silent, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_tune.data.collator import pad_prompts
from ssm_tune.data.tokenization import tokenize_training
from ssm_tune.generation.predict import Predictions, predict
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.models.tokenizer import load_tokenizer
from ssm_tune.tasks.base import Example
from ssm_tune.utils.errors import Diverged, UserError

TOKENIZER = load_tokenizer("tiny")
MODEL = small_model(vocab_size=TOKENIZER.vocab_size).eval()


def asked(texts: list[str]) -> list[Example]:
    return [Example(str(i), text + "###", "1", ("1",), prefix="Say: ") for i, text in enumerate(texts)]


@settings(max_examples=20)
@given(
    texts=st.lists(st.text("abc de. \n", max_size=40), min_size=1, max_size=7),
    batch_size=st.integers(1, 8),
)
def test_a_batch_answers_as_each_prompt_alone(texts: list[str], batch_size: int) -> None:
    done, chosen = Predictions(), DecodeSettings(batch_size=batch_size)
    outputs = predict(MODEL, asked(texts), TOKENIZER, "classify", chosen, Silent(), "x", done=done)
    assert done.tokens == 0
    for text, output in zip(texts, outputs, strict=True):
        ids = TOKENIZER.encode("Say: ") + TOKENIZER.encode(text + "###")
        with torch.no_grad():
            logits = MODEL(torch.tensor([ids]))[0, -1]
        assert output == TOKENIZER.decode([int(logits.argmax())])


def test_padding_is_right_and_lengths_are_true() -> None:
    ids, lengths = pad_prompts([[5], [1, 2, 3]], torch.device("cpu"))
    assert ids.tolist() == [[5, 0, 0], [1, 2, 3]]
    assert lengths.tolist() == [1, 3]


def test_logits_that_are_not_finite_are_told() -> None:
    model = small_model(vocab_size=TOKENIZER.vocab_size)
    model.backbone.norm_f.weight.data.fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        predict(model, asked(["a"]), TOKENIZER, "classify", DecodeSettings(), Silent(), "x")


def test_a_label_of_two_tokens_is_refused() -> None:
    class Labels:
        name, mode = "some", "classify"

        def completion(self, example: Example) -> str:
            return example.target

        def answer_choices(self, examples: list[Example]) -> tuple[str, ...]:
            return ("x",)

    (good,) = tokenize_training(asked(["a"]), Labels(), TOKENIZER)  # type: ignore[arg-type]
    assert good.labels == 1
    bad = [Example("0", "a###", "entailment or not", ("x",))]
    with pytest.raises(UserError, match="every label is one token"):
        list(tokenize_training(bad, Labels(), TOKENIZER))  # type: ignore[arg-type]
