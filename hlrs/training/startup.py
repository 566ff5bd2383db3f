"""Startup times of a job: the interpreter and imports, then data and model."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

CHANGES_NO_RESULT = True  # so no code digest covers it (artifacts/code_digest.py)

_loaded = time.monotonic()
_called: float | None = None


def process_start() -> float:
    """Return when this process started, in seconds of time.monotonic().

    Outside Linux, this is when the module was loaded.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
            after_boot = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # starttime of proc(5)
            return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot)
    return _loaded


def called() -> None:
    """Note the time at which the stage is called, after imports and checks."""
    global _called
    _called = time.monotonic()


def ready() -> dict[str, float]:
    """Return the seconds from process start to the stage's call, and from there to now."""
    now = time.monotonic()
    call = now if _called is None else _called
    return {"imports_seconds": round(call - process_start(), 3), "setup_seconds": round(now - call, 3)}
