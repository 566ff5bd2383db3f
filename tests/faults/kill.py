"""The kill loop: a workflow that is killed again and again ends in the bytes of an undisturbed one.

    python -m tests.faults.kill [KILLS [SEED]]
    python -m tests.faults.kill --snakemake [KILLS [SEED]]
    python -m tests.faults.kill --power [CUTS [SEED]]

runs a tiny matrix that is killed (SIGKILL) at random moments, begins the next one when it ends, and prints
the outcome after KILLS kills (default 200). `--snakemake` does so with Snakemake in a checkout, whose jobs a
kill spares at random. `--power` cuts the power instead: it copies the folder of a running workflow, tears in
the copy what was not synced, and lets the copy run to its end (default 20 cuts). Exit status 1 if bytes
differ, the audit finds a break, or a log shows a bug.
"""

import collections
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from hlrs.artifacts.jobs import CHECKPOINTS
from tests.faults import power, tiny

METHODS = ("darts", "hlrs")


class Snakemake:
    """A running `snakemake`, as `multiprocessing` shows a process; `kill` spares its jobs at random."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        from tests.pipeline.test_workflow import environment

        self.draw, self.log = draw, (folder / "log").open("a")
        command = ["snakemake", "--cores", "1", "--quiet", "rules", "host"]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder),
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def join(self, timeout: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)

    @property
    def exitcode(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        if self.draw.random() < 0.3:
            self.process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def until_it_ends(start: Callable[[], object], kills: int, draw: random.Random, longest: float) -> int:
    """Start a workflow, and again after each of at most `kills` kills, until it ends; return the kills."""
    for done in range(kills + 1):
        process = start()
        process.join(draw.uniform(0.0, longest) if done < kills else tiny.SECONDS)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
    assert process.exitcode == 0, f"exit status {process.exitcode} after {done} kills"
    return done


def differences(folder: Path, expected: dict[str, str]) -> list[str]:
    """What a finished workflow has that it must not have, each in one line."""
    found = tiny.contents(folder)
    wrong = [f"{name}: other bytes" for name in expected if found.get(name) != expected[name]]
    more = [f"{name}: one too many" for name in found.keys() - expected.keys()]
    left = [str(path) for path in (folder / CHECKPOINTS).glob("*")]
    temporary = [str(path) for path in (folder / "results").glob("[!.]*/**/.*.tmp")]
    return [*wrong, *more, *left, *temporary, *tiny.broken(folder), *tiny.faults(folder)]


def kill_loop(kills: int, seed: int, longest: float = 2.0) -> Iterator[tuple[int, list[str]]]:
    """Yield how often each matrix was killed before it ended, and what was wrong with it then."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as made:
        tiny.write_params(Path(made), *METHODS)
        tiny.warm(Path(made))
        tiny.finish(Path(made))
        expected = tiny.contents(Path(made))
    while kills > 0:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            tiny.write_params(folder, *METHODS)
            done = until_it_ends(partial(tiny.start, folder), kills, draw, longest)
            yield done, differences(folder, expected)
        kills -= done


def snakemake_loop(kills: int, seed: int, longest: float = 30.0) -> Iterator[tuple[int, list[str]]]:
    """As `kill_loop`, with Snakemake in a checkout of this working tree."""
    from tests.pipeline.test_workflow import checkout

    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as made:
        clean = Path(made, "clean")
        clean.mkdir()
        checkout(clean)
        tiny.write_params(clean, *METHODS)
        undisturbed = Path(shutil.copytree(clean, Path(made, "undisturbed")))
        until_it_ends(partial(Snakemake, undisturbed, draw), 0, draw, longest)
        expected = tiny.contents(undisturbed)
        for number in range(kills):
            folder = Path(shutil.copytree(clean, Path(made, str(number))))
            done = until_it_ends(partial(Snakemake, folder, draw), kills, draw, longest)
            yield done, differences(folder, expected)
            kills -= done
            if kills <= 0:
                break


def power_loop(cuts: int, seed: int) -> Iterator[tuple[int, list[str]]]:
    """Yield, for each power cut, how many files it tore or lost, and what was wrong in the end."""
    draw = random.Random(seed)
    while cuts > 0:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made, "running")
            folder.mkdir()
            tiny.write_params(folder, *METHODS)
            tiny.warm(folder)
            copies = [*power.copies(folder, Path(made), draw)]
            expected = tiny.contents(folder)
            for copy, torn, lost in draw.sample(copies, min(cuts, len(copies))):
                damaged = power.cut(copy, torn, lost, draw)
                wrong = power.start_again(copy)
                yield damaged, [*wrong, *differences(copy, expected)]
        cuts -= len(copies)


def main() -> int:
    """Run a loop; print each matrix that went wrong, and the counts."""
    loop, arguments = kill_loop, sys.argv[1:]
    if arguments and arguments[0].startswith("--"):
        loop = {"--snakemake": snakemake_loop, "--power": power_loop}[arguments.pop(0)]
    default = ["20" if loop is power_loop else "200", "0"]
    count, seed = (int(given) for given in [*arguments, *default[len(arguments) :]])
    ends: collections.Counter[str] = collections.Counter()
    total = 0
    with contextlib.suppress(KeyboardInterrupt):  # what was counted is printed
        for number, (done, wrong) in enumerate(loop(count, seed)):
            total += done
            ends["wrong" if wrong else "same bytes"] += 1
            for line in wrong:
                print(f"{number}: {line}", flush=True)
    what = "files torn or lost" if loop is power_loop else "kills"
    print(f"{loop.__name__}, seed {seed}: {total} {what} in {ends.total()} workflows: {dict(ends)}")
    return int(ends["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
