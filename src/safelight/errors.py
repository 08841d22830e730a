"""Every error that Safelight raises on purpose.

    SafelightError                 exit code 1: what we did failed
    ├── InputError                 exit code 2: what was given cannot be used
    │   ├── RequestError           a setting is wrong: size, sampler, step count, ...
    │   │   └── PromptError        the prompt cannot be read
    │   ├── FileError              missing, unreadable, truncated or forged file
    │   │   └── UnsafeFileError    the file asks to run code; nothing of it ran
    │   └── CheckpointError        a sound file that is not what it was given for
    ├── NonFiniteError             a part made NaN or infinity, in float32 too
    ├── OutputError                a result could not be written
    └── ReplayError                a recipe could not be drawn again

The message is one line that says what was given, what was expected and what to do.
"""


class SafelightError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(SafelightError):
    """What was given cannot be used."""

    exit_code = 2


class RequestError(InputError):
    """A setting is wrong."""


class PromptError(RequestError):
    """The prompt cannot be read."""


class FileError(InputError):
    """A file is missing, unreadable, truncated or forged."""


class UnsafeFileError(FileError):
    """The file asks to run code; nothing of it ran."""


class CheckpointError(InputError):
    """A sound file that is not what it was given for: other family, missing or surplus weights."""


class NonFiniteError(SafelightError):
    """A part of the model made NaN or infinity, in float32 too."""


class OutputError(SafelightError):
    """A result could not be written."""


class ReplayError(SafelightError):
    """A recipe could not be drawn again."""
