"""The exception tree.

PrelimError
  ArchiveError         a model folder or archive cannot be used: raised at start-up, names the file
  InputError           one request cannot be answered: fails that request alone
    UnreadableInput    400  damaged, empty or malformed
    InvalidOption      400  an option has a value that is not allowed
    TooLarge           413  over a cap on bytes, pixels, frames or tokens
    NotAnImage         415  the bytes are of no kind that is read here
    Refused            422  readable, but this model must not answer it
    Overloaded         503  no capacity left for this request
  DatasetError         a data set cannot be used (training.datasets.study)
  SettingsError        a setting of a training run cannot be used (training.settings)
"""


class PrelimError(Exception):
    """Root of everything this project raises on purpose."""


class ArchiveError(PrelimError):
    """A model folder or an archive cannot be used."""


class InputError(PrelimError):
    """One request cannot be answered. `status` is the HTTP status code to answer with.

    Messages name the field or tag, the value found, the values allowed and the way out, and never
    repeat patient data.
    """

    status = 400


class UnreadableInput(InputError):
    """The input is damaged, empty or malformed."""


class InvalidOption(InputError):
    """An option of a request has a value that is not allowed."""


class TooLarge(InputError):
    """The input is over a cap on bytes, pixels, frames or tokens."""

    status = 413


class NotAnImage(InputError):
    """The bytes are of no image kind that is read here."""

    status = 415


class Refused(InputError):
    """The input is readable, but this model must not answer it."""

    status = 422


class Overloaded(InputError):
    """There is no capacity left for this request."""

    status = 503
