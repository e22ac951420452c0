"""The exception tree.

PrelimError
  ArchiveError         a model folder or archive cannot be used: raised at start-up, names the file
  RequestError         one request gets no report; the others are unaffected
    InputError         the request cannot be answered as it is
      UnreadableInput  400  damaged, empty or malformed
      InvalidOption    400  an option has a value that is not allowed
      UnknownModel     404  the request names another model
      UnknownPath      404  the request is to a path that is not served
      TooLarge         413  over a cap on bytes, pixels, frames or tokens
      NotAnImage       415  not a supported image format
      Refused          422  readable, but this model must not answer it
        UnlikeTraining 422  unlike the images that the model was trained on (encoding.gate)
      Overloaded       503  no capacity left for this request
    InternalError      500  an unexpected exception, which is its cause
    NonFiniteOutput    500  the model computed NaN or infinity
    NotAudited         503  the audit log cannot be written, and no report is given without its line
    DeadlineExceeded   504  no report within the time that a request may take
  AuditError           the audit log or its key cannot be used, or was changed (audit)
  TooManyPositions     a given report is too long to be scored (decoders.teacher_forcing)
  JobError             a bulk job cannot run as it was asked for (bulk.errors)
  DatasetError         a data set cannot be used (training.datasets.study)
  SettingsError        a setting of a training run cannot be used (training.settings)
  SignedError          counts of signed reports cannot be read (training.evaluation.shadow.signed)
"""

import errno
import os


def reason_of(error: Exception) -> str:
    """Why a file cannot be read: of the system's errors without number and file name, which the message has already."""
    if isinstance(error, FileNotFoundError):
        # That of safetensors has neither a number nor a reason, but the file name.
        return os.strerror(errno.ENOENT)
    return (isinstance(error, OSError) and error.strerror) or str(error)


class PrelimError(Exception):
    """Root of what the library, the handler, export, training and bulk jobs raise on purpose.

    Programs that do not import the library (launcher, client, bridge) have their own errors.
    """

    for_users = True
    """Programs show the message, without a traceback; see terminal.program."""


class ArchiveError(PrelimError):
    """A model folder or an archive cannot be used."""


class AuditError(PrelimError):
    """The audit log or its key cannot be used, or is not what was written."""


class RequestError(PrelimError):
    """One request gets no report. `status` is the HTTP status code to answer with.

    Messages name the field or tag, the value found, the allowed values and how to fix it, and never
    repeat patient data.

    field : of the request, that is at fault; None where it is not a single one
    """

    status = 500

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InputError(RequestError):
    """The request cannot be answered as it is."""

    status = 400


class UnreadableInput(InputError):
    """The input is damaged, empty or malformed."""


class InvalidOption(InputError):
    """An option of a request has a value that is not allowed."""


class UnknownModel(InputError):
    """The request names another model than the one that reads it."""

    status = 404


class UnknownPath(InputError):
    """Nothing is served at the path of the request."""

    status = 404


class TooLarge(InputError):
    """The input is over a cap on bytes, pixels, frames or tokens."""

    status = 413


class NotAnImage(InputError):
    """The bytes are not a supported image format."""

    status = 415


class Refused(InputError):
    """The input is readable, but this model must not answer it."""

    status = 422


class UnlikeTraining(Refused):
    """The image is unlike those that the model was trained on."""


class Overloaded(InputError):
    """There is no capacity left for this request."""

    status = 503


class InternalError(RequestError):
    """An unexpected exception ended the request. The exception is the cause; its text may quote the input."""

    def __init__(self) -> None:
        super().__init__("the server failed on this request; its log has the type and the place")


class NonFiniteOutput(RequestError):
    """The model computed NaN or infinity."""


class NotAudited(RequestError):
    """The report cannot be entered in the audit log."""

    status = 503


class DeadlineExceeded(RequestError):
    """There is no report within the time that a request may take."""

    status = 504
