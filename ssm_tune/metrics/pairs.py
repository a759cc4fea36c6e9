"""What every text metric asks of its input: predictions beside one or more references each."""

from collections.abc import Sequence

References = str | Sequence[str]


def paired(predictions: Sequence[str], references: Sequence[References]) -> list[tuple[str, list[str]]]:
    """Each prediction with the list of its references; a single string counts as one reference.

    Raises:
        ValueError: no predictions, another number of references, or a prediction without a reference (the message has
            its index).
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} lists of references")
    if not predictions:
        raise ValueError("no predictions to score")
    pairs = []
    for index, (prediction, given) in enumerate(zip(predictions, references, strict=True)):
        texts = [given] if isinstance(given, str) else list(given)
        if not texts:
            raise ValueError(f"prediction {index} (counted from 0) has no reference")
        pairs.append((prediction, texts))
    return pairs
