"""``ssm-tune generate``: prompts in the form of the task, labels by their names, files of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.quick_runs import settings, write_data

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.methods.adapter_files import read_adapter_files, write_adapter

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of task=classify, with an instruction."""
    folder = tmp_path_factory.mktemp("classify")
    write_data(folder / "data.jsonl", 40)
    assert main(settings(folder, "lora", "task.instruction='Which one? '", "frozen=false")) == 0
    (record,) = folder.rglob("record.json")
    return record.parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What adapter.save() writes in Python: no model, no task."""
    folder = tmp_path_factory.mktemp("saved")
    adapter = ssm_tune.attach(ssm_tune.from_pretrained("tiny"), "state_offset", rank=2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.05
    adapter.save(folder)
    return folder


def answers(capsys: Capture, *arguments: str) -> list[str]:
    assert main(["generate", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def probability(run: Path, text: str) -> tuple[str, float]:
    """The likelier label and its probability among both, from the logits."""
    model, tokenizer = ssm_tune.from_pretrained("tiny"), ssm_tune.load_tokenizer("tiny")
    ssm_tune.load_adapter(model, run / "adapter")
    ids = torch.tensor([tokenizer.encode(f"Which one? {text}###")])
    with torch.no_grad():
        logits = model(ids)[0, -1].double()
    shares = logits[[tokenizer.encode(digit)[0] for digit in ("0", "1")]].softmax(-1)
    return "ny"[int(shares.argmax())], float(shares.max())


def test_a_classifier_answers_with_a_label_and_its_probability(run: Path, tmp_path: Path, capsys: Capture) -> None:
    texts = ["the green house", "the grey house, number 9", "x"]
    expected = [probability(run, text) for text in texts]
    (line,) = answers(capsys, "--adapter", str(run), "--prompt", texts[0])
    label, shown = line.split("\t")
    assert label == expected[0][0]
    assert float(shown) == pytest.approx(expected[0][1], abs=1e-4)
    assert answers(capsys, "--adapter", str(run), "--prompt", f"{texts[0]}###") == [line]  # typed as in training

    (tmp_path / "prompts.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts))
    for name in ("prompts.txt", "prompts.jsonl"):
        rows = [
            json.loads(line)
            for line in answers(capsys, "--adapter", str(run), "--prompts", str(tmp_path / name), "--json")
        ]
        assert [row["answer"] for row in rows] == [label for label, _ in expected]
        assert [row["probability"] for row in rows] == pytest.approx([one for _, one in expected], abs=1e-5)
        assert rows[0]["prompt"] == (texts[0] if name.endswith("txt") else {"text": texts[0], "id": 1})


def test_an_adapter_without_a_task_takes_the_prompt_as_typed(saved: Path, tmp_path: Path, capsys: Capture) -> None:
    model, tokenizer = ssm_tune.from_pretrained("tiny"), ssm_tune.load_tokenizer("tiny")
    ssm_tune.load_adapter(model, saved)
    prompts = ["Anna: Hi", "Anna: Hi###"]
    expected = [
        tokenizer.decode(ssm_tune.generate(model, [tokenizer.encode(one)], num_beams=1, max_new_tokens=6)[0])
        for one in prompts
    ]
    options = ["--adapter", str(saved), "--model", "tiny", "--num-beams", "1", "--max-new-tokens", "6"]
    (tmp_path / "prompts").write_text("\n".join(prompts))
    rows = [json.loads(line) for line in answers(capsys, *options, "--prompts", str(tmp_path / "prompts"), "--json")]
    assert [row["answer"] for row in rows] == expected
    assert "probability" not in rows[0]
    # a task on the line puts its form around the prompt
    (row,) = (json.loads(line) for line in answers(capsys, *options, "--prompt", prompts[0], "task=samsum", "--json"))
    assert row["answer"] == expected[1]
    (row,) = (
        json.loads(line) for line in answers(capsys, *options, "--prompt", prompts[0], "task=samsum", "--json", "--raw")
    )
    assert row["answer"] == expected[0]
    classify = ["--prompt", "x", "task=classify", "task.labels=[never,always]"]
    assert answers(capsys, *options, *classify)[0].split("\t")[0] in ("never", "always")


def test_an_adapter_of_an_older_version_asks_for_its_labels(run: Path, tmp_path: Path, capsys: Capture) -> None:
    files = read_adapter_files(run / "adapter")
    older = {key: value for key, value in files.description.items() if key not in ("prompt", "digest")}
    write_adapter(tmp_path / "old" / "adapter", older, files.weights)
    (tmp_path / "old" / "record.json").write_bytes((run / "record.json").read_bytes())
    command = ["--adapter", str(tmp_path / "old"), "--prompt", "the green house"]
    assert main(["generate", *command]) == 2
    assert "add task.labels=" in capsys.readouterr().err
    now = answers(capsys, "--adapter", str(run), "--prompt", "the green house")
    assert answers(capsys, *command, "task.labels=[n,y]") == now


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "--prompt is empty"),
    ({"prompt": " \n"}, "--prompt is empty"),
    ({"prompt": "###"}, "the text is empty"),
    ({"lines": "a\n\nb\n"}, "line 2 is empty"),
    ({"lines": ""}, "is empty"),
    ({"rows": '{"text": "a"}\n{"label": "x"}\n'}, "line 2: no key 'text'"),
    ({"rows": '{"text": ""}\n'}, "line 1: the text is empty"),
    ({"rows": "{\n"}, "line 1 is truncated or not JSON"),
    ({"prompt": "a", "more": ["seed=3"]}, "seed: settings of task, model, protocol are taken here"),
    ({"prompt": "a", "more": ["task=glue_rte"]}, 'takes 2 texts, as a JSON object: \'{"sentence1": "...", '),
    ({"prompt": "a", "more": ["task=glue_rte2"]}, "no task 'glue_rte2'"),
    ({"prompt": "a", "more": ["--model", "nothing"]}, "--model nothing: no folder, and no model of that name"),
]


@pytest.mark.parametrize(("case", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_cannot_be_asked_is_one_line(
    case: dict[str, Any], said: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["generate", "--adapter", str(run), *case.get("more", [])]
    for kind, name in (("lines", "prompts.txt"), ("rows", "prompts.jsonl")):
        if kind in case:
            (tmp_path / name).write_text(case[kind])
            command += ["--prompts", str(tmp_path / name)]
    command += ["--prompt", case["prompt"]] if "prompt" in case else []
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


def test_an_adapter_that_names_no_model_says_what_to_add(saved: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["generate", "--adapter", str(saved), "--prompt", "Hi"]) == 2
    assert "add --model" in capsys.readouterr().err
    bitfit = ssm_tune.attach(ssm_tune.from_pretrained("tiny"), "bitfit")
    bitfit.save(tmp_path / "bitfit")
    command = ["export", str(tmp_path / "bitfit"), "--merge", "--to", str(tmp_path / "merged")]
    assert main(command) == 2
    assert "add --model" in capsys.readouterr().err
    assert main([*command, "--model", "tiny"]) == 0
    assert (tmp_path / "merged" / "model.safetensors").is_file()
