"""What a decoder reads before it writes: the image, and the text around it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer

from prelim.decoders.decoder import IMAGE
from prelim.errors import InvalidOption, TooLarge
from prelim.generation.clinical_context import PRIOR_REPORT
from prelim.generation.image_roles import FRONTAL, FURTHER, PRIOR, ROLES
from prelim.generation.prompt_config import PromptConfig

Messages = Sequence[Mapping[str, str]]
Context = Mapping[str, str]
"""Of CONTEXT, what `read_context` gives."""
NO_CONTEXT: Context = MappingProxyType({})
Roles = Sequence[str]
Parts = Sequence[str]
"""A text in parts, in turn the model's own and the request's words."""


_PRIOR_REPORT = f"{{{PRIOR_REPORT}}}"
"""Its place in a text of `views`."""


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
    if prompter.combinations and "+".join(roles) not in prompter.combinations:
        raise InvalidOption(
            f"roles are {', '.join(roles)}; this model reads {', or '.join(prompter.combinations)} together", "roles"
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
    combinations: tuple[str, ...] = ()

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
    one_text   : the model was trained on the whole prompt as one text, with special tokens for the images, instead of
                 a text before and another after: what a tokenizer puts before the first word of a text is only there
    apart      : the decoder reads the image by cross-attention, so that it has no place among the tokens
    """

    takes_prompts = True

    def __init__(
        self,
        config: PromptConfig,
        tokenizer: Tokenizer,
        vocab_size: int | None = None,
        *,
        one_text: bool = False,
        apart: bool = False,
    ) -> None:
        self.config = config
        self._apart = apart
        self._tokenizer = tokenizer
        self._continuing = _continuing(tokenizer) if one_text else tokenizer
        self._vocab_size = vocab_size
        added = tokenizer.get_added_tokens_decoder().items()
        self._special = {token.content: token_id for token_id, token in added if token.special}
        # Longest first, because one special token may be a prefix of another.
        texts = sorted(self._special, key=len, reverse=True)
        self._special_text = re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None
        tokenizer.encode_special_tokens = self._continuing.encode_special_tokens = True

    def ids(
        self,
        prompt: str | None,
        messages: Messages | None,
        images: int = 1,
        context: Context = NO_CONTEXT,
        roles: Roles | None = None,
    ) -> tuple[int, ...]:
        """Token ids with one IMAGE for each image, where its embeddings go if they are read with the tokens.

        roles : of the images, in the order of `self.roles`; None where they have none

        Raises InvalidOption for a conversation that the model cannot hold, and for a context and images that it does
        not accept; TooLarge for too many tokens.
        """
        c = self.config
        _check_images(images, roles, self)
        start = c.start_ids if not messages and (prompt or c.default or context) else ()
        before, *others = self.texts(prompt, messages, images, context, roles)
        first, rest = self._encode(before, begins=True), [self._encode(text) for text in others]
        length = sum(map(len, (first, *rest)))
        if length > c.max_tokens:
            said = {"messages": "".join(m["content"] for m in messages)} if messages else {"prompt": prompt or ""}
            longest = max((said | dict(context)).items(), key=lambda field: len(field[1]))[0]
            raise TooLarge(
                f"the prompt takes {length} tokens; this model reads at most {c.max_tokens}; shorten "
                + ("it" if longest == "prompt" else f"{longest}, which is part of it"),
                longest,
            )
        ids = [*(() if c.bos_token_id is None else (c.bos_token_id,)), *first]
        for text in rest[:-1]:
            ids += [IMAGE, *text]
        ids += [IMAGE, *start, *rest[-1]]
        return tuple(token for token in ids if token != IMAGE or not self._apart)

    def texts(
        self,
        prompt: str | None,
        messages: Messages | None,
        images: int = 1,
        context: Context = NO_CONTEXT,
        roles: Roles | None = None,
    ) -> list[Parts]:
        """The texts around the images, one more than these. Raises InvalidOption as `ids` does."""
        before, after = self.parts(prompt, messages, context)
        inner = self._around_images(images, roles)
        told = self._with_prior_report(inner[-1], context)
        texts = [before, *((words,) for words in inner[1:-1]), after]
        texts[0] = [*before[:-1], before[-1] + inner[0]]
        texts[-1] = [*told[:-1], told[-1] + after[0], *after[1:]]
        return texts

    def _with_prior_report(self, words: str, context: Context) -> Parts:
        """The model's words after the last image, and the earlier report where they have a place for it."""
        report = context.get(PRIOR_REPORT, "")
        if _PRIOR_REPORT in words:
            self._check_words(PRIOR_REPORT, report)
            before, after = words.split(_PRIOR_REPORT)
            return [before, report or self.config.missing, after]
        if report and PRIOR_REPORT not in self.config.accepts:
            raise InvalidOption(
                f"{PRIOR_REPORT} is set, but no image has the role {PRIOR}, with which this model reads it; send that "
                "image too, or leave the report out",
                PRIOR_REPORT,
            )
        return [words]

    def _around_images(self, images: int, roles: Roles | None) -> list[str]:
        """The model's words before the first image, between two of them, and after the last one."""
        c = self.config
        if c.views:
            words = c.views["+".join(roles or (FRONTAL,))]
            return re.split("|".join(re.escape(f"{{{role}}}") for role in ROLES), words)
        if roles is None:
            return ["", *(images - 1) * [c.between_images], ""]
        around = ["", ""]
        for role in roles[1:]:
            before, after = c.accepts[role].split(f"{{{role}}}")
            around = [*around[:-1], around[-1] + before, after]
        return around

    def parts(
        self, prompt: str | None, messages: Messages | None, context: Context = NO_CONTEXT
    ) -> tuple[Parts, Parts]:
        """The texts before and after the image. Raises InvalidOption as `ids` does."""
        said = self._said(context)
        if messages:
            return self._conversation(messages, said)
        words = prompt or self.config.default
        if self.config.strip_words:
            words = words.strip()
        self._check_words("prompt", words)
        return _fill(self.config.before, words, said), _fill(self.config.after, words, said)

    def _said(self, context: Context) -> Parts:
        """The words of a context, in turn the model's own and the request's. Raises InvalidOption."""
        accepts = self.config.accepts
        if refused := [name for name in context if name not in self.accepts]:
            raise InvalidOption(
                f"{refused[0]} is set, but this model does not read it: {_known(self.accepts)}; leave it out",
                refused[0],
            )
        said = [""]
        for name in accepts:
            words = context.get(name) or ("" if name in FURTHER else self.config.missing)
            if words:
                self._check_words(name, words)
                before, after = accepts[name].split(f"{{{name}}}")
                said = [*said[:-1], said[-1] + before, words, after]
        return said

    @property
    def max_images(self) -> int:
        """Largest number of images of a request that names no roles."""
        return self.config.max_images

    @property
    def accepts(self) -> tuple[str, ...]:
        """Which of ACCEPTED a request may have."""
        viewed = any(_PRIOR_REPORT in words for words in self.config.views.values())
        further = (*((PRIOR_REPORT,) if viewed else ()), *self.roles[1:])
        return (*self.config.accepts, *(name for name in further if name not in self.config.accepts))

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that images may have, in the order in which the model reads them."""
        if self.config.views:
            return tuple(role for role in ROLES if any(role in joined.split("+") for joined in self.config.views))
        return (FRONTAL, *(name for name in self.config.accepts if name in FURTHER))

    @property
    def combinations(self) -> tuple[str, ...]:
        """Roles, joined by "+", that the images of a request may have together; empty: any of `roles`."""
        return tuple(self.config.views)

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

    def _encode(self, parts: Parts, *, begins: bool = False) -> list[int]:
        """Token ids of a text, cut at the special tokens that the model's own parts name.

        begins : the prompt begins with it
        """
        ids: list[int] = []
        text = ""
        for i, part in enumerate(parts):
            pieces = self._special_text.split(part) if self._special_text and i % 2 == 0 else [part]
            for j, piece in enumerate(pieces):
                if j % 2 == 0:
                    text += piece
                else:
                    ids += [*self._text_ids(text, begins=begins and not ids), self._special[piece]]
                    text = ""
        return ids + self._text_ids(text, begins=begins and not ids)

    def _text_ids(self, text: str, *, begins: bool) -> list[int]:
        """Token ids of a text in which nothing is a special token."""
        tokenizer = self._tokenizer if begins else self._continuing
        ids = tokenizer.encode(text, add_special_tokens=False).ids if text else []
        if self._vocab_size is None or max(ids, default=-1) < self._vocab_size:
            return ids
        unknown = self._tokenizer.token_to_id(self._tokenizer.model.unk_token)
        known = (token_id if token_id < self._vocab_size else unknown for token_id in ids)
        return [token_id for token_id in known if token_id is not None]


def _fill(template: str, words: str, said: Parts) -> Parts:
    """A text of the model with the request's words, each followed by its context."""
    first, *others = template.split("{prompt}")
    parts = [first]
    for other in others:
        parts += [words, *said[:-1], said[-1] + other]
    return parts


_FIRST, _NEVER = "first", "never"


def _continuing(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer for a later text: without the space that some put before the first word of all."""
    if tokenizer.pre_tokenizer is None or not _drop_first(json.loads(tokenizer.pre_tokenizer.__getstate__())):
        return tokenizer
    described = json.loads(tokenizer.to_str())
    _drop_first(described["pre_tokenizer"])
    return Tokenizer.from_str(json.dumps(described))


def _drop_first(step: dict[str, Any]) -> bool:
    """Let a pre-tokenizer, or one of a sequence, never put such a space; whether one did."""
    changed = step.get("prepend_scheme") == _FIRST
    if changed:
        step["prepend_scheme"] = _NEVER
    return any([changed, *(_drop_first(inner) for inner in step.get("pretokenizers", ()))])
