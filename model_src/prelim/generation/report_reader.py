"""From the tokens of a sequence to what is answered of them: the report, and what a model writes besides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from prelim.errors import ArchiveError
from prelim.generation.marked_text import Box, MarkedText, TextParts
from prelim.generation.output_config import OutputConfig
from prelim.generation.text_stages import cut_at_stop
from prelim.generation.text_stream import TextStream, TextStreams


@dataclass(frozen=True)
class Written:
    """What one sequence of tokens says.

    text      : the report
    places    : for each character of the report, where it is in the text of all tokens
    reasoning : what the model thought before, None if it did not
    boxes     : of phrases of the report
    warnings  : what could not be read
    own       : which of the tokens are not reasoning, by their places in the sequence
    """

    text: str
    places: tuple[int, ...]
    reasoning: str | None
    boxes: tuple[Box, ...]
    warnings: tuple[str, ...]
    own: tuple[int, ...]


class ReportReader:
    """Reads the sequences of one model.

    output : section `output` of model.yaml; None: the whole text is the report

    Raises ArchiveError for marks of boxes that are not tokens, which could not be told from words.
    """

    def __init__(self, tokenizer: Tokenizer, output: OutputConfig | None = None) -> None:
        self._tokenizer, self._output = tokenizer, output
        marks = frozenset() if output is None else output.box_marks
        if missing := sorted(mark for mark in marks if tokenizer.token_to_id(mark) is None):
            raise ArchiveError(f"output has marks of boxes that are not tokens of tokenizer.json: {missing[0]!r}")
        added = tokenizer.get_added_tokens_decoder()
        is_mark = OutputConfig().is_mark if output is None else output.is_mark
        self._hidden = {i for i, token in added.items() if token.special and not is_mark(token.content)}
        self._streams = TextStreams(tokenizer, {added[i].content for i in self._hidden})

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of all tokens, marks included, without other special tokens."""
        if self._output is None:
            return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return self._tokenizer.decode([i for i in token_ids if i not in self._hidden], skip_special_tokens=False)

    def report_so_far(self, token_ids: Sequence[int]) -> str:
        """The report in an unfinished sequence, in which a stop text may end it."""
        return self._read(token_ids).report

    def open(self, stop: Sequence[str]) -> TextStream:
        """A stream of the report of one sequence."""
        return self._streams.open(stop, [] if self._output is None else [MarkedText(self._output)])

    def read(
        self, token_ids: Sequence[int], stop: tuple[str, ...] = (), answer: Callable[[str], str] = lambda text: text
    ) -> Written:
        """What a sequence says.

        stop   : texts before which the report ends
        answer : the part of the report that is answered
        """
        reading = self._read(token_ids)
        text = answer(cut_at_stop(reading.report, stop))
        first = max(reading.report.find(text), 0)
        moved = (Box(max(box.start - first, 0), min(box.end - first, len(text)), box.bins) for box in reading.boxes)
        return Written(
            text=text,
            places=reading.places[first : first + len(text)],
            reasoning=reading.reasoning,
            boxes=tuple(box for box in moved if box.start < box.end),
            warnings=reading.warnings,
            own=self._own(token_ids, reading),
        )

    def _read(self, token_ids: Sequence[int]) -> TextParts:
        text = self.detokenize(token_ids)
        if self._output is None:
            return TextParts(text, tuple(range(len(text))))
        marked = MarkedText(self._output)
        marked.feed([text])
        return marked.end()

    def _own(self, token_ids: Sequence[int], reading: TextParts) -> tuple[int, ...]:
        """Tokens that do not begin in reasoning."""
        everything = range(len(token_ids))
        if not reading.thought:
            return tuple(everything)
        begins = [len(self.detokenize(token_ids[:count])) for count in everything]
        return tuple(
            i for i, place in enumerate(begins) if not any(begin <= place < end for begin, end in reading.thought)
        )
