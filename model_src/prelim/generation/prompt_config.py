"""The text around the images: section `prompt` of model.yaml."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from prelim.errors import ArchiveError
from prelim.generation.clinical_context import CONTEXT, PRIOR_REPORT
from prelim.generation.image_roles import FRONTAL, FURTHER, PRIOR, ROLES

ACCEPTED = (*CONTEXT, *FURTHER)
"""What a model may accept next to the image that it reports."""

_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class PromptConfig:
    """Section `prompt` of model.yaml; a model without it reads no words.

    A decoder that reads the image by cross-attention begins its report with these tokens, and has no place for it.

    Special tokens are known by their text, as in "<|im_start|>user", in all of these but not in what a request says.

    bos_token_id : first token of all; None where the model was trained without
    before, after : text before the image and after it; {prompt} stands where the request's prompt goes
    accepts      : which of ACCEPTED a request may have, and how the prompt says it, in this order. A text such as
                   " Indication: {indication}." follows the request's words; with "Lateral: {lateral}" an image of that
                   role follows the frontal one
    missing      : what the prompt says instead of a field of the context that a request lacks; empty: nothing, without
                   the words around it
    views        : how the prompt says the images, after `before`: roles joined by "+" -> a text with {frontal}, and so
                   on, at their places, for models whose words depend on which images there are; no others are allowed.
                   {prior_report} may stand after the last image of a text with {prior}, and is said as `missing` where
                   a request has none
    start_ids    : tokens between image and `after`, where there is a prompt
    default      : prompt of a request that has none
    max_tokens   : limit on the tokens of the text
    strip_words  : white space around the request's prompt is removed
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
    missing: str = ""
    views: Mapping[str, str] = field(default_factory=dict)
    start_ids: tuple[int, ...] = ()
    default: str = ""
    max_tokens: int = 512
    strip_words: bool = False
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
        _check_views(self.views)


def _check_views(views: Mapping[str, str]) -> None:
    """Raise ArchiveError for roles in another order, and for words that do not have each of them once."""
    if not isinstance(views, Mapping):
        raise ArchiveError(f"prompt.views is {views!r:.80}; allowed: a mapping of roles, such as frontal+prior")
    for joined, words in views.items():
        roles = str(joined).split("+")
        if FRONTAL not in roles or roles != [role for role in ROLES if role in roles]:
            raise ArchiveError(
                f"prompt.views has {joined!r:.40}; allowed: some of {', '.join(ROLES)}, in this order, joined by '+', "
                f"with {FRONTAL}"
            )
        places = _PLACE.findall(words) if isinstance(words, str) else []
        told = [place for place in places if place in (*ROLES, PRIOR_REPORT)]
        if told != roles and (told != [*roles, PRIOR_REPORT] or PRIOR not in roles):
            raise ArchiveError(
                f"prompt.views.{joined} must be a text with {', '.join(f'{{{role}}}' for role in roles)} in it, once "
                f"each and in this order; after them {{{PRIOR_REPORT}}} once, if {PRIOR} is one of them"
            )
