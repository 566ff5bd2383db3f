"""Where a job's time goes before its work begins: the interpreter and imports, then data and model."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

_loaded = time.monotonic()
_called: float | None = None


def process_start() -> float:
    """When this process started, on the clock of time.monotonic(); on macOS, when this module was loaded."""
    if sys.platform == "linux":
        with suppress(OSError):
            after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
            after_boot = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # starttime of proc(5)
            return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot)
    return _loaded


def called() -> None:
    """Note that everything is imported and checked, and the stage is called now."""
    global _called
    _called = time.monotonic()


def ready() -> dict[str, float]:
    """Seconds from the process's start to the stage's call, and from there until its work begins now."""
    now = time.monotonic()
    call = now if _called is None else _called
    return {"imports_seconds": round(call - process_start(), 3), "setup_seconds": round(now - call, 3)}
