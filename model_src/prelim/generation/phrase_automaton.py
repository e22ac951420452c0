"""An automaton over characters that finds patterns in canonical text, also in many strings at once.

Source: Aho and Corasick, "Efficient string matching", Communications of the ACM 18 (1975).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from prelim.generation.token_text import BAR, fold, is_word

_SPACE, _SIGN, _LETTER, _OWN = range(4)
"""Classes of characters: white space, other signs, other characters of words; then each character of the phrases."""

_IN_WORD, _AFTER_BAR, _AFTER_SIGN = range(3)
"""What the canonical text so far ends with."""


class Characters:
    """An automaton over characters that finds patterns in canonical text.

    patterns : canonical texts; one that does not end with BAR is also found inside a word

    A state is the place of a prefix of the patterns times what the text ends with; `start` is that of an empty text.
    """

    start = _AFTER_SIGN

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = sorted(set(patterns))
        letters = sorted({character for pattern in patterns for character in pattern} - {BAR})
        self._classes = {character: _OWN + i for i, character in enumerate(letters)}
        columns = self._classes | {BAR: _OWN + len(letters)}
        moves, found = _build(patterns, columns)
        bar = moves[:, columns[BAR]]
        count = len(columns) + _OWN
        self._next = np.zeros((3 * len(moves), count), dtype=np.int32)
        self._hit = np.zeros((3 * len(moves), count), dtype=bool)
        for number in range(count - 1):
            character = letters[number - _OWN] if number >= _OWN else ""
            word = number == _LETTER or is_word(character or " ")
            for end in range(3):
                self._fill(moves, found, bar, number=number, end=end, word=word)
        self._ends = np.repeat(found[bar], 3) & (np.arange(3 * len(moves)) % 3 == _IN_WORD)

    def _fill(
        self, moves: np.ndarray, found: np.ndarray, bar: np.ndarray, *, number: int, end: int, word: bool
    ) -> None:
        """Fill in where a class of characters leads from all states whose text ends in one way."""
        here = np.arange(len(moves))
        hit = np.zeros(len(moves), dtype=bool)
        if end == (_AFTER_SIGN if word else _IN_WORD):
            here, hit = bar, found[bar]
        if number == _SPACE:
            after = _AFTER_BAR if end == _IN_WORD else end
        else:
            here = moves[here, number]
            hit = hit | found[here]
            after = _IN_WORD if word else _AFTER_SIGN
        self._next[end::3, number] = 3 * here + after
        self._hit[end::3, number] = hit

    def class_of(self, character: str) -> int:
        """The class of a folded character."""
        if character.isspace():
            return _SPACE
        return self._classes.get(character, _LETTER if is_word(character) else _SIGN)

    def read(self, state: int, text: str) -> tuple[int, bool]:
        """The state after a text, and whether a pattern was found on the way or would be if the text ended here."""
        hit = False
        for character in "".join(map(fold, text)):
            number = self.class_of(character)
            hit = hit or bool(self._hit[state, number])
            state = int(self._next[state, number])
        return state, hit or bool(self._ends[state])

    def hits(self, state: int, strings: "Strings") -> np.ndarray:
        """Which strings complete a pattern after a state, shape (strings,): bool."""
        classes = np.array([self.class_of(character) for character in strings.alphabet], dtype=np.intp)
        states = np.full(strings.count, state, dtype=np.int32)
        hit = np.zeros(strings.count, dtype=bool)
        for column in strings.columns:  # the longest strings come first
            numbers, before = classes[column], states[: len(column)]
            hit[: len(column)] |= self._hit[before, numbers]
            states[: len(column)] = self._next[before, numbers]
        return hit | self._ends[states]


def _build(patterns: Sequence[str], columns: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Moves of the automaton, shape (states, classes), and in which states a pattern has been found."""
    children: list[dict[int, int]] = [{}]
    ends: list[bool] = [False]
    for pattern in patterns:
        state = 0
        for character in pattern:
            column = columns[character]
            if column not in children[state]:
                children[state][column] = len(children)
                children.append({})
                ends.append(False)
            state = children[state][column]
        ends[state] = True
    moves = np.zeros((len(children), _OWN + len(columns)), dtype=np.int32)
    found = np.array(ends)
    queue = [(0, 0)]  # a state, and that of the longest suffix of its text that is a prefix of a pattern
    for state, suffix in queue:
        found[state] |= found[suffix]
        if state:
            moves[state] = moves[suffix]
        queue += [(child, int(moves[suffix, column]) if state else 0) for column, child in children[state].items()]
        for column, child in children[state].items():
            moves[state, column] = child
    return moves, found


@dataclass(frozen=True)
class Strings:
    """Folded strings, column by column, the longest first.

    order    : index of each string in the list that they were made of
    alphabet : their characters
    columns  : of the strings that are as long, the character's place in `alphabet`
    """

    order: np.ndarray
    alphabet: tuple[str, ...]
    columns: tuple[np.ndarray, ...]

    @property
    def count(self) -> int:
        """How many strings there are."""
        return len(self.order)

    @classmethod
    def of(cls, strings: Sequence[str], indices: Sequence[int]) -> "Strings":
        """The strings, each with its index."""
        folded = ["".join(map(fold, string)) for string in strings]
        order = sorted(range(len(folded)), key=lambda i: -len(folded[i]))
        alphabet = sorted({character for string in folded for character in string})
        place = {character: i for i, character in enumerate(alphabet)}
        longest = len(folded[order[0]]) if order else 0
        columns = [
            np.array([place[folded[i][k]] for i in order if len(folded[i]) > k], dtype=np.int32) for k in range(longest)
        ]
        return cls(np.array([indices[i] for i in order], dtype=np.int64), tuple(alphabet), tuple(columns))
