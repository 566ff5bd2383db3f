"""Whether the full image was tested as it would be built now: `make test-image` records it, CI asks.

Exit status 0 if containers/tested.json fits the files that an image is made of, 1 if not; --record writes it.
"""

import datetime
import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
RECORD = HERE / "tested.json"


def digest() -> str:
    """SHA-256 over the files of this folder and the lock file."""
    files = [path for path in sorted(HERE.iterdir()) if path.is_file() and path != RECORD]
    files.append(HERE.parent / "requirements.lock")
    lines = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        RECORD.write_text(json.dumps({"date": today, "sha256": digest()}, indent=1) + "\n")
    elif not RECORD.is_file() or json.loads(RECORD.read_text())["sha256"] != digest():
        sys.exit(
            "containers/ or requirements.lock changed since the full image was last tested: `make test-image`"
        )
