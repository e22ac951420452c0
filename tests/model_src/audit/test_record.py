"""What a line of the audit log has of a request."""

import pytest

from prelim.audit.key import AuditKey
from prelim.audit.record import text_digests
from prelim.encoding.report_request import ReportRequest
from prelim.generation.image_roles import default_options
from prelim.generation.options import GenerationOptions

DEFAULTS = GenerationOptions(banned_phrases=("unchanged",))


@pytest.mark.parametrize("roles", [None, ("frontal", "lateral"), ("frontal", "prior")])
@pytest.mark.parametrize("whole", [False, True])
def test_only_texts_that_a_request_gives_have_digests(roles: tuple[str, ...] | None, whole: bool) -> None:
    """Not the model's own, which a prior changes: whoever replays a report is not asked for what nobody sent."""
    options = default_options(DEFAULTS, roles) if whole else None
    images = (b"a",) * len(roles or "a")
    request = ReportRequest(images=images, roles=roles, options=options)
    assert set(text_digests(request, DEFAULTS, AuditKey(b"k" * 32))) == ({"roles"} if roles else set())


def test_members_of_a_message_have_no_order() -> None:
    """A client writes them as it likes, and whoever replays its report cannot know how."""
    turns = ({"role": "user", "content": "effusion?"}, {"content": "effusion?", "role": "user"})
    digests = [
        text_digests(ReportRequest(image=b"a", messages=(turn,)), DEFAULTS, AuditKey(b"k" * 32)) for turn in turns
    ]
    assert digests[0] == digests[1]
