"""What every text metric asks of its input: outputs beside one or more references each."""

from collections.abc import Sequence

References = str | Sequence[str]


def paired(outputs: Sequence[str], references: Sequence[References]) -> list[tuple[str, list[str]]]:
    """Each output with the list of its references; a single string counts as one reference.

    Raises:
        ValueError: no outputs, another number of references, or an output without a reference (its index is named).
    """
    if len(outputs) != len(references):
        raise ValueError(f"{len(outputs)} outputs for {len(references)} lists of references")
    if not outputs:
        raise ValueError("no outputs to score")
    pairs = []
    for index, (output, given) in enumerate(zip(outputs, references, strict=True)):
        texts = [given] if isinstance(given, str) else list(given)
        if not texts:
            raise ValueError(f"output {index} (counted from 0) has no reference")
        pairs.append((output, texts))
    return pairs
