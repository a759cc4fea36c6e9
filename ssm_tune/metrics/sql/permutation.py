"""Whether two results are the same but for the order of their columns, and of their rows where that is free."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import repeat
from operator import add

Column = tuple[Hashable, ...]

_ROUNDS = 3


def equal_as_lists(one: Sequence[Column], other: Sequence[Column]) -> bool:
    """Rows in order, columns in any: then the columns themselves are equal, each as often."""
    return Counter(one) == Counter(other)


def equal_as_bags(one: Sequence[Column], other: Sequence[Column]) -> bool:
    """Rows in any order, columns in any: does some order of ``other``'s columns make the bags of rows equal?

    Columns and rows are told apart first by what no reordering changes: a column by the bag of its values, a row by
    its values and the columns they stand in, then a column by its values and the rows they stand in, and so on.
    Columns that still look alike are tried one after the other, each choice kept only while the rows, cut to the
    columns placed so far, are the same bag on both sides. A search that meets too much symmetry gives up and says no
    after a million values and ten times what a result holds: it would take exponentially long.
    """
    if len(one) != len(other):
        return False
    if not one or _bag(one) == _bag(other):
        return True
    left, right = [0] * len(one[0]), [0] * len(one[0])
    for _ in range(_ROUNDS):
        kinds, other_kinds = _numbered([_column_signs(one, left), _column_signs(other, right)])
        if sorted(kinds) != sorted(other_kinds):
            return False
        if len(set(kinds)) == len(kinds):  # one order of columns is left, the usual case
            return _bag([one[place] for place in _by(kinds)]) == _bag([other[place] for place in _by(other_kinds)])
        left, right = _numbered([_row_signs(one, kinds), _row_signs(other, other_kinds)])
        if sorted(left) != sorted(right):
            return False
    return _search(one, other, kinds, other_kinds, left, right)


def _bag(columns: Sequence[Column]) -> Counter[Column]:
    """The rows."""
    return Counter(zip(*columns, strict=True))


def _by(kinds: list[int]) -> list[int]:
    return sorted(range(len(kinds)), key=kinds.__getitem__)


# Signs are sums of hashes: equal for equal bags, and if ever equal for others, then the search has more to try.


def _column_signs(columns: Sequence[Column], rows: list[int]) -> list[int]:
    return [sum(map(hash, zip(rows, column, strict=True))) for column in columns]


def _row_signs(columns: Sequence[Column], kinds: list[int]) -> list[int]:
    signs = [0] * len(columns[0])
    for kind, column in zip(kinds, columns, strict=True):
        signs = list(map(add, signs, map(hash, zip(repeat(kind), column, strict=False))))
    return signs


def _numbered(signs: Iterable[Sequence[Hashable]]) -> list[list[int]]:
    """Numbers for signs, equal ones for equal signs on both sides."""
    numbers: dict[Hashable, int] = {}
    return [[numbers.setdefault(sign, len(numbers)) for sign in side] for side in signs]


def _search(
    one: Sequence[Column],
    other: Sequence[Column],
    kinds: list[int],
    other_kinds: list[int],
    left: list[int],
    right: list[int],
) -> bool:
    """Gives each of ``one``'s columns one of ``other``'s of its kind, those with the fewest alike first.

    left, right: a number for what stands in each row so far.
    """
    budget = 1_000_000 + 10 * len(left) * len(one)
    alike = Counter(other_kinds)
    order = sorted(range(len(one)), key=lambda place: (alike[kinds[place]], kinds[place]))
    (same,) = _numbered([other])  # equal columns are one choice
    free = Counter(same)
    choices = {kind: list({same[p]: p for p, its in enumerate(other_kinds) if its == kind}.items()) for kind in alike}
    attempts = [iter(choices[kinds[order[0]]])]
    rows = [(left, right)]
    taken: list[int] = []
    while attempts:
        choice, place = next(attempts[-1], (None, 0))
        if choice is None:
            attempts.pop()
            rows.pop()
            if taken:
                free[taken.pop()] += 1
            continue
        if not free[choice]:
            continue
        budget -= 2 * len(left)
        if budget < 0:
            return False
        column = one[order[len(taken)]]
        pairs = zip(rows[-1][0], column, strict=True), zip(rows[-1][1], other[place], strict=True)
        left, right = _numbered(map(list, pairs))
        if sorted(left) != sorted(right):
            continue
        if len(taken) + 1 == len(one):
            return True
        free[choice] -= 1
        taken.append(choice)
        attempts.append(iter(choices[kinds[order[len(taken)]]]))
        rows.append((left, right))
    return False
