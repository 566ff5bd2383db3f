"""The package's code: which of it a stage runs, a digest of that, and what is defined where.

Read from this checkout or from a commit of it, so that a recorded digest can be checked and a change named.
"""

import ast
import functools
import hashlib
import io
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
DECLARATIVE = {
    "hlrs.config",
    "hlrs.errors",
}  # what they allow is in the key where it is asked for
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Code:
    """Modules of `hlrs` and the templates beside them; `files`: path below the package -> content."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self._trees: dict[str, ast.Module] = {}
        self._digests: dict[str, str] = {}

    def digest(self, stage: str) -> str:
        """SHA-256 over every module that a stage imports, transitively.

        Over their syntax trees, so that comments, docstrings and layout do not count, spelled alike by every
        Python version.
        """
        if stage not in self._digests:
            lines = [f"{name} {self._module_digest(name)}" for name in self._modules(stage)]
            self._digests[stage] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return self._digests[stage]

    def definitions(self, stage: str) -> dict[str, str]:
        """Digest of every function, method and template that the stage's digest covers.

        By its name below `hlrs`: nas.bilevel.Bilevel.step; nas.bilevel is what stands in no function there.
        """
        found: dict[str, str] = {}
        for module in self._modules(stage):
            name = module.removeprefix("hlrs.")
            found.update(_definitions(name, self._tree(module)))
            found.update(
                (file, hashlib.sha256(self.files[file]).hexdigest()) for file in self._beside(module)
            )
        return found

    def _modules(self, stage: str) -> list[str]:
        """The names of the modules that a stage runs, in order."""
        found, pending = set(), [f"hlrs.stages.{stage}"]
        while pending:
            name = pending.pop()
            if name not in found and self._path(name):
                found.add(name)
                pending.extend(self._imports(name))
        return sorted(found - DECLARATIVE)

    def _path(self, name: str) -> str | None:
        """The file of a module of `hlrs`, None if there is none (or it is a package's `__init__`)."""
        path = "/".join(name.split(".")[1:]) + ".py"
        return path if name.startswith("hlrs.") and path in self.files else None

    def _tree(self, name: str) -> ast.Module:
        if name not in self._trees:
            self._trees[name] = ast.parse(self.files[str(self._path(name))])
        return self._trees[name]

    def _imports(self, name: str) -> set[str]:
        """The modules that a module names in import statements, also those inside functions."""
        names: set[str] = set()
        for node in ast.walk(self._tree(name)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        return {name for name in names if self._path(name)}

    def _beside(self, name: str) -> list[str]:
        """The templates of a module's name beside it."""
        stem = str(self._path(name)).removesuffix("py")
        return sorted(
            f for f in self.files if f.startswith(stem) and f.endswith(".j2") and "/" not in f[len(stem) :]
        )

    def _module_digest(self, name: str) -> str:
        digest = hashlib.sha256()
        for token in _tokens(self._tree(name)):
            digest.update(token.encode() + b"\0")
        for file in self._beside(name):
            digest.update(self.files[file])
        return digest.hexdigest()


@functools.cache
def here() -> Code:
    """The code of this checkout."""
    paths = [path for pattern in ("*.py", "*.j2") for path in PACKAGE.rglob(pattern)]
    return Code({path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in paths})


def code_digest(stage: str) -> str:
    """The digest of a stage's code in this checkout."""
    return here().digest(stage)


@functools.cache
def committed(commit: str) -> Code | None:
    """The code at a commit; None where Git does not know it."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):
        return None
    command = ["git", "archive", "--format=tar", commit, "."]
    try:
        archive = subprocess.run(command, cwd=PACKAGE, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = [member for member in tar if member.isfile() and member.name.endswith((".py", ".j2"))]
        return Code({file.name.removeprefix("./"): _content(tar, file) for file in files})


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, member.name
    return file.read()


def changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """What differs between two sets of definitions: `name`, `name (new)`, `name (gone)`."""
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return [
        name + ("" if name in old and name in new else " (new)" if name in new else " (gone)")
        for name in names
    ]


# --- syntax trees -------------------------------------------------------------------------------------


def _definitions(name: str, node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, str]]:
    """(name, digest) of each function and class in a body, and of what else stands there."""
    rest: list[Any] = []
    for child in node.body:
        if isinstance(child, FUNCTIONS):
            yield f"{name}.{child.name}", _digest(child)
        elif isinstance(child, ast.ClassDef):
            yield from _definitions(f"{name}.{child.name}", child)
        elif not _is_docstring(child):
            rest.append(child)
    if isinstance(node, ast.ClassDef):
        rest += [*node.bases, *node.keywords, *node.decorator_list]
    if rest:
        yield name, _digest(rest)


def _digest(node: Any) -> str:
    return hashlib.sha256("\0".join(_tokens(node)).encode()).hexdigest()


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
