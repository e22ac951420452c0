"""What ends a bulk job. An error of one study never does."""

from prelim.errors import PrelimError


class JobError(PrelimError):
    """The job cannot run as it was asked for. The message names the file or the option, and the way out."""
