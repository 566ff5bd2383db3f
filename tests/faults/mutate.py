"""Mutants of params.yaml: what a slip, a bad template or a bad disk makes of it.

    python -m tests.faults.mutate [COUNT [SEED]]

plans COUNT mutants of the shipped params.yaml (default 5000) and prints how they end: in a sound plan, or in
one line. Exit status 1 if any ends otherwise, or takes longer than `SECONDS`.
"""

import collections
import contextlib
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hlrs.config.params import load
from hlrs.errors import UserError
from hlrs.pipeline import plan
from hlrs.pipeline.memory import LARGEST_GPU, Room
from hlrs.pipeline.preflight import check_splits, check_trainings

SHIPPED = Path(__file__).parents[2] / "params.yaml"
SECONDS = 20.0  # of the processor, that a file may take at most
EXTREMES = [
    "0", "-1", "1", "2", "3", "7", "0.5", "-0.0", "1e-300", "1e300", "1e999", ".inf", "-.inf", ".nan",
    "2147483648", "9223372036854775807", "9223372036854775808", "9" * 5000, "0x" + "f" * 5000, "0o17", "010",
    "1_000", "1:30", "2001-99-99", "2020-01-01", "true", "null", "~", '""', "[]", "{}", "[[[]]]",
    "{a: {b: 1}}", "yes", "=", "<<", "!!int abc", "!!timestamp x", "!!binary abc", "!!set {1}",
    "!!python/name:os.system",
    '"\\0"', '"\\ud800"', '"../../etc/passwd"', "a/b", "/dev/zero", "x" * 300, "ä" * 5000, "*a", "&a 1",
    "|", ">", "[" * 3000, "{a: " * 3000, '"unclosed', "'", "@", "`", "%", "- 1", "? 1",
    "16", "100000", "4096",
]  # fmt: skip
LAUGHS = "".join(f"a{n}: &a{n} [{', '.join(['*a' + str(n - 1)] * 10)}]\n" for n in range(1, 12))
MERGES = "".join(f"a{n}: &a{n} {{<<: [{', '.join(['*a' + str(n - 1)] * 10)}]}}\n" for n in range(1, 12))


def _in_lines(change: Callable[[list[str], random.Random], object]) -> Callable[[str, random.Random], bytes]:
    def mutate(text: str, draw: random.Random) -> bytes:
        lines = text.splitlines(keepends=True)
        change(lines, draw)
        return "".join(lines).encode(errors="surrogatepass")

    return mutate


def _drop(lines: list[str], draw: random.Random) -> None:
    del lines[draw.randrange(len(lines))]


def _repeat(lines: list[str], draw: random.Random) -> None:
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))


def _indent(lines: list[str], draw: random.Random) -> None:
    number = draw.randrange(len(lines))
    lines[number] = draw.choice([" ", "\t", "      "]) + lines[number]


def _replace_value(lines: list[str], draw: random.Random) -> None:
    places = [
        (number, *place.span())
        for number, line in enumerate(lines)
        for place in re.finditer(r"(?<=[:,\[] )[^\s,{}\[\]#]+|(?<=\[)[^\s,\]]+", line)
    ]
    for number, start, end in draw.sample(places, draw.choice([1, 1, 1, 2])):
        lines[number] = lines[number][:start] + draw.choice(EXTREMES) + lines[number][end:]


def _rename_key(lines: list[str], draw: random.Random) -> None:
    number = draw.randrange(len(lines))
    name = draw.choice(["x", "kind", "<<", "1", "retrain", "n" * 300, "..", "a b", "é"])
    lines[number] = re.sub(r"\w+(?=:)", name, lines[number], count=1)


def _flip(text: str, draw: random.Random) -> bytes:
    content = bytearray(text.encode())
    for _ in range(draw.choice([1, 1, 3, 20])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def _cut(text: str, draw: random.Random) -> bytes:
    return text.encode()[: draw.randrange(len(text))]


def _insert(text: str, draw: random.Random) -> bytes:
    strange = [
        b"\0",
        b"\xff",
        b"\xc3",
        b"\r",
        b"\t",
        b"\x1b",
        b"\xe2\x80\xa8",
        b"\xef\xbb\xbf",
        b"*a",
        b"&a ",
        b"%",
    ]
    content, place = text.encode(), draw.randrange(len(text))
    return content[:place] + draw.choice(strange) + content[place:]


def _encode(text: str, draw: random.Random) -> bytes:
    encoding = draw.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
    return text.replace("Long-tailed", "Länge", 1).encode(encoding)


def _alias(text: str, draw: random.Random) -> bytes:
    recursive = "methods: &m\n  darts:\n    searcher: {kind: darts}\n    retrain: {weights: *m}\n"
    start = draw.choice(
        ["a0: &a0 [x]\n" + LAUGHS, "a0: &a0 {x: 1}\n" + MERGES, "a: &a {<<: *a}\n", "a: &a [*a]\n"]
    )
    return draw.choice(
        [start + text, start, re.sub(r"methods:\n", recursive, text.replace("matrix:", "x:", 1))]
    ).encode()


MUTATIONS: dict[str, Callable[[str, random.Random], bytes]] = {
    "value": _in_lines(_replace_value),
    "bits": _flip,
    "dropped line": _in_lines(_drop),
    "repeated line": _in_lines(_repeat),
    "indented line": _in_lines(_indent),
    "shuffled lines": _in_lines(lambda lines, draw: draw.shuffle(lines)),
    "key": _in_lines(_rename_key),
    "cut": _cut,
    "strange byte": _insert,
    "encoding": _encode,
    "alias": _alias,
}  # fmt: skip
WEIGHTS = [60, 20, 10, 10, 10, 2, 10, 5, 10, 3, 3]


def mutants(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield the kind and the bytes of mutants, the same for a seed."""
    text, draw = SHIPPED.read_text(encoding="utf-8"), random.Random(seed)
    for kind in draw.choices([*MUTATIONS], WEIGHTS, k=count):
        yield kind, MUTATIONS[kind](text, draw)


def outcome(content: bytes) -> str:
    """Plan a params file in the current folder as Snakemake's start does: "plan", "one line", or else."""
    path, started = Path("params.yaml"), time.process_time()
    path.write_bytes(content)
    try:
        jobs = plan.plan(load(path))
        check_trainings(jobs, check_splits(jobs, print), lambda job: Room(LARGEST_GPU, "the largest GPU"))
        ended = "plan"
    except UserError as error:
        ended = (
            "one line" if len(str(error).splitlines()) == 1 and len(str(error)) < 1500 else f"long: {error}"
        )
    except Exception as error:  # what a mutant must not cause
        ended = f"{type(error).__name__}: {error}"
    return ended if time.process_time() - started < SECONDS else f"too slow, then {ended}"


def main() -> int:
    """Plan many mutants; print the outcomes, and the file of each that ends in neither."""
    count, seed = (int(given) for given in [*sys.argv[1:], *["5000", "0"][len(sys.argv) - 1 :]])
    outcomes: collections.Counter[str] = collections.Counter()
    kept = Path(tempfile.mkdtemp(prefix="mutants."))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, (kind, content) in enumerate(mutants(count, seed)):
            ended = outcome(content)
            outcomes[ended if ended in ("plan", "one line") else "neither"] += 1
            if ended not in ("plan", "one line"):
                (kept / f"{number}.yaml").write_bytes(content)
                print(f"{kept / str(number)}.yaml ({kind}): {ended[:300]}")
    print(f"{count} mutants of seed {seed}: {dict(outcomes)}")
    if not outcomes["neither"]:
        kept.rmdir()
    return int(outcomes["neither"] > 0)


if __name__ == "__main__":
    sys.exit(main())
