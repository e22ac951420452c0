"""What can go wrong with one study, by what is done about it."""


class StudyError(Exception):
    """A study has no draft yet.

    reason : a word for the log and the queue
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Outage(StudyError):
    """The PACS or the server is away or overloaded: wait and try again, for hours if need be."""


class StudyFailure(StudyError):
    """One study failed where others may not: try a few times, then put it aside."""
