"""The prompt of a folder's chat template: section `prompt` of model.yaml, which gives the token ids that it gives.

The template is rendered by `transformers`, in its sandbox, for words that stand for a request's. What it writes around
them and around the images becomes the section, and a check compares the token ids of further words and images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from export.checkpoints.record import ImportRecord
from export.checkpoints.settings import read_json
from prelim.decoders.decoder import IMAGE
from prelim.errors import ArchiveError
from prelim.generation.prompt import Prompter
from prelim.generation.prompt_config import PromptConfig

TEMPLATES = ("chat_template.jinja", "chat_template.json")
"""Files that have nothing but a template; the first one that is there is used, as by `transformers`."""

_SETTINGS = "tokenizer_config.json"
_KEY = "chat_template"
_WAY_OUT = "pass --set prompt.chat_template=false, and write section prompt of model.yaml by hand"

_WORDS = "Quux 7 quux"
_CHECKED = (_WORDS, "Is the heart enlarged?", "two\nlines, and 64 years", "(x) 5 < 6", "a")
"""Words that no template has of its own, and what the result is checked with."""


@dataclass(frozen=True)
class ImageWords:
    """How a text has an image.

    marker : what a chat template writes for it
    text   : what the processor puts in the marker's place; {image} stands where the image's own tokens go
    """

    marker: str
    text: str = "{image}"

    @property
    def around(self) -> tuple[str, str]:
        """The text before the image's tokens, and after them."""
        before, after = self.text.split("{image}")
        return before, after


_IMAGE = {"type": "image"}


def _text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def find_template(folder: Path) -> str | None:
    """The chat template of a folder; None if it has none. Raises ArchiveError if it cannot be read."""
    for name in (*TEMPLATES, _SETTINGS):
        path = folder / name
        if not path.is_file():
            continue
        found: Any = path.read_text(encoding="utf-8") if path.suffix == ".jinja" else read_json(path).get(_KEY)
        if isinstance(found, list):
            # Several templates, each with a name.
            found = next((one.get("template") for one in found if one.get("name") == "default"), None)
        if found is not None and not isinstance(found, str):
            raise ArchiveError(f"{path}: {_KEY} is {type(found).__name__}; expected a text")
        if found is not None:
            return found
    return None


def transformers_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder as `transformers` reads it, without code of the folder's own.

    Raises ArchiveError if it cannot be read.
    """
    # Imported here because `transformers` takes seconds to import.
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if (folder / _SETTINGS).is_file():
            # A local folder has no revision.
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)  # nosec B615
        by_file: Any = PreTrainedTokenizerFast
        return by_file(tokenizer_file=str(folder / "tokenizer.json"))
    except Exception as error:
        raise ArchiveError(f"{folder} has a tokenizer that transformers cannot read: {error}") from error


class ChatTemplate:
    """A folder's template with its tokenizer."""

    def __init__(self, template: str, tokenizer: Any, image: ImageWords) -> None:
        self._template, self._tokenizer, self._image = template, tokenizer, image

    def turn(self, content: Sequence[dict[str, str]]) -> str:
        """One turn of the user, and the beginning of the assistant's. Raises ArchiveError if it cannot be rendered."""
        try:
            text: str = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": [*content]}],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:
            raise ArchiveError(f"the folder's chat template cannot be rendered: {error}; {_WAY_OUT}") from error
        return text

    def render(self, words: str, images: int) -> str:
        """A turn with the images before the words. Raises ArchiveError if the template has no place for them."""
        text = self.turn([*(_IMAGE for _ in range(images)), _text(words)])
        if text.count(self._image.marker) != images or words.strip() not in text:
            raise ArchiveError(
                f"the folder's chat template writes {text!r:.200} for {images} images and {words!r}: without one "
                f"{self._image.marker!r} for each image, or without the words; {_WAY_OUT}"
            )
        return text

    def ids(self, text: str, image_token: str) -> list[int]:
        """Token ids of a turn, one for each image."""
        text = text.replace(self._image.marker, self._image.text.replace("{image}", image_token))
        bos = self._tokenizer.bos_token
        found: list[int] = self._tokenizer(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids
        return found

    def prompt(self, published: PromptConfig, record: ImportRecord) -> PromptConfig:
        """Section `prompt`: what the template writes around the words, and around the images if `published` does not.

        There are as many images as in the published one unless the template numbers them.
        """
        text = self.turn([_text(_WORDS)]) if published.views else self.render(_WORDS, 1)
        bos = self._tokenizer.bos_token
        whole, bare = (self._tokenizer("a", add_special_tokens=special).input_ids for special in (True, False))
        bos_token_id = None if whole == bare or (bos and text.startswith(bos)) else whole[0]
        if published.views:
            opening, _, closing = text.partition(_WORDS)
            return replace(
                published,
                bos_token_id=bos_token_id,
                before=opening + published.before,
                after=published.after + closing,
            )
        prefix, suffix = self._image.around
        before, after = (part.replace(_WORDS, "{prompt}") for part in text.split(self._image.marker))
        between = self._between(text, published.max_images)
        if between is None:
            record.assume("the folder's chat template does not write several images alike: prompt.max_images is 1")
        return replace(
            published,
            bos_token_id=bos_token_id,
            before=before + prefix,
            after=suffix + after,
            start_ids=(),
            strip_words=f" {_WORDS} " not in self.render(f" {_WORDS} ", 1),
            max_images=1 if between is None else published.max_images,
            between_images="" if between is None else suffix + between + prefix,
        )

    def _between(self, text: str, most: int) -> str | None:
        """The text between two images; None if there is no one such text."""
        found: set[str] = set()
        first, last = text.split(self._image.marker)
        for images in range(2, most + 1):
            before, *between, after = self.render(_WORDS, images).split(self._image.marker)
            if (before, after) != (first, last):
                return None
            found |= {*between}
        return found.pop() if len(found) == 1 else ("" if most == 1 else None)


def templated_prompt(
    published: PromptConfig,
    folder: Path,
    served: Tokenizer,
    *,
    image_token_id: int,
    vocab_size: int,
    image: ImageWords | None,
    record: ImportRecord,
) -> PromptConfig | None:
    """Section `prompt` by the chat template of a folder, checked against it; None if it has none.

    published : the section of the published model, of which limits, the default and the context stay
    served    : the tokenizer of the model folder
    image     : None if the template has the image's token itself

    Raises ArchiveError if the prompt that is served would have other token ids.
    """
    template = find_template(folder)
    if template is None:
        return None
    image_token = served.id_to_token(image_token_id)
    if image_token is None:
        raise ArchiveError(f"image_token_index is {image_token_id}, but the tokenizer has no token with this id")
    chat = ChatTemplate(template, transformers_tokenizer(folder), image or ImageWords(image_token))
    prompt = chat.prompt(published, record)
    # Copies, because a prompter changes how its tokenizer reads special tokens.
    whole, inner = (
        Prompter(one, Tokenizer.from_str(served.to_str()), vocab_size, one_text=True) for one in (prompt, published)
    )
    sets: list[tuple[str, ...] | None] = [None, *(tuple(joined.split("+")) for joined in prompt.views)]
    for roles in sets:
        for images in range(1, prompt.max_images + 1) if roles is None else (len(roles),):
            for words in _CHECKED:
                ids = whole.ids(words, None, images, {}, roles)
                turn = _turn(chat, inner, words, images, roles) if published.views else chat.render(words, images)
                theirs = chat.ids(turn, image_token)
                _check([image_token_id if token == IMAGE else token for token in ids], theirs, words, images)
    return prompt


def _turn(chat: ChatTemplate, inner: Prompter, words: str, images: int, roles: tuple[str, ...] | None) -> str:
    """A turn with the images between the published words."""
    first, *others = ("".join(parts) for parts in inner.texts(words, None, images, {}, roles))
    return chat.turn([_text(first), *(item for text in others for item in (_IMAGE, _text(text)))])


def _check(ours: Sequence[int], theirs: Sequence[int], words: str, images: int) -> None:
    if list(ours) != list(theirs):
        pairs = zip(ours, theirs, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
        raise ArchiveError(
            f"the prompt of the folder's chat template cannot be served: for {images} images and {words!r} its token "
            f"ids are {list(theirs)[place : place + 5]} from token {place} on, here {list(ours)[place : place + 5]}; "
            f"{_WAY_OUT}"
        )
