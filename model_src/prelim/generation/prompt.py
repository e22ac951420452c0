"""What a decoder reads before it writes: the image, and the text around it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from tokenizers import Tokenizer

from prelim.decoders.decoder import IMAGE
from prelim.errors import ArchiveError, InvalidOption, TooLarge
from prelim.generation.clinical_context import CONTEXT
from prelim.generation.image_roles import FRONTAL, FURTHER

Messages = Sequence[Mapping[str, str]]
Context = Mapping[str, str]
"""Of CONTEXT, what `read_context` gives."""
NO_CONTEXT: Context = MappingProxyType({})
ACCEPTED = (*CONTEXT, *FURTHER)
"""What a model may accept next to the image that it reports."""
Roles = Sequence[str]
Parts = Sequence[str]
"""A text in parts, in turn the model's own and the request's words."""


@dataclass(frozen=True)
class PromptConfig:
    """Section `prompt` of model.yaml, for decoders that read the image as a prefix; others have no such section.

    Special tokens are known by their text, as in "<|im_start|>user", in all of these but not in what a request says.

    bos_token_id : first token of all; None where the model was trained without
    before       : text before the image
    after        : text after the image; {prompt} stands where the request's prompt goes
    accepts      : which of ACCEPTED a request may have, and how the prompt says it, in this order. A text such as
                   " Indication: {indication}." follows the request's words; with "Lateral: {lateral}" an image of that
                   role follows the frontal one
    start_ids    : tokens between image and `after`, where there is a prompt
    default      : prompt of a request that has none
    max_tokens   : limit on the tokens of the text
    max_images   : largest number of images of a request that names no roles
    between_images : text between two images
    system, user, assistant, separator, before_image, after_image : for models that hold a conversation: the text
                   that opens it, the names of the two who speak, what ends each turn, and the text around the image
                   in the first turn. Without `separator` a model takes no `messages`
    """

    bos_token_id: int | None = None
    before: str = ""
    after: str = "{prompt}"
    accepts: Mapping[str, str] = field(default_factory=dict)
    start_ids: tuple[int, ...] = ()
    default: str = ""
    max_tokens: int = 512
    max_images: int = 1
    between_images: str = ""
    system: str = ""
    user: str = ""
    assistant: str = ""
    separator: str = ""
    before_image: str = ""
    after_image: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.accepts, Mapping):
            raise ArchiveError(f"prompt.accepts is {self.accepts!r:.80}; allowed: a mapping of {', '.join(ACCEPTED)}")
        for name, words in self.accepts.items():
            if name not in ACCEPTED:
                raise ArchiveError(f"prompt.accepts has {name!r:.40}; allowed: {', '.join(ACCEPTED)}")
            if not isinstance(words, str) or words.count(f"{{{name}}}") != 1:
                raise ArchiveError(f"prompt.accepts.{name} must be a text that has {{{name}}} once")


def _known(accepts: Iterable[str]) -> str:
    """What a model accepts, for messages."""
    return f"it accepts {', '.join(accepts) or 'none'}"


def _check_images(images: int, roles: Roles | None, prompter: "NoPrompt | Prompter") -> None:
    """Raises InvalidOption for more images than the model reads, and for roles that it does not accept."""
    if roles is None:
        if 1 <= images <= prompter.max_images:
            return
        named = f", or {', '.join(prompter.roles)} by their roles" if len(prompter.roles) > 1 else ""
        most = "1" if prompter.max_images == 1 else f"1 to {prompter.max_images}"
        raise InvalidOption(f"images has {images} entries; this model reads {most}{named}", "images")
    if refused := [role for role in roles if role not in prompter.roles]:
        raise InvalidOption(
            f"roles has {refused[0]}, but this model does not read it: {_known(prompter.accepts)}; leave it out",
            "roles",
        )


class NoPrompt:
    """Replaces `Prompter` in models without a section `prompt`, which read only their start token.

    name : of the model, for messages
    """

    takes_prompts = takes_messages = False
    answers_at_end = False
    max_images = 1
    accepts: tuple[str, ...] = ()
    roles: tuple[str, ...] = (FRONTAL,)

    def __init__(self, name: str, bos_token_id: int) -> None:
        self._name = name
        self._ids = (bos_token_id,)

    def ids(
        self,
        prompt: str | None,
        messages: Messages | None,
        images: int = 1,
        context: Context = NO_CONTEXT,
        roles: Roles | None = None,
    ) -> tuple[int, ...]:
        """The start token: the image is not part of the prompt. Raises InvalidOption for words and further images."""
        _check_images(images, roles, self)
        for name, value in (("prompt", prompt), ("messages", messages), *context.items()):
            if value:
                raise InvalidOption(f"{name} is set, but {self._name} takes none; leave it out", name)
        return self._ids

    def answer(self, text: str) -> str:
        """All of the text."""
        return text


class Prompter:
    """Turns prompts and conversations into token ids.

    User text is never parsed for special tokens: what looks like one in it is ordinary text.

    vocab_size : of the decoder; a piece of a word whose id is not below it becomes the unknown token. None where
                 tokenizer and decoder have the same vocabulary
    """

    takes_prompts = True

    def __init__(self, config: PromptConfig, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        added = tokenizer.get_added_tokens_decoder().items()
        self._special = {token.content: token_id for token_id, token in added if token.special}
        # Longest first, because one special token may be a prefix of another.
        texts = sorted(self._special, key=len, reverse=True)
        self._special_text = re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None
        tokenizer.encode_special_tokens = True

    def ids(
        self,
        prompt: str | None,
        messages: Messages | None,
        images: int = 1,
        context: Context = NO_CONTEXT,
        roles: Roles | None = None,
    ) -> tuple[int, ...]:
        """Token ids with one IMAGE for each image, where its embeddings go.

        roles : of the images, in the order of `self.roles`; None where they have none

        Raises InvalidOption for a conversation that the model cannot hold, and for a context and images that it does
        not accept; TooLarge for too many tokens.
        """
        c = self.config
        _check_images(images, roles, self)
        start = c.start_ids if not messages and (prompt or c.default or context) else ()
        first, second = (self._encode(parts) for parts in self.parts(prompt, messages, context))
        if len(first) + len(second) > c.max_tokens:
            raise TooLarge(
                f"the prompt takes {len(first) + len(second)} tokens; "
                f"this model reads at most {c.max_tokens}; shorten it",
                "messages" if messages else "prompt",
            )
        bos = () if c.bos_token_id is None else (c.bos_token_id,)
        return (*bos, *first, *self._image_ids(images, roles), *start, *second)

    def _image_ids(self, images: int, roles: Roles | None) -> list[int]:
        """The places of the images, with the words around them."""
        ids = [IMAGE]
        if roles is None:
            between = self._encode((self.config.between_images,)) if images > 1 else []
            return ids + (images - 1) * [*between, IMAGE]
        for role in roles[1:]:
            before, after = (self._encode((words,)) for words in self.config.accepts[role].split(f"{{{role}}}"))
            ids += [*before, IMAGE, *after]
        return ids

    def parts(
        self, prompt: str | None, messages: Messages | None, context: Context = NO_CONTEXT
    ) -> tuple[Parts, Parts]:
        """The texts before and after the image. Raises InvalidOption as `ids` does."""
        said = self._said(context)
        if messages:
            return self._conversation(messages, said)
        words = prompt or self.config.default
        self._check_words("prompt", words)
        first, *others = self.config.after.split("{prompt}")
        after = [first]
        for other in others:
            after += [words, *said[:-1], said[-1] + other]
        return (self.config.before,), after

    def _said(self, context: Context) -> Parts:
        """The words of a context, in turn the model's own and the request's. Raises InvalidOption."""
        accepts = self.config.accepts
        if refused := [name for name in context if name not in accepts]:
            raise InvalidOption(
                f"{refused[0]} is set, but this model does not read it: {_known(accepts)}; leave it out", refused[0]
            )
        said = [""]
        for name in accepts:
            if name in context:
                self._check_words(name, context[name])
                before, after = accepts[name].split(f"{{{name}}}")
                said = [*said[:-1], said[-1] + before, context[name], after]
        return said

    @property
    def max_images(self) -> int:
        """Largest number of images of a request that names no roles."""
        return self.config.max_images

    @property
    def accepts(self) -> tuple[str, ...]:
        """Which of ACCEPTED a request may have."""
        return tuple(self.config.accepts)

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that images may have, in the order in which the model reads them."""
        return (FRONTAL, *(name for name in self.config.accepts if name in FURTHER))

    @property
    def takes_messages(self) -> bool:
        """Whether the model holds a conversation."""
        return bool(self.config.separator)

    @property
    def answers_at_end(self) -> bool:
        """Whether `answer` can drop any text that more text follows, so that nothing is decided before the end."""
        return self.takes_messages

    def answer(self, text: str) -> str:
        """What the assistant says, of a text in which a model for conversations may have written its name again."""
        if not self.answers_at_end:
            return text
        return text.rpartition(f"{self.config.assistant}:")[2].strip()

    def _conversation(self, messages: Messages, said: Parts) -> tuple[Parts, Parts]:
        """Texts before and after the image for a conversation that the user has begun and the model is to go on.

        said : of the context, which follows the first words of the user
        """
        c = self.config
        if not c.separator:
            raise InvalidOption("messages are given, but this model is single-turn; use prompt", "messages")
        roles = [message.get("role") for message in messages]
        if roles != ["user" if turn % 2 == 0 else "assistant" for turn in range(len(roles))] or len(roles) % 2 == 0:
            raise InvalidOption(
                "messages must be turns of user and assistant, the user's first and last; found: "
                + ", ".join(role if role in ("user", "assistant", "system") else "another role" for role in roles),
                "messages",
            )
        for message in messages:
            self._check_words("messages", message["content"])
        opening = f"{c.system}{c.separator}" if c.system else ""
        after = [c.after_image]
        for role, message in zip(roles[1:], messages, strict=False):
            after += [message["content"], f"{c.separator}{c.user if role == 'user' else c.assistant}: "]
        after += [messages[-1]["content"], f"{c.separator}{c.assistant}:"]
        after[2:3] = [*said[:-1], said[-1] + after[2]]
        return (f"{opening}{c.user}: {c.before_image}",), after

    def _check_words(self, name: str, words: str) -> None:
        """A separator inside the words would let them speak for the other side."""
        if self.config.separator and self.config.separator in words:
            raise InvalidOption(
                f"{name} has the text {self.config.separator!r}, which separates turns here; leave it out",
                name,
            )

    def _encode(self, parts: Parts) -> list[int]:
        """Token ids of a text, cut at the special tokens that the model's own parts name."""
        ids: list[int] = []
        text = ""
        for i, part in enumerate(parts):
            pieces = self._special_text.split(part) if self._special_text and i % 2 == 0 else [part]
            for j, piece in enumerate(pieces):
                if j % 2 == 0:
                    text += piece
                else:
                    ids += [*self._text_ids(text), self._special[piece]]
                    text = ""
        return ids + self._text_ids(text)

    def _text_ids(self, text: str) -> list[int]:
        """Token ids of a text in which nothing is a special token."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids if text else []
        if self._vocab_size is None or max(ids, default=-1) < self._vocab_size:
            return ids
        unknown = self._tokenizer.token_to_id(self._tokenizer.model.unk_token)
        known = (token_id if token_id < self._vocab_size else unknown for token_id in ids)
        return [token_id for token_id in known if token_id is not None]
