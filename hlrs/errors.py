"""Errors that end a command, and the one line and exit status that each becomes."""

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

CHANGES_NO_RESULT = True  # so no code digest covers it (artifacts/code_digest.py)

INTERRUPTED = 75  # sysexits.h EX_TEMPFAIL: the state is saved, rerun to resume


class HlrsError(Exception):
    """Base of errors whose message is one line for the user; `status` is the exit status."""

    status = 1


class UserError(HlrsError):
    """Wrong parameter, file or argument; the message names it and the remedy."""

    status = 2


class Failure(HlrsError):
    """Failure at run time, such as a truncated artifact or a loss that is not a number."""


class Interrupted(HlrsError):
    """Interruption by a signal (`SIGTERM`, `SIGUSR1` or `SIGINT`); the state is saved."""

    status = INTERRUPTED

    def __init__(self, message: str, signal: str) -> None:
        super().__init__(message)
        self.signal = signal


# --- how they end a command ---------------------------------------------------------------------------

TRACEBACKS = Path(".hlrs/errors")  # of errors that nobody foresaw; may be deleted
NO_MEMORY = ("MemoryError", "OutOfMemoryError")  # Python's, and PyTorch's of a GPU
LINE = 400  # characters of an unforeseen error's message


@contextmanager
def in_one_line(status: int | None = None, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """End the process with one line on stderr, whatever the body raises except for `passing`.

    The exit status is the given one, else the error's own, else 1.
    """
    try:
        yield
    except passing:
        raise
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        line = " ".join(_describe(error).splitlines())
        print(f"hlrs: {line}", file=sys.stderr, flush=True)
        sys.exit(status or (error.status if isinstance(error, HlrsError) else 1))


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Put a subject before the message of a UserError that the body raises."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{subject}: {error}") from None


def _describe(error: BaseException) -> str:
    """Say what happened and, unless that was foreseen, where the traceback is."""
    if isinstance(error, HlrsError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    trace = _keep_traceback(error)
    what = str(error)[:LINE]
    if out_of_memory(error):
        lower = "batch_size, channels or cells (of a resnet, width or depth)"
        return f"out of memory; lower {lower}, or use a larger machine ({trace})"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror} ({trace})"
    return f"unforeseen {type(error).__name__}: {what}; please report this bug ({trace})"


def out_of_memory(error: BaseException) -> bool:
    """Whether Python or PyTorch could not allocate memory; for a CPU's, PyTorch has no class of its own."""
    return type(error).__name__ in NO_MEMORY or "can't allocate memory" in str(error)


def _keep_traceback(error: BaseException) -> str:
    """Write the traceback of an error to a file in .hlrs, else in the system's temporary folder."""
    text = "".join(traceback.format_exception(error))
    name = f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{os.getpid()}.txt"
    for folder in (TRACEBACKS, Path(tempfile.gettempdir()) / "hlrs-errors"):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            return f"traceback in {folder / name}"
    return "its traceback could not be written"
