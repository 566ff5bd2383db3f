"""The damage loop: a finished run with one damaged file, and what the next commands make of it.

    python -m tests.faults.damage [CASES [SEED]]

damages each result, each file in report/, .hlrs/ and results/.hlrs/ in each way (`DAMAGES`), in a copy of the
run, starts the commands that read the file, and counts the outcomes: found by the audit, refused in one line,
made again. Exit status 1 for any other: a hang, a bug, a damage that was missed or believed, other bytes.
CASES takes that many at random (default: all).
"""

import collections
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hlrs.artifacts.jobs import ASIDE, OUTPUTS, PROVENANCE, PUBLISHED, Job
from hlrs.pipeline.locks import LEASES, RUN
from tests.conftest import edit
from tests.faults import tiny
from tests.faults.tiny import FORK

SECONDS = 60.0  # that the commands of a case may take
OTHER = "other.yaml"  # params whose search nobody has run: `hlrs plan` measures it
CACHES = [".hlrs/digests.json", ".hlrs/contents.json", ".hlrs/calibration.json"]

# --- damages ------------------------------------------------------------------------------------------


def _at(position: str, content: bytes) -> int:
    """A byte's place: of the header, the 16th, where Parquet, safetensors and JSON have theirs."""
    last = max(len(content) - 1, 0)
    return {"first": 0, "header": min(16, last), "middle": last // 2, "last": last}[position]


def _flip(position: str) -> Callable[[Path, random.Random], None]:
    def damage(path: Path, draw: random.Random) -> None:
        content = bytearray(path.read_bytes())
        content[_at(position, content)] ^= 1 << draw.randrange(8)
        path.write_bytes(content)

    return damage


def _cut(position: str) -> Callable[[Path, random.Random], None]:
    def damage(path: Path, draw: random.Random) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: _at(position, content)])

    return damage


def _replace(make: Callable[[Path], None]) -> Callable[[Path, random.Random], None]:
    def damage(path: Path, draw: random.Random) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGES = {
    **{f"bit of the {position} byte": _flip(position) for position in ("first", "header", "middle", "last")},
    **{f"cut at the {position} byte": _cut(position) for position in ("first", "header", "middle", "last")},
    "folder": _replace(Path.mkdir),
    "fifo": _replace(os.mkfifo),
}

# --- cases --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A file to damage, the commands that follow, and how each may end."""

    kind: str
    path: str
    commands: list[tuple[list[str], set[str]]]
    put: dict[str, str] | None = None  # file or folder of the run -> where it is moved first, "" to delete it


AUDITED = (["audit"], {"found"})


def cases(jobs: list[Job], interrupted: Job) -> Iterator[Case]:
    """Every file of a finished run, in all its jobs and states."""
    for job in jobs:
        again = ([job.stage, job.run], {"made again", "refused"})
        for path in job.outputs:
            readers = [other for other in jobs if set(other.inputs.values()) & _read_with(job, path)]
            refused = [([r.stage, r.run, "--force"], {"refused"}) for r in readers[:1]]
            yield Case(f"{job.stage}: {Path(path).name}", path, [AUDITED, *refused, again])
        spec = [
            ([job.stage, str(job.spec)], {"refused"}),
            ([job.stage, job.run, "--force"], {"made again", "refused"}),
        ]
        yield Case("spec", str(job.spec), spec)
    for name in [*OUTPUTS["report"], PROVENANCE]:
        yield Case(f"report/: {name}", str(PUBLISHED / name), [AUDITED])
    made = {"made again", "refused"}
    again = ([interrupted.stage, interrupted.run], made)
    checkpoint, lease = str(interrupted.checkpoint), str(LEASES / f"{interrupted.key}.json")
    yield Case(
        "checkpoint", checkpoint, [again], {f"kept/{checkpoint}": checkpoint, str(interrupted.directory): ""}
    )
    yield Case("lease", lease, [([*again[0], "--force"], made)], {f"kept/{lease}": lease})
    yield Case("claim", str(RUN), [(["workflow"], made)], {f"kept/{RUN}": str(RUN)})
    for path in CACHES:
        yield Case(f"cache: {Path(path).name}", path, [(["plan", "--params", OTHER], {"made again"})])
    aside = next(job for job in jobs if job.stage == "extract")
    for path in aside.outputs:
        put = {str(aside.directory): str(ASIDE / aside.directory)}
        yield Case("set aside", str(ASIDE / path), [AUDITED], put)


def _read_with(job: Job, path: str) -> set[str]:
    """The files that a job only reads if this one is sound: a record's are all of its result."""
    return {*job.outputs} if path.endswith(PROVENANCE) else {path}


# --- a run --------------------------------------------------------------------------------------------


def finished(folder: Path) -> tuple[list[Job], Job]:
    """Make a run that was interrupted once; keep the state of that moment in kept/; return its jobs."""
    tiny.write_params(folder, "darts")
    jobs = tiny.warm(folder)
    process = tiny.start(folder)
    while not list(folder.glob(".hlrs/checkpoints/*.safetensors")):
        process.join(0.01)
        assert process.exitcode is None, (folder / "log").read_text()
    process.kill()
    process.join()
    for name in (".hlrs/checkpoints", "results/.hlrs"):
        shutil.copytree(folder / name, folder / "kept" / name)
    tiny.finish(folder)
    shutil.copyfile(folder / "params.yaml", folder / OTHER)
    edit(folder / OTHER, **{"search.epochs": 3})
    [(status, output)] = run(folder, [["plan", "--params", OTHER]])
    assert status == 0, output
    (folder / "log").unlink()
    tiny.warm(folder)  # the audit of finished results reads more code
    return jobs, next(job for job in jobs if job.stage == "search")


def run(folder: Path, commands: list[list[str]]) -> list[tuple[int | None, str]]:
    """Run commands of hlrs in one process, one by one; return status (None: hangs) and output."""
    process = FORK.Process(target=_run, args=(str(folder), commands))
    process.start()
    process.join(SECONDS)
    process.kill()
    process.join()
    ended = [json.loads(line) for line in (folder / "ended").read_text().splitlines()]
    (folder / "ended").unlink()
    return [*ended, *[(None, "")] * (len(commands) > len(ended))]


def _run(folder: str, commands: list[list[str]]) -> None:
    from hlrs.cli import main

    tiny.begin(folder)
    with Path("ended").open("w", buffering=1) as ended:
        for command in commands:
            status, output = 0, io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                try:
                    tiny.make() if command == ["workflow"] else main(command)
                except SystemExit as exited:
                    status = int(exited.code or 0)
                except BaseException:
                    traceback.print_exc()
            ended.write(json.dumps([status, output.getvalue()]) + "\n")


def outcomes(case: Case, damage: str, folder: Path, draw: random.Random) -> list[str]:
    """Damage a file of a run and run its commands; return how each ended, faults in capitals."""
    expected = tiny.contents(folder)
    for source, target in (case.put or {}).items():
        if not target:
            shutil.rmtree(folder / source)
        else:
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            (folder / source).rename(folder / target)
    path = folder / case.path
    sound = path.read_bytes()
    DAMAGES[damage](path, draw)
    same = path.is_file() and path.read_bytes().strip() == sound.strip() and sound[:1] == b"{"
    harmless = {"made again"} if same else set()  # JSON without its last line break
    ended = run(folder, [command for command, _ in case.commands])
    found = [
        _outcome(case, command, allowed | harmless, status, output)
        for (command, allowed), (status, output) in zip(case.commands, ended, strict=False)
    ]
    left, target = tiny.contents(folder), case.path.removeprefix(f"{ASIDE}/")
    wrong = [n for n in expected if n in left and left[n] != expected[n] and n != target]
    remade = case.commands[-1][0] != ["audit"] and ended[-1][0] == 0
    missing = [n for n in expected if remade and left.get(n) != expected[n]]
    return found + [f"OTHER BYTES: {name}" for name in {*wrong, *missing}]


def _outcome(case: Case, command: list[str], allowed: set[str], status: int | None, output: str) -> str:
    """How a command ended."""
    if status is None:
        return f"HANGS: {command}"
    if any(sign in output for sign in tiny.FAULTS):
        return f"BUG: {command}: {output[-1500:]}"
    if command == ["audit"]:
        named = [line for line in output.splitlines() if "broken" in line]
        seen = any(case.path.removeprefix(f"{ASIDE}/") in line for line in named)
        return "found" if status and seen else f"MISSED: {output[-500:]}"
    how = "refused" if status else "made again"
    lines = [line for line in output.splitlines() if line.startswith("hlrs: ") and "set aside" not in line]
    if how not in allowed or (how == "refused" and len(lines) != 1):
        return f"{how.upper()}: {command}: {output[-500:]}"
    return how


def damage_loop(count: int | None, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the kind of each case, and how its commands ended."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as made:
        whole = Path(made, "whole")
        whole.mkdir()
        every = [(case, damage) for case in cases(*finished(whole)) for damage in DAMAGES]
        for case, damage in draw.sample(every, len(every))[:count]:
            folder = Path(shutil.copytree(whole, Path(made, "damaged")))
            yield f"{case.kind}, {damage}", outcomes(case, damage, folder, draw)
            shutil.rmtree(folder)


def main() -> int:
    """Run the loop; print each fault, and the counts."""
    many, seed = [*sys.argv[1:], *["all", "0"][len(sys.argv) - 1 :]]
    ends: collections.Counter[str] = collections.Counter()
    done = 0
    with contextlib.suppress(KeyboardInterrupt):  # what was counted is printed
        for kind, ended in damage_loop(None if many == "all" else int(many), int(seed)):
            done += 1
            for how in ended:
                ends[how.split(":")[0]] += 1
                if how != how.lower():
                    print(f"{kind}: {how}", flush=True)
    print(f"{done} cases of damage, seed {seed}: {dict(ends)}")
    return int(any(how.isupper() for how in ends))


if __name__ == "__main__":
    sys.exit(main())
