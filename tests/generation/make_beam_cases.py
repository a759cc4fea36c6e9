"""Write data/beam_search_4_40_2.json: small random problems and what the official beam search answers them.

Run by hand, in an environment of its own, since the scorer left transformers long ago:
``pip install torch numpy transformers==4.40.2 && python tests/generation/make_beam_cases.py``
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from helpers.beam_reference import Logits, table
from transformers import BeamSearchScorer, __version__


def official(logits: Logits, case: dict) -> list[int]:
    """Tokens of the official scorer, equal candidates in index order (the sort is left to the caller)."""
    beams, eos_id, prompt_length = case["num_beams"], case["eos_id"], case["prompt_length"]
    end = prompt_length + case["max_new_tokens"]
    penalty = case["length_penalty"]
    scorer = BeamSearchScorer(1, beams, torch.device("cpu"), length_penalty=penalty, max_length=end)
    shared = {"pad_token_id": eos_id, "eos_token_id": eos_id, "decoder_prompt_len": prompt_length}
    ids = torch.full((beams, prompt_length), -1)
    scores = torch.tensor([0.0] + [-1e9] * (beams - 1))
    while not scorer.is_done and ids.shape[1] < end:
        log_probs = torch.stack([logits(tuple(row[prompt_length:].tolist())) for row in ids]).log_softmax(-1)
        if ids.shape[1] < case["min_length"]:
            log_probs[:, eos_id] = float("-inf")
        total = (log_probs + scores.unsqueeze(1)).view(1, -1)
        best, index = (part[:, : 2 * beams] for part in total.sort(dim=1, descending=True, stable=True))
        beam, token = index // case["vocab"], index % case["vocab"]
        chosen = scorer.process(ids, best, token, beam, **shared)
        scores = chosen["next_beam_scores"]
        ids = torch.cat([ids[chosen["next_beam_indices"]], chosen["next_beam_tokens"].unsqueeze(1)], dim=1)
    sequence = scorer.finalize(ids, scores, token, beam, max_length=end, **shared)["sequences"][0]
    tokens = sequence[prompt_length:].tolist()
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens


def main() -> None:
    assert __version__ == "4.40.2", f"needs transformers 4.40.2, found {__version__}"
    choose = random.Random(7)
    lines = []
    for seed in range(400):
        vocab = choose.randint(*choose.choice([(2, 6), (2, 60)]))
        case = {
            "seed": seed,
            "vocab": vocab,
            "eos_id": choose.randrange(vocab),
            "boost": choose.choice([-8, 0, 3, 6, 10]),
            "levels": choose.choice([1, 2, 5, 17]),
            "dtype": choose.choice(["bfloat16", "float32"]),
            "prompt_length": choose.randint(1, 8),
            "num_beams": choose.randint(2, 6),
            "min_length": 5,
            "max_new_tokens": choose.choice([1, 2, 5, 12, 20]),
            "length_penalty": choose.choice([1.0, 1.0, 1.0, 0.0, 2.0, -1.0]),
        }
        dtype = getattr(torch, case["dtype"])
        logits = table(seed, vocab, case["eos_id"], case["boost"], dtype, case["levels"])
        lines.append(json.dumps({**case, "tokens": official(logits, case)}, separators=(",", ":")))
    target = Path(__file__).parents[1] / "helpers" / "beam_search_4_40_2.json"
    target.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
