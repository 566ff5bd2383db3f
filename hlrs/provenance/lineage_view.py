"""A lineage as text: a tree for the terminal, a graph in DOT, differences in words."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hlrs.artifacts.code_digest import SCHEME
from hlrs.artifacts.jobs import FILES, STAGES, abbreviate, search_of
from hlrs.artifacts.records import UNKNOWN, Record
from hlrs.provenance.differences import Comparison, Difference, as_written
from hlrs.provenance.lineage import Lineage, altered, data, directory_of, matches, reads_data, recorded, roots

LISTED = 8  # data files in the tree, definitions in a line; JSON has all of them
MARK = " !"  # behind the key of a job whose files do not match the records
SHORT = 12  # digits of a digest where its full length would be noise

# --- a tree for the terminal --------------------------------------------------------------------------


def tree(lineage: Lineage, width: int) -> Iterator[str]:
    """The lineage as lines: an artifact's job, below it what that job read, and so on; or a table of runs."""
    for target in lineage.targets:
        yield f"{target}{_state(lineage, target)}"
        yield f"  sha256 {recorded(lineage, target) or UNKNOWN}"
    yield ""
    shared = _shared(lineage)
    # a network that was trained on has two retrainings
    stages = (r.stage for r in lineage.records.values() if "/" in r.run and r.stage != "retrain")
    runs = Counter(stages)
    if max(runs.values(), default=0) > 1:
        yield from _table(lineage)
    else:
        shown_params = _first_shown(lineage)
        shown: set[str] = set()
        for directory in dict.fromkeys(map(directory_of, lineage.targets)):
            for line in _branch(lineage, directory, shown_params, shared, shown):
                yield from _wrapped(line, width)
    yield ""
    jobs = len(lineage.records)
    yield f"Shared by all {jobs} jobs:" if jobs > 1 else "It ran with:"
    for name, value in shared.items():
        yield from _wrapped(f"  {name:8} {value}", width, 11)


def _wrapped(line: str, width: int, indent: int | None = None) -> list[str]:
    """Wrap a line, its continuation below the text and beside the same branches."""
    text = line.lstrip(" │├└─")
    stem = line[: len(line) - len(text)]
    hanging = stem.translate(str.maketrans("├└─", "│  ")) + "  " if indent is None else " " * indent
    return textwrap.wrap(text, width, initial_indent=stem, subsequent_indent=hanging, break_on_hyphens=False)


def _state(lineage: Lineage, path: str) -> str:
    return {True: "", False: "  ! the file here has other bytes", None: "  (not here)"}[
        matches(lineage, path)
    ]


def _shared(lineage: Lineage) -> dict[str, str]:
    """The environment that all jobs share."""
    every = [record.environment() for record in lineage.records.values()]
    return {name: every[0][name] for name in every[0] if len({facts[name] for facts in every}) == 1}


def _first_shown(lineage: Lineage) -> dict[str, dict[str, Any]]:
    """Folder -> its parameters, without the groups that a job before it shares."""
    seen: set[str] = set()
    shown_params: dict[str, dict[str, Any]] = {}
    for directory, record in sorted(lineage.records.items(), key=lambda item: STAGES.index(item[1].stage)):
        params = as_written(record.params)
        groups = {n: json.dumps({n: v}) for n, v in params.items() if isinstance(v, dict)}
        hidden = {name for name, group in groups.items() if group in seen} | {"content"}
        shown_params[directory] = {name: value for name, value in params.items() if name not in hidden}
        seen.update(groups.values())
    return shown_params


def _branch(
    lineage: Lineage,
    directory: str,
    shown_params: dict[str, dict[str, Any]],
    shared: dict[str, str],
    shown: set[str],
) -> Iterator[str]:
    """The lines of a job and, with their branches, of everything before it."""
    if directory in lineage.missing:
        yield f"! no record: {directory}/provenance.json is missing"
        return
    shown.add(directory)
    record = lineage.records[directory]
    yield _headline(record)
    for name, value in record.environment().items():
        if name not in shared:
            yield f"  {name} {value}"
    if words := parameters(shown_params[directory]):
        yield f"  {words}"
    sources = lineage.sources(directory)
    for folder, read in sources.items():
        last = folder == [*sources][-1]
        first, *rest = _artifacts(lineage, folder, read, folder in shown)
        yield f"{'└' if last else '├'}─ {first}"
        branch = () if folder in shown else _branch(lineage, folder, shown_params, shared, shown)
        yield from (f"{'   ' if last else '│  '}{line}" for line in (*rest, *branch))
    if reads_data(record):
        yield from _data_lines(directory, record)


def _headline(record: Record) -> str:
    """Stage, key, time, SLURM job, resumes: what a job's record begins with."""
    parts = [f"{record.stage} {record.key}", f"code {record.code.removeprefix(SCHEME)[:SHORT]}"]
    parts += [] if record.seconds is None else [f"{record.seconds:.1f} s"]
    parts += [f"{record.ended[:16].replace('T', ' ')} UTC"]
    parts += [f"SLURM job {record.slurm_job}"] if record.slurm_job else []
    parts += [f"resumed {record.resumes}×"] if record.resumes else []
    return " · ".join(parts)


def _artifacts(lineage: Lineage, folder: str, read: dict[str, str], shown: bool) -> list[str]:
    """The files that a job read of a folder, with their digests; by name alone if shown above."""
    odd = {name for name, digest in read.items() if recorded(lineage, f"{folder}/{name}") != digest}
    if shown and not odd:
        return [f"{', '.join(read)}  (above)"]
    wide = max(map(len, read))
    return [
        f"{name:{wide}}  sha256 {digest}{_state(lineage, f'{folder}/{name}')}"
        + ("  ! not as in its own record" if name in odd else "")
        for name, digest in read.items()
    ]


def _data_lines(directory: str, record: Record) -> Iterator[str]:
    """The leaves: data files."""
    files = data(directory, record)
    total = sum(file["bytes"] for file in files)
    source = record.params.get("source")
    origin = f"a source {source['kind']}" if source else "evaluate.table"
    if record.start is not None:
        origin = f"retrain.start (classifier {record.start['classifier']})"
    yield f"└─ data: {len(files)} file{'s' * (len(files) != 1)} of {origin}, {total:,} bytes"
    for file in files[:LISTED]:
        yield f"     {file['path'] or file['name']}"
        yield f"       sha256 {file['sha256']}"
    if len(files) > LISTED:
        yield f"     … and {len(files) - LISTED} more: {directory}/{FILES}"


def parameters(shown_params: dict[str, Any]) -> str:
    """'seed 0; searcher: darts, order 1; search: epochs 12, weights.lr 0.05, …'."""
    groups = []
    for name, value in shown_params.items():
        inner = ", ".join(_flat(value))
        groups.append(f"{name}: {inner}" if isinstance(value, dict) else f"{name} {inner}")
    return "; ".join(groups)


def _flat(value: Any, path: str = "") -> Iterator[str]:
    """'path value' of every entry; a kind stands for the mapping that it is of."""
    if not isinstance(value, dict):
        yield f"{path} {value if isinstance(value, str) else json.dumps(value)}".strip()
        return
    if "kind" in value:
        yield f"{path} {value['kind']}".strip()
    for name, entry in value.items():
        if name not in ("kind", "content"):
            yield from _flat(entry, f"{path}.{name}" if path else name)


def _table(lineage: Lineage) -> Iterator[str]:
    """One line per run with the keys of its jobs; a retraining's with those of its search.

    Keys of jobs whose files do not match the records are marked.
    """
    marked = {record.key for folder, record in lineage.records.items() if altered(lineage, folder)}
    rows: dict[str, dict[str, str]] = {}
    for record in lineage.records.values():
        if "/" in record.run:
            rows.setdefault(record.run, {})[record.stage] = record.key
    for run, keys in rows.items():
        found = rows.get(search_of(run), {})
        keys |= {stage: found[stage] for stage in ("search", "extract", "lookup") if stage in found}
    shared = {record.run: record.key for _, record in roots(lineage) if record.stage == "split"}
    wide = max(map(len, rows))
    for run, keys in rows.items():
        keys["split"] = shared.get(run.split("/")[0], "")
    stages = [stage for stage in STAGES if any(stage in keys for keys in rows.values())]
    column = SHORT + len(MARK)
    yield " " * wide + "".join(f"  {stage:{column}}" for stage in stages).rstrip()
    for run, keys in sorted(rows.items()):
        cells = [key + MARK * (key in marked) for key in (keys.get(stage, "") for stage in stages)]
        yield f"{run:{wide}}" + "".join(f"  {cell:{column}}" for cell in cells).rstrip()
    yield ""
    if marked:
        yield f"{MARK.strip()} its files do not match the records; `hlrs audit` names them"
    yield f"`hlrs lineage {min(rows)}` shows one of them in full, --json all of them."


# --- differences in words -----------------------------------------------------------------------------


def since(found: list[Difference], revision: str, width: int) -> Iterator[str]:
    """What differs since a revision; runs with the same differences share an entry."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for difference in found:
        if not difference.same:
            groups.setdefault((difference.stage, tuple(words(difference))), []).append(difference.run)
    count = sum(map(len, groups.values()))
    yield f"{count} of {len(found)} jobs differ from those at {revision}{':' if groups else ''}"
    for (stage, said), runs in groups.items():
        yield ""
        yield f"{stage} {abbreviate(runs)}"
        for entry in said:
            yield from textwrap.wrap(
                entry, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )


def words(difference: Difference) -> Iterator[str]:
    """Parameters, data, code, inputs, environment and bytes that differ, each in a few words."""
    comparison = difference.comparison
    if comparison is None:
        yield "new: there was no such job"
        return
    yield from compared(comparison, difference.definitions)
    if comparison.inputs:
        yield f"from other results: {_some(comparison.inputs)}"
    for name, (old, new) in difference.environment.items():
        yield f"{name} {_shortened(name, old)} -> {_shortened(name, new)}"
    yield f"other bytes: {_some(difference.outputs)}" if difference.outputs else "output bytes unchanged"


def compared(comparison: Comparison, definitions: list[str]) -> Iterator[str]:
    """Parameters, data and code that differ; `definitions`: of the code, empty if unknown."""
    yield from map(str, comparison.changes)
    if comparison.data:
        yield "data files changed"
    if comparison.code:
        yield _code(definitions)


def _code(definitions: list[str]) -> str:
    """Name the definitions of a stage's code that changed."""
    if not definitions:
        return "code changed; the earlier code was not committed, so its differences are unknown"
    return f"code changed: {_some(definitions)}"


def _some(names: list[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _shortened(name: str, value: str) -> str:
    return value[:SHORT] if name in ("commit", "lock") and "+" not in value else value


# --- a graph ------------------------------------------------------------------------------------------


def dot(lineage: Lineage) -> str:
    """The lineage in Graphviz's language, data on the left."""
    lines = ["digraph lineage {", '  rankdir=LR; node [shape=box, fontname="monospace", fontsize=10];']
    lines += ['  edge [fontname="monospace", fontsize=9];']
    for directory, record in lineage.records.items():
        lines.append(f"  {_quoted(directory)} [label={_quoted(*_label(record))}];")
        for folder, names in lineage.sources(directory).items():
            lines.append(f"  {_quoted(folder)} -> {_quoted(directory)} [label={_quoted(*names)}];")
    for directory, record in roots(lineage):
        node = _quoted(f"data of {directory}")
        lines.append(f"  {node} [shape=cylinder, label={_quoted(*_data_label(directory, record))}];")
        lines.append(f"  {node} -> {_quoted(directory)};")
    return "\n".join([*lines, "}"])


def _quoted(*lines: str) -> str:
    text = "\n".join(lines).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\n", "\\n") + '"'


def _label(record: Record) -> list[str]:
    """The lines of a job's box."""
    outputs = [f"{name} {digest[:SHORT]}" for name, digest in record.outputs.items()]
    more = [f"… {len(outputs) - 3} more"] if len(outputs) > 3 else []
    facts = record.key if record.seconds is None else f"{record.key} · {record.seconds:.1f} s"
    return [f"{record.stage} {record.run}", facts, *outputs[:3], *more]


def _data_label(directory: str, record: Record) -> list[str]:
    files = data(directory, record)
    shown = [f"{file['name'][-18:]} {file['sha256'][:SHORT]}" for file in files[:3]]
    return [f"data of {record.run}", f"{sum(f['bytes'] for f in files):,} bytes", *shown]
