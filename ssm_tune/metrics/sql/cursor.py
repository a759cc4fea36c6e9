"""A place in a list of words, and the ways a grammar moves it on."""

from ssm_tune.metrics.sql.tree import NotParsable


class Cursor:
    """Reads words from left to right; ``at`` is the place of the next one."""

    def __init__(self, words: list[str], at: int = 0) -> None:
        self.words = words
        self.at = at

    @property
    def ended(self) -> bool:
        return self.at >= len(self.words)

    @property
    def word(self) -> str:
        if self.ended:
            raise NotParsable("the query ends too early")
        return self.words[self.at]

    def next_in(self, words: tuple[str, ...]) -> bool:
        return not self.ended and self.words[self.at] in words

    def take(self) -> str:
        word = self.word
        self.at += 1
        return word

    def take_if(self, word: str) -> bool:
        found = self.next_in((word,))
        self.at += found
        return found

    def expect(self, word: str) -> None:
        if self.take() != word:
            raise NotParsable(f"expected {word!r}")
