"""Digests of what a result depends on besides its parameters: its stage's code, the bytes of its data."""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hlrs.config import Digits, ImageFolder, Parquet, Source, Torchvision
from hlrs.data.sources import IMAGE_SUFFIXES, digits_file
from hlrs.errors import UserError

PACKAGE = Path(__file__).parent
DECLARATIVE = {
    "hlrs.config",
    "hlrs.errors",
}  # what they allow is in the key where it is asked for
MEMORY = Path(".hlrs/digests.json")


# --- code ---------------------------------------------------------------------------------------------


@functools.cache
def code_digest(stage: str) -> str:
    """SHA-256 over every module of `hlrs` that a stage imports, transitively.

    Over their syntax trees, so that comments, docstrings and layout do not count, spelled alike by every
    Python version.
    """
    modules = sorted(_reachable(f"hlrs.stages.{stage}"))
    lines = [f"{name} {_module_digest(name)}" for name in modules if name not in DECLARATIVE]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _reachable(start: str) -> set[str]:
    """The names of all modules of `hlrs` that `start` imports, itself included."""
    found, pending = set(), [start]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending.extend(_imports(name))
    return found


def module_path(name: str) -> Path | None:
    """The file of a module of `hlrs`, None if there is no such module (or it is a package's `__init__`)."""
    path = PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")
    return path if name.startswith("hlrs.") and path.is_file() else None


@functools.cache
def _parsed(name: str) -> ast.Module:
    path = module_path(name)
    assert path is not None, name
    return ast.parse(path.read_text())


@functools.cache
def _imports(name: str) -> tuple[str, ...]:
    """The modules of `hlrs` that a module names in import statements, also those inside functions."""
    names: list[str] = []
    for node in ast.walk(_parsed(name)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(sorted({n for n in names if module_path(n)}))


@functools.cache
def _module_digest(name: str) -> str:
    """Digest of a module and of the templates of its name beside it."""
    path = module_path(name)
    assert path is not None, name
    digest = hashlib.sha256()
    for token in _tokens(_parsed(name)):
        digest.update(token.encode() + b"\0")
    for beside in sorted(path.parent.glob(f"{path.stem}.*.j2")):
        digest.update(beside.read_bytes())
    return digest.hexdigest()


def _tokens(node: Any) -> Iterator[str]:
    """A syntax tree, spelled out without empty fields: Python versions differ in which they have."""
    if isinstance(node, list):
        yield "["
        for item in node:
            yield from _tokens(item)
        yield "]"
    elif isinstance(node, ast.AST):
        yield type(node).__name__
        for field, value in ast.iter_fields(node):
            if field == "body" and isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ):
                value = [statement for statement in value if not _is_docstring(statement)]
            if value not in (None, []) and field not in ("ctx", "kind", "type_comment", "type_ignores"):
                yield field
                yield from _tokens(value)
    else:
        yield repr(node)


def _is_docstring(statement: ast.stmt) -> bool:
    """A bare string: it acts on nothing, wherever it stands."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


# --- data ---------------------------------------------------------------------------------------------


def content_digest(source: Source) -> str:
    """Digest of a source's content: its name where torchvision verifies what it downloads, else of the files.

    A file that DVC tracks answers with the hash in its `.dvc` pointer. Raises UserError for a missing file.
    """
    if isinstance(source, Torchvision):
        return f"torchvision:{source.name}"
    memory = _Memory()
    lines = [f"{name} {memory.digest(path)}" for name, path in source_files(source)]
    memory.save()
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a large file, remembered from one start to the next. Raises UserError if it is missing."""
    memory = _Memory()
    digest = memory.sha256(path)
    memory.save()
    return digest


def source_files(source: Digits | Parquet | ImageFolder) -> list[tuple[str, Path]]:
    """(name within the source, path) of every file that a source reads, in a fixed order.

    Names, not paths, enter the digest, so that a data set may lie elsewhere on another machine. Raises
    UserError for an empty or missing folder.
    """
    if isinstance(source, Digits):
        return [("digits", digits_file())]
    if isinstance(source, Parquet):
        return [
            (f"{part}/{i}", Path(p))
            for part in ("train", "test")
            for i, p in enumerate(getattr(source, part))
        ]
    trees = {"train": source.train} | ({"test": source.test} if source.test else {})
    return [entry for part, root in trees.items() for entry in _tree(part, Path(root))]


def _tree(part: str, root: Path) -> list[tuple[str, Path]]:
    """The images of a folder tree, or its `.dvc` pointer alone where DVC tracks the folder whole."""
    if _pointer(root).is_file():
        return [(part, root)]
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; image_folder needs a folder a class below it")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{root}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [(f"{part}/{path.relative_to(root)}", path) for path in files]


def _pointer(path: Path) -> Path:
    return path.with_name(path.name + ".dvc")


class _Memory:
    """SHA-256 of files, remembered by path, size and time of change: a start does not read 100 GB again."""

    def __init__(self) -> None:
        try:
            self.known: dict[str, list[Any]] = json.loads(MEMORY.read_text())
        except (OSError, ValueError):
            self.known = {}
        self.changed = False

    def digest(self, path: Path) -> str:
        pointer = _pointer(path)
        if pointer.is_file():
            return str(yaml.safe_load(pointer.read_text())["outs"][0]["md5"])
        return self.sha256(path)

    def sha256(self, path: Path) -> str:
        try:
            status = path.stat()
            entry = self.known.get(str(path.resolve()))
            if entry is None or entry[:2] != [status.st_size, status.st_mtime_ns]:
                entry = [status.st_size, status.st_mtime_ns, sha256(path)]
                self.known[str(path.resolve())] = entry
                self.changed = True
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; it is named as a data file in the params") from None
        return str(entry[2])

    def save(self) -> None:
        if self.changed:
            from hlrs.artifacts import write_json

            write_json(MEMORY, self.known)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
