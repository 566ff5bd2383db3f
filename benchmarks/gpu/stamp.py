"""Stamp lines with the seconds since a run began, as they come: … | python stamp.py LOG [--lines N].

Every line goes to LOG, the first N also to standard output, those of epochs shortened. T0 in the environment
is the time at which the run began, in seconds since 1970; without it, the first line's.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

# hlrs/training/progress.py: run, epoch, loss, images/s and what follows
EPOCH = re.compile(
    r"(?P<run>\S+)  epoch (?P<epoch>\S+) .*?(?P<loss>\w*loss \S+).*  (?P<rate>\d+ images/s.*)$"
)
WIDTH = 200


def shorten(line: str) -> str:
    """Return a line for the screen; of an epoch's row only run, epoch, loss and throughput."""
    found = EPOCH.search(line)
    return " ".join(found.group("run", "epoch", "loss", "rate")) if found else line[:WIDTH]


def main() -> None:
    """Copy standard input until it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--lines", type=int, default=sys.maxsize)
    arguments = parser.parse_args()
    began = float(os.environ.get("T0") or time.time())
    with arguments.log.open("a", buffering=1) as log:
        for number, line in enumerate(sys.stdin):
            stamp, text = f"[{time.time() - began:7.1f}]", line.rstrip()
            log.write(f"{stamp} {text}\n")
            if number < arguments.lines:
                print(stamp, shorten(text), flush=True)


if __name__ == "__main__":
    main()
