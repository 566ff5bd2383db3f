"""Small scripts in the place of a cluster's commands, and what they were called with."""

import json
import os
import shlex
import sys
from pathlib import Path


class Commands:
    """A folder of stand-ins, first in PATH; `$n` in a script's body is the number of its call, from 1."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", os.pathsep.join([str(folder), *os.environ["PATH"].split(os.pathsep)]))

    def write(self, name: str, body: str) -> None:
        """Make a command of a few lines of sh; its arguments are recorded."""
        record = (
            "import json, os, sys; f = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT);"
            "os.write(f, (json.dumps(sys.argv[2:]) + '\\n').encode())"
        )
        calls = shlex.quote(str(self._calls(name)))
        python = shlex.quote(sys.executable)
        path = self.folder / name
        path.write_text(
            f'#!/bin/sh\n{python} -ISc {shlex.quote(record)} {calls} "$@"\nn=$(wc -l < {calls})\n{body}\n'
        )
        path.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of each call so far."""
        path = self._calls(name)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _calls(self, name: str) -> Path:
        return self.folder / f"{name}.calls"
