"""The package's code: which definitions a job's parameters ask for, and a digest of these.

From a stage's `run`, names are followed to functions, classes and constants, wherever they are defined. What
they are is digested, not where: moving a module, reordering imports or editing a docstring changes nothing.
Of a table of kinds (`hlrs.config.base.Kinds`) only the entries count whose specs the parameters hold: a new
kind leaves finished jobs alone. What cannot change a result is left out: `hlrs.config`, whose contents are in
a job's key as far as they were asked for, errors, and what names, shows and stops a job.

Read from this checkout or from a commit of it, so that a recorded digest can be checked and a change named.
"""

import ast
import functools
import hashlib
import io
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hlrs.config.base import Spec

PACKAGE = Path(__file__).parents[1]
SCHEME = "2:"  # before a digest: what is digested, and how; another scheme's digests cannot be compared
LEFT_OUT = (
    "hlrs.config",
    "hlrs.errors",
    "hlrs.artifacts.jobs",
    "hlrs.training.progress",
    "hlrs.training.signals",
    "hlrs.training.startup",
)
TABLE = "Kinds"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign)

Name = tuple[str, str]  # module, name in it; name "" is the module itself


@dataclass
class Module:
    """A module's top level: definitions by name, imports by name, and statements that are neither."""

    name: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)  # local name -> dotted name
    loose: list[ast.stmt] = field(default_factory=list)


class Code:
    """Modules of `hlrs` and the templates beside them; `files`: path below the package -> content."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self._modules: dict[str, Module] = {}
        self._asked: dict[tuple[str, frozenset[str]], list[Name]] = {}
        self._used: dict[tuple[Name, frozenset[str]], list[Name]] = {}
        self._meanings: dict[tuple[Name, frozenset[str]], dict[ast.AST, str]] = {}
        self._read: dict[tuple[Name, frozenset[str]], list[ast.Attribute]] = {}
        self._digests: dict[tuple[Name, frozenset[str]], str] = {}

    def digest(self, stage: str, params: Spec) -> str:
        """SHA-256 over the definitions that a job of the stage with these parameters asks for.

        Over their syntax trees, so that comments, docstrings and layout do not count, spelled alike by every
        Python version; before it the scheme.
        """
        kinds = _names(specs := specs_of(params))
        names = self._closure(stage, kinds)
        parts = {self._digest(name, kinds) for name in names}
        parts |= {_sha256(self.files[file]) for file in self._templates(names)}
        parts |= self._declared(names, kinds, specs)
        return SCHEME + _sha256("\n".join(sorted(parts)).encode())

    def definitions(self, stage: str, params: Spec) -> dict[str, str]:
        """Digest of every function, method, constant and template that the digest covers.

        By its name below `hlrs`: nas.bilevel.second_order, nas.supernet.Supernet.forward; a class's name
        stands for what is in none of its methods.
        """
        kinds = _names(specs_of(params))
        found: dict[str, str] = {}
        names = self._closure(stage, kinds)
        for module, name in names:
            of = f"{module.removeprefix('hlrs.')}.{name}".rstrip(".")
            for statement in self._statements((module, name)):
                if isinstance(statement, ast.ClassDef):
                    found.update(self._members(of, (module, name), statement))
                else:
                    found[of] = self._digest((module, name), kinds)
        found.update((file, _sha256(self.files[file])) for file in self._templates(names))
        return found

    # --- following names ------------------------------------------------------------------------------

    def _closure(self, stage: str, kinds: frozenset[str]) -> list[Name]:
        """Every definition that the stage's `run` needs, itself included."""
        if (stage, kinds) not in self._asked:
            found: set[Name] = set()
            pending: list[Name] = [(f"hlrs.stages.{stage}", "run")]
            while pending:
                name = pending.pop()
                if name not in found:
                    found.add(name)
                    pending += self._uses(name, kinds)
            self._asked[stage, kinds] = sorted(found)
        return self._asked[stage, kinds]

    def _uses(self, name: Name, kinds: frozenset[str]) -> list[Name]:
        """The definitions that a definition names; its module's loose statements, which run in any case."""
        asked = name, self._relevant(name, kinds)
        if asked not in self._used:
            found = [(name[0], "")] if name[1] and self._module(name[0]).loose else []
            for dotted in self._resolved(name, kinds).values():
                target = self._definition(dotted)
                if target and target[1]:
                    found.append(target)
                elif (
                    target
                ):  # a module that is more than a name's prefix: any of its definitions may be meant
                    found += [(target[0], each) for each in self._module(target[0]).definitions]
            self._used[asked] = found
        return self._used[asked]

    def _resolved(self, name: Name, kinds: frozenset[str]) -> dict[ast.AST, str]:
        """The dotted name of every name in a definition that means a definition or an import."""
        asked = name, self._relevant(name, kinds)
        if asked not in self._meanings:
            parts, imports = self._parts(name, kinds)
            module = self._module(name[0])
            known = {own: f"{module.name}.{own}" for own in module.definitions} | imports
            self._meanings[asked] = {n: dotted for part in parts for n, dotted in self._resolve(part, known)}
        return self._meanings[asked]

    def _declared(
        self, names: Iterable[Name], kinds: frozenset[str], specs: Iterable[type[Spec]]
    ) -> set[str]:
        """The class variables of the parameters' specs that the definitions may read, with their values."""
        read = {node.attr for name in names for node in self._attributes(name, kinds)}
        return {
            f"{spec.__name__}.{variable} = {getattr(spec, variable)!r}"
            for spec in specs
            for variable in read & spec.__class_vars__ & vars(spec).keys()
        }

    def _attributes(self, name: Name, kinds: frozenset[str]) -> list[ast.Attribute]:
        asked = name, self._relevant(name, kinds)
        if asked not in self._read:
            nodes = [node for part in self._parts(name, kinds)[0] for node in ast.walk(part)]
            self._read[asked] = [node for node in nodes if isinstance(node, ast.Attribute)]
        return self._read[asked]

    def _relevant(self, name: Name, kinds: frozenset[str]) -> frozenset[str]:
        """The kinds on which a definition depends: all of them for a table, else none."""
        return kinds if any(map(is_table, self._statements(name))) else frozenset()

    def _parts(self, name: Name, kinds: frozenset[str]) -> tuple[list[ast.AST], dict[str, str]]:
        """What of a definition is asked for, and the imports in its reach."""
        module, statements = self._module(name[0]), self._statements(name)
        parts = [part for statement in statements for part in self._asked_parts(module, statement, kinds)]
        return parts, module.imports | _imports(node for s in statements for node in ast.walk(s))

    def _resolve(
        self, node: ast.AST, known: Mapping[str, str], local: frozenset[str] = frozenset()
    ) -> Iterator[tuple[ast.AST, str]]:
        """(node, dotted name) of every known name, and of every module of `hlrs` or attribute of one.

        `local` are the names of the functions around the node, which hide the module's; what a function
        imports is known, not local.
        """
        if isinstance(node, (*FUNCTIONS, ast.Lambda)):
            inner = local | _locals(node)
            body = node.body if isinstance(node.body, list) else [node.body]
            for part in ast.iter_child_nodes(node):
                yield from self._resolve(part, known, inner if part in body else local)
        elif isinstance(node, ast.Name):
            if node.id in known and node.id not in local:
                yield node, known[node.id]
        elif isinstance(node, ast.Attribute) and (dotted := self._of_module(node, known, local)):
            yield node, dotted
        else:
            for child in ast.iter_child_nodes(node):
                yield from self._resolve(child, known, local)

    def _of_module(self, node: ast.Attribute, known: Mapping[str, str], local: frozenset[str]) -> str:
        """The dotted name of a module of `hlrs` or of what stands in one; empty for any other attribute."""
        dotted = _dotted(node, known, local)
        return dotted if self._path(dotted) or self._path(dotted.rpartition(".")[0]) else ""

    def _definition(self, dotted: str) -> Name | None:
        """The definition, or module, of `hlrs` that a dotted name means; None for other names."""
        if not dotted.startswith("hlrs.") or _is_within(dotted, LEFT_OUT):
            return None
        if self._path(dotted):
            return (dotted, "")
        module, _, name = dotted.rpartition(".")
        if not self._path(module):
            return None
        known = self._module(module)
        return (module, name) if name in known.definitions else self._definition(known.imports.get(name, ""))

    def _statements(self, name: Name) -> list[ast.stmt]:
        module = self._module(name[0])
        return module.definitions[name[1]] if name[1] else module.loose

    def _asked_parts(self, module: Module, statement: ast.stmt, kinds: frozenset[str]) -> list[ast.AST]:
        """A statement; of a table of kinds the values of the kinds that are asked for."""
        if not is_table(statement):
            return [statement]
        assert isinstance(statement, ast.AnnAssign)
        assert isinstance(statement.value, ast.Dict)  # as is_table says
        entries = [
            (_dotted(key, module.imports), value)
            for key, value in zip(statement.value.keys, statement.value.values, strict=True)
        ]
        return [value for key, value in entries if key.rpartition(".")[2] in kinds]

    # --- digesting ------------------------------------------------------------------------------------

    def _digest(self, name: Name, kinds: frozenset[str]) -> str:
        """Digest of a definition by what it is; the kinds matter for tables alone."""
        asked = name, self._relevant(name, kinds)
        if asked not in self._digests:
            tokens = [name[1], *self._tokens(self._parts(name, kinds)[0], self._resolved(name, kinds))]
            self._digests[asked] = _sha256("\0".join(tokens).encode())
        return self._digests[asked]

    def _members(self, of: str, name: Name, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
        """(name, digest) of each method of a class, and of what is in none of them."""
        resolved = self._resolved(name, frozenset())
        rest: list[Any] = [*node.bases, *node.keywords, *node.decorator_list]
        for child in node.body:
            if isinstance(child, FUNCTIONS):
                yield f"{of}.{child.name}", _sha256("\0".join(self._tokens(child, resolved)).encode())
            elif not _is_docstring(child):
                rest.append(child)
        yield of, _sha256("\0".join(self._tokens(rest, resolved)).encode())

    def _tokens(self, node: Any, resolved: Mapping[ast.AST, str]) -> Iterator[str]:
        """A syntax tree spelled out, names as what they mean, wherever that is and whatever it is called.

        Without empty fields: Python versions differ in which they have.
        """
        if isinstance(node, list):
            yield "["
            for item in node:
                yield from self._tokens(item, resolved)
            yield "]"
        elif isinstance(node, ast.AST) and node in resolved:
            found, ours = self._definition(resolved[node]), resolved[node].startswith("hlrs.")
            yield (
                f"{(found and found[1]) or resolved[node].rpartition('.')[2]} of hlrs"
                if ours
                else resolved[node]
            )
        elif isinstance(node, ast.AST):
            yield type(node).__name__
            for name, value in ast.iter_fields(node):
                if name == "body" and isinstance(value, list):
                    value = [s for s in value if not _is_docstring(s) and not isinstance(s, _IMPORTS)]
                if value not in (None, []) and name not in ("ctx", "kind", "type_comment", "type_ignores"):
                    yield name
                    yield from self._tokens(value, resolved)
        else:
            yield repr(node)

    # --- files ----------------------------------------------------------------------------------------

    def _path(self, module: str) -> str | None:
        """The file of a module of `hlrs`, None if there is none (or it is a package's `__init__`)."""
        path = "/".join(module.split(".")[1:]) + ".py"
        return path if module.startswith("hlrs.") and path in self.files else None

    def _module(self, name: str) -> Module:
        if name not in self._modules:
            self._modules[name] = _read(name, ast.parse(self.files[str(self._path(name))]))
        return self._modules[name]

    def _templates(self, names: Iterable[Name]) -> list[str]:
        """The templates beside the modules of these definitions: page.html.j2 beside page.py."""
        stems = [str(self._path(module)).removesuffix("py") for module in {module for module, _ in names}]
        return sorted(
            file
            for file in self.files
            if file.endswith(".j2") and any(file.startswith(s) and "/" not in file[len(s) :] for s in stems)
        )


@functools.cache
def here() -> Code:
    """The code of this checkout."""
    paths = [path for pattern in ("*.py", "*.j2") for path in PACKAGE.rglob(pattern)]
    return Code({path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in paths})


def code_digest(stage: str, params: Spec) -> str:
    """The digest of a job's code in this checkout."""
    return here().digest(stage, params)


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


def specs_of(params: Any) -> frozenset[type[Spec]]:
    """The classes of all specs in a job's parameters."""
    if isinstance(params, Spec):
        return frozenset([type(params)]).union(*(specs_of(value) for _, value in params))
    values = (
        params.values() if isinstance(params, dict) else params if isinstance(params, list | tuple) else ()
    )
    return frozenset[type[Spec]]().union(*map(specs_of, values))


def _names(specs: Iterable[type[Spec]]) -> frozenset[str]:
    return frozenset(spec.__name__ for spec in specs)


# --- syntax trees -------------------------------------------------------------------------------------

_IMPORTS = (ast.Import, ast.ImportFrom)


def is_table(statement: ast.AST) -> bool:
    """Whether a statement is a table of kinds: TABLE: Kinds[...] = {Spec: definition, ...}."""
    return (
        isinstance(statement, ast.AnnAssign)
        and isinstance(statement.annotation, ast.Subscript)
        and isinstance(statement.annotation.value, ast.Name)
        and statement.annotation.value.id == TABLE
        and isinstance(statement.value, ast.Dict)
        and None not in statement.value.keys  # no **other
    )


def _read(name: str, tree: ast.Module) -> Module:
    module = Module(name)
    for statement in tree.body:
        if isinstance(statement, _IMPORTS):
            module.imports |= _imports([statement])
        elif isinstance(statement, DEFINITIONS) and (bound := _bound(statement)):
            for of in bound:
                module.definitions.setdefault(of, []).append(statement)
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            module.imports |= _imports(statement.body)
        elif not _is_docstring(statement):
            module.imports |= _imports(ast.walk(statement))
            module.loose.append(statement)
    return module


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a definition binds; none of an assignment to a part of something."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return [statement.name]
    assert isinstance(statement, ast.Assign | ast.AnnAssign)
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    leaves = [leaf for target in targets for leaf in getattr(target, "elts", [target])]
    names = [leaf.id for leaf in leaves if isinstance(leaf, ast.Name)]
    return names if len(names) == len(leaves) else []


def _imports(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Local name -> dotted name of what import statements bring."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                found[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _locals(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    """The names that a function binds but by import: its arguments, and what its own body assigns or defines.

    Comprehensions bind theirs for themselves, and count as if they did not: a name too many is followed, none
    too few.
    """
    found = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    pending: list[ast.AST] = [*function.body] if isinstance(function.body, list) else []
    foreign: set[str] = set()
    while pending:
        node = pending.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            foreign |= {*node.names}
        elif isinstance(node, _IMPORTS):
            foreign |= _imports([node]).keys()
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                found.add(node.name)
            pending += ast.iter_child_nodes(node)
    return found - foreign


def _dotted(node: ast.AST | None, known: Mapping[str, str], local: frozenset[str] = frozenset()) -> str:
    """The dotted name of a known name or of an attribute of a module's; empty for anything else."""
    if isinstance(node, ast.Name):
        return "" if node.id in local else known.get(node.id, "")
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value, known, local)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _is_within(dotted: str, packages: Iterable[str]) -> bool:
    return any(dotted == package or dotted.startswith(f"{package}.") for package in packages)


def _is_docstring(statement: ast.AST) -> bool:
    """A bare string: it acts on nothing, wherever it stands."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
