"""Texts as HTML shows them: what comes from data is never markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ssm_tune.utils.text import printable


def text(value: str) -> str:
    """HTML that shows the text as it is; its line ends stay."""
    return escape("\n".join(map(printable, value.split("\n"))))


def plain_table(kind: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts that are HTML already; the first cell of each row names it."""
    head = "".join(f'<th scope="col">{one}</th>' for one in heads)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{one}</td>" for one in rest)}</tr>' for first, *rest in rows
    )
    thead = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f'<div class="scroll"><table class="{kind}">{thead}<tbody>{body}</tbody></table></div>'
