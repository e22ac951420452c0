"""What each of several images of one request is to the report: the view that is reported, a lateral view, a prior."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from prelim.errors import InvalidOption
from prelim.generation.options import GenerationOptions

FRONTAL, PRIOR = "frontal", "prior"
FURTHER = ("lateral", PRIOR)
"""Of the same study, and of an earlier one; a model accepts those for which its prompt has words."""
ROLES = (FRONTAL, *FURTHER)


def check_roles(roles: Sequence[str], num_images: int) -> None:
    """Check that each image has a role of its own, and that one of them is the frontal view.

    Raises InvalidOption.
    """
    if len(roles) != num_images:
        raise InvalidOption(f"roles has {len(roles)} entries for {num_images} images; send one for each image", "roles")
    if unknown := [role for role in roles if role not in ROLES]:
        raise InvalidOption(f"roles has {unknown[0]!r:.40}; known: {', '.join(ROLES)}", "roles")
    if doubled := [role for role, count in Counter(roles).items() if count > 1]:
        raise InvalidOption(f"roles has {doubled[0]} twice; each role is that of one image", "roles")
    if FRONTAL not in roles:
        raise InvalidOption(f"roles has no {FRONTAL}, the image that is reported", "roles")


def default_options(options: GenerationOptions, roles: Sequence[str] | None) -> GenerationOptions:
    """A model's default options for a request whose images have these roles.

    Its banned phrases are those that speak of an earlier examination: a report on a prior may have them.
    """
    return replace(options, banned_phrases=()) if roles and PRIOR in roles else options
