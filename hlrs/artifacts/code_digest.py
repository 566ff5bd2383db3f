"""The package's code: which definitions a job's parameters ask for, and a digest of these.

From a stage's `run`, names are followed to functions, classes and constants, wherever they are defined. What
they are is digested, and which of them each names, but not where: moving a module, reordering imports or
editing a docstring changes nothing. Of a table (`Kinds` and `Choices` in `hlrs.config.base`) only the entries
count whose specs or strings the parameters or the code hold: a new kind leaves finished jobs alone.

What cannot change a result is left out: modules and packages that say so (MARK), and what a `raise` says. Of
specs, which are marked, too, count the class variables, properties and methods that the code reads, and the
defaults of those that the code constructs; the parameters hold the rest.

Read from this checkout or from a commit of it, so that a recorded digest can be checked and a change named.
"""

import ast
import copy
import functools
import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import resolve_name
from pathlib import Path
from typing import Any, TypeGuard

from hlrs.artifacts.git import git
from hlrs.config.base import Spec
from hlrs.errors import UserError

PACKAGE = Path(__file__).parents[1]
SCHEME = "3:"  # before a digest: what is digested, and how; another scheme's digests cannot be compared
MARK = "CHANGES_NO_RESULT"  # a module that assigns True to it is left out; so is a package
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LATER = 10  # commits in which code that ran before it was committed is looked for
TABLES = ("Kinds", "Choices")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign)

# module, name in it: "" is the module itself, "Spec.member" a spec's member, in the module that declares it
Name = tuple[str, str]


@dataclass
class Module:
    """A module's top level: definitions by name, imports by name, and statements that are neither."""

    name: str
    package: str  # to which relative imports refer
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)  # local name -> dotted name
    loose: list[ast.stmt] = field(default_factory=list)

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """Local name -> dotted name of everything that the top level binds."""
        return {own: f"{self.name}.{own}" for own in self.definitions} | self.imports


@dataclass(frozen=True)
class Definition:
    """What of a definition counts, and what it needs."""

    digest: str  # of its own text
    uses: list[Name]  # the definitions that it names, in order
    builds: frozenset[str]  # the specs that it constructs
    reads: frozenset[str]  # names of attributes
    constants: frozenset[str]  # as they are spelled


class Code:
    """Modules of `hlrs` and the templates beside them; `files`: path below the package -> content.

    Files that Python cannot import are none of it, such as an editor's copies. Its methods raise UserError
    where they need a module that is no Python.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = {path: content for path, content in files.items() if _is_code(path)}
        self._modules: dict[str, Module] = {}
        self._definitions: dict[tuple[Name, frozenset[str]], Definition] = {}
        self._closures: dict[tuple[str, frozenset[str]], tuple[list[Name], frozenset[str]]] = {}
        self._members: dict[str, dict[str, tuple[str, ast.stmt]]] = {}

    def digest(self, stage: str, params: Spec) -> str:
        """SHA-256 over the definitions that a job of the stage with these parameters asks for.

        Over their syntax trees, so that comments, docstrings and layout do not count, spelled alike by every
        Python version; before it the scheme. Definitions are numbered in the order in which they are found,
        and count with the numbers of those that they name: one of the same name elsewhere is another.
        """
        names, asked = self._closure(stage, params)
        number = {name: i for i, name in enumerate(names)}
        found = [self._definition(name, asked) for name in names]
        parts = [f"{each.digest} {[number[used] for used in each.uses]}" for each in found]
        parts += sorted(_sha256(self.files[file]) for file in self._templates(names))
        return SCHEME + _sha256("\n".join(parts).encode())

    def knows(self, params: Spec) -> bool:
        """Whether the specs of these parameters, which are today's, are this code's, too."""
        return {name for name in asked_by(params) if name.isidentifier()} <= self.specs.keys()

    def definitions(self, stage: str, params: Spec) -> dict[str, str]:
        """Digest of every function, method, constant and template that the digest covers.

        By its name below `hlrs`: nas.bilevel.second_order, nas.supernet.Supernet.forward; a class's name
        stands for what is in none of its methods.
        """
        found: dict[str, str] = {}
        names, asked = self._closure(stage, params)
        for module, name in names:
            of = f"{module.removeprefix('hlrs.')}.{name}".rstrip(".")
            for statement in self._statements((module, name)):
                if isinstance(statement, ast.ClassDef):
                    found.update(self._methods(of, module, statement))
                else:
                    found[of] = self._definition((module, name), asked).digest
        found.update((file, _sha256(self.files[file])) for file in self._templates(names))
        return found

    # --- following names ------------------------------------------------------------------------------

    def _closure(self, stage: str, params: Spec) -> tuple[list[Name], frozenset[str]]:
        """Every definition that the stage's `run` needs, itself included, and what is asked of tables."""
        key = stage, asked_by(params)
        asked, members = key[1], list[Name]()
        while key not in self._closures:  # what is found may ask more of tables, and need members of specs
            names = self._follow([(f"hlrs.stages.{stage}", "run"), *members], asked)
            found = [self._definition(name, asked) for name in names]
            built = {spec for each in found for spec in each.builds}
            read = {attribute for each in found for attribute in each.reads}
            more = asked.union(built, *(each.constants for each in found))
            specs = sorted(more & self.specs.keys())
            counted = [member for spec in specs for member in self._counted(spec, read, spec in built)]
            if (more, counted) == (asked, members):
                self._closures[key] = names, asked
            asked, members = more, counted
        return self._closures[key]

    def _follow(self, roots: list[Name], asked: frozenset[str]) -> list[Name]:
        """The definitions that the roots need, in the order in which they are named."""
        found: dict[Name, None] = {}
        pending = roots[::-1]
        while pending:
            name = pending.pop()
            if name not in found:
                found[name] = None
                pending += self._definition(name, asked).uses[::-1]
        return [*found]

    def _definition(self, name: Name, asked: frozenset[str]) -> Definition:
        keys = {key for statement in self._statements(name) for key in self._entries(name[0], statement)}
        key = name, asked & keys
        if key not in self._definitions:
            self._definitions[key] = self._study(name, asked)
        return self._definitions[key]

    def _study(self, name: Name, asked: frozenset[str]) -> Definition:
        parts = [part for s in self._statements(name) for part in self._asked_parts(name, s, asked)]
        resolved = self._resolved(name[0], parts)
        nodes = [node for part in parts for node in ast.walk(part)]
        types = _types(nodes)
        values = [self._located(dotted) for node, dotted in resolved.items() if node not in types]
        loose = [(name[0], "")] if name[1] and self._module(name[0]).loose else []
        return Definition(
            _sha256("\0".join([name[1], *self._tokens(parts, resolved)]).encode()),
            loose + [used for dotted in resolved.values() for used in self._followed(name[0], dotted)],
            frozenset(each[1] for each in values if each and self._is_spec(each)),
            frozenset(node.attr for node in nodes if isinstance(node, ast.Attribute)),
            frozenset(repr(node.value) for node in nodes if isinstance(node, ast.Constant)),
        )

    def _followed(self, home: str, dotted: str) -> list[Name]:
        """The definitions that a name in a module means: of a module that is handed on, all.

        Names of what is left out are followed from there only, where a spec's member has them.
        """
        found = self._located(dotted)
        if found is None or self._is_spec(found) or (self._left_out(found[0]) and not self._left_out(home)):
            return []
        if found[1]:
            return [found]
        names = self._module(found[0]).names
        return [each for own in sorted(names) for each in self._followed(home, f"{found[0]}.{own}")]

    def _resolved(self, home: str, parts: Iterable[ast.AST]) -> dict[ast.AST, str]:
        """The dotted name of every name in parts of a module that means a definition or an import."""
        module = self._module(home)
        return dict(pair for part in parts for pair in self._resolve(part, module.names, module.package))

    def _resolve(
        self, node: ast.AST, known: Mapping[str, str], package: str
    ) -> Iterator[tuple[ast.AST, str]]:
        """(node, dotted name) of every known name, and of every definition in a module of `hlrs`.

        A function's own names hide those around it; what it imports is known.
        """
        if isinstance(node, (*FUNCTIONS, ast.Lambda)):
            inner = {**known, **_scope(node, package)}
            body = node.body if isinstance(node.body, list) else [node.body]
            for part in ast.iter_child_nodes(node):
                yield from self._resolve(part, inner if part in body else known, package)
        elif isinstance(node, ast.Name):
            if dotted := known.get(node.id):
                yield node, dotted
        elif isinstance(node, ast.Attribute) and self._located(_dotted(node, known)):
            yield node, _dotted(node, known)
        else:
            for child in ast.iter_child_nodes(node):
                yield from self._resolve(child, known, package)

    def _located(self, dotted: str) -> Name | None:
        """The definition, or module, of `hlrs` that a dotted name means; None for other names.

        What a package's `__init__` imports comes before a module of that name, as in Python.
        """
        module, _, name = dotted.rpartition(".")
        if self._path(module):
            known = self._module(module)
            if name in known.definitions:
                return module, name
            if known.imports.get(name, dotted) != dotted:
                return self._located(known.imports[name])
        return (dotted, "") if self._path(dotted) else None

    def _statements(self, name: Name) -> list[ast.stmt]:
        module = self._module(name[0])
        spec, _, member = name[1].partition(".")
        if member:
            return [self._members_of(spec)[member][1]]
        return module.definitions[name[1]] if name[1] else module.loose

    def _asked_parts(self, name: Name, statement: ast.stmt, asked: frozenset[str]) -> list[ast.AST]:
        """A statement; of a table the values asked for; of a spec's member what it says but its types."""
        if is_table(statement):
            return [value for key, value in sorted(self._entries(name[0], statement).items()) if key in asked]
        if "." not in name[1]:
            return [statement]
        if isinstance(statement, ast.AnnAssign):
            return [statement.value or statement]
        statement = copy.copy(statement)
        if isinstance(statement, FUNCTIONS):
            statement.returns = None
        return [statement]

    def _entries(self, home: str, statement: ast.stmt) -> dict[str, ast.expr]:
        """The entries of a table by their specs' names or quoted strings; none of any other statement."""
        if not is_table(statement):
            return {}
        assert isinstance(statement, ast.AnnAssign)
        assert isinstance(statement.value, ast.Dict)  # as is_table says
        known = self._module(home).imports
        keys = [
            repr(key.value) if isinstance(key, ast.Constant) else _dotted(key, known).rpartition(".")[2]
            for key in statement.value.keys
        ]
        return dict(zip(keys, statement.value.values, strict=True))

    # --- specs and what is left out -------------------------------------------------------------------

    def _left_out(self, module: str) -> bool:
        """Whether a module, or a package around it, says that no result depends on it."""
        return any(f"{module}.".startswith(f"{marked}.") for marked in self.marked)

    @functools.cached_property
    def marked(self) -> list[str]:
        """The modules and packages that say so."""
        says = f"\n{MARK} = True".encode()
        return [_module_name(path) for path, content in self.files.items() if says in b"\n" + content]

    @functools.cached_property
    def specs(self) -> dict[str, Name]:
        """All specs by name; of several of one name, that in a module which others import."""
        names = [(m, name) for m in self._names if self._left_out(m) for name in self._module(m).definitions]
        found: dict[str, Name] = {}
        for name in names:
            if "Spec" in [each for _, each in self._ancestors(name)]:
                twin = found.setdefault(name[1], name)
                if twin != name and not self._imported(twin[0]):
                    found[name[1]] = name
        return found

    @functools.cached_property
    def _names(self) -> list[str]:
        """The names of all modules, in an order that no file system has a say in."""
        return sorted(_module_name(path) for path in self.files if path.endswith(".py"))

    def _imported(self, module: str) -> bool:
        """Whether another module imports it or something of it, which none does with a forgotten copy."""
        imports = [dotted for name in self._names for dotted in self._module(name).imports.values()]
        return any(f"{dotted}.".startswith(f"{module}.") for dotted in imports)

    def _is_spec(self, name: Name) -> bool:
        return self.specs.get(name[1]) == name

    def _ancestors(self, name: Name) -> list[Name]:
        """A class and those of `hlrs` that it inherits from, nearest first."""
        found, module = [name], self._module(name[0])
        for node in module.definitions[name[1]]:
            bases = node.bases if isinstance(node, ast.ClassDef) else []
            located = [self._located(_dotted(base, module.names)) for base in bases]
            found += [each for base in located if base and base[1] for each in self._ancestors(base)]
        return found

    def _members_of(self, spec: str) -> dict[str, tuple[str, ast.stmt]]:
        """What a spec declares or inherits, by name: the module that declares it, and the statement."""
        if spec not in self._members:
            self._members[spec] = {
                name: (module, statement)
                for module, ancestor in reversed(self._ancestors(self.specs[spec]))
                for node in self._module(module).definitions[ancestor]
                for statement in (node.body if isinstance(node, ast.ClassDef) else [])
                if isinstance(statement, DEFINITIONS)
                for name in _bound(statement)
            }
        return self._members[spec]

    def _counted(self, spec: str, read: set[str], built: bool) -> list[Name]:
        """The members of a spec that count: those that the code reads; defaults if it constructs the spec."""
        return [
            (home, f"{spec}.{member}")
            for member, (home, statement) in sorted(self._members_of(spec).items())
            if (built and statement.value if _is_field(statement) else member in read)
        ]

    # --- digesting ------------------------------------------------------------------------------------

    def _methods(self, of: str, home: str, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
        """(name, digest) of each method of a class, and of what is in none of them."""
        resolved = self._resolved(home, [node])
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
            dotted = resolved[node]
            found = self._located(dotted) or ("", dotted.rpartition(".")[2])
            yield f"{found[1] or 'module'} of hlrs" if dotted.startswith("hlrs.") else dotted
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
        """The file of a module or package of `hlrs`, None if there is none."""
        first, *names = module.split(".")
        paths = ("/".join([*names, "__init__.py"]), "/".join(names) + ".py") if first == "hlrs" else ()
        return next((path for path in paths if path in self.files), None)

    def _module(self, name: str) -> Module:
        if name not in self._modules:
            path = str(self._path(name))
            package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
            try:
                tree = ast.parse(self.files[path], path)
            except (SyntaxError, ValueError) as error:
                raise UserError(f"hlrs/{path}: is no Python: {error}; correct it and rerun") from None
            self._modules[name] = _read(Module(name, package), tree)
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
    files = [path for path in paths if path.is_file()]
    return Code({path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in files})


def code_digest(stage: str, params: Spec) -> str:
    """The digest of a job's code in this checkout."""
    return here().digest(stage, params)


@functools.cache
def committed(commit: str) -> Code | None:
    """The code at a commit; None where Git does not know it."""
    if not COMMIT.fullmatch(commit) or not (archive := git(PACKAGE, "archive", "--format=tar", commit, ".")):
        return None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = [member for member in tar if member.isfile() and member.name.endswith((".py", ".j2"))]
        return Code({file.name.removeprefix("./"): _content(tar, file) for file in files})


def committed_since(commit: str) -> Iterator[Code]:
    """The code at a commit, then at the first commits after it that changed it; nothing of an unknown one."""
    if code := committed(commit):
        yield code
        later = git(PACKAGE, "rev-list", "--reverse", f"{commit}..HEAD", "--", ".") or b""
        yield from filter(None, map(committed, later.decode().split()[:LATER]))


def why_unknown(commit: str) -> tuple[str, str]:
    """Why Git does not know a commit, and the remedy."""
    shallow = git(PACKAGE, "rev-parse", "--is-shallow-repository")
    if shallow is None:
        return "this hlrs is in no Git repository", "audit them with the hlrs of a clone"
    if shallow.strip() == b"true":
        return (
            f"commit {commit[:12]} is not in this shallow clone",
            "`git fetch --unshallow`, or rebuild them",
        )
    return f"commit {commit[:12]} is not in this repository", "`git fetch` the commit, or rebuild them"


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


def asked_by(params: Any) -> frozenset[str]:
    """The names of all specs in a job's parameters, and all strings, quoted."""
    if isinstance(params, str):
        return frozenset([repr(params)])
    if isinstance(params, Spec):
        return frozenset([type(params).__name__]).union(*(asked_by(value) for _, value in params))
    values = (
        params.values() if isinstance(params, dict) else params if isinstance(params, list | tuple) else ()
    )
    return frozenset[str]().union(*map(asked_by, values))


def _is_code(path: str) -> bool:
    """Whether a path is a template's, or that of a module: all of its names are Python's."""
    return not path.endswith(".py") or all(
        part.isidentifier() for part in path.removesuffix(".py").split("/")
    )


def _module_name(path: str) -> str:
    return f"hlrs/{path}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# --- syntax trees -------------------------------------------------------------------------------------

_IMPORTS = (ast.Import, ast.ImportFrom)


def is_table(statement: ast.AST) -> bool:
    """Whether a statement is a table: TABLE: Kinds[...] = {Spec: definition, ...}, or Choices and strings."""
    return (
        isinstance(statement, ast.AnnAssign)
        and isinstance(statement.annotation, ast.Subscript)
        and isinstance(statement.annotation.value, ast.Name)
        and statement.annotation.value.id in TABLES
        and isinstance(statement.value, ast.Dict)
        and None not in statement.value.keys  # no **other
    )


def _read(module: Module, tree: ast.Module) -> Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):  # what it says changes no result
            node.exc, node.cause = node.exc.func if isinstance(node.exc, ast.Call) else node.exc, None
    for statement in tree.body:
        if isinstance(statement, DEFINITIONS) and (bound := _bound(statement)):
            for of in bound:
                module.definitions.setdefault(of, []).append(statement)
            continue
        module.imports |= _imports(ast.walk(statement), module.package)
        within = [statement]
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            within = [*statement.body, *statement.orelse]
        if not all(isinstance(each, _IMPORTS) or _is_docstring(each) for each in within):
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


def _imports(nodes: Iterable[ast.AST], package: str) -> dict[str, str]:
    """Local name -> dotted name of what import statements in a module of a package bring."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                found[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            found |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    return found


def _scope(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, package: str) -> dict[str, str]:
    """Local name -> dotted name of what a function imports, "" for its arguments and what its body binds.

    Comprehensions bind theirs for themselves, and count as if they did not: a name too many is followed, none
    too few.
    """
    found = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    pending: list[ast.AST] = [*function.body] if isinstance(function.body, list) else []
    foreign: set[str] = set()
    imports: dict[str, str] = {}
    while pending:
        node = pending.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            foreign |= {*node.names}
        elif isinstance(node, _IMPORTS):
            imports |= _imports([node], package)
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                found.add(node.name)
            pending += ast.iter_child_nodes(node)
    return dict.fromkeys(found - foreign, "") | imports


def _types(nodes: Iterable[ast.AST]) -> set[ast.AST]:
    """The nodes of annotations and of what isinstance compares with, which construct nothing."""
    found: list[ast.AST | None] = []
    for node in nodes:
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, FUNCTIONS):
            found.append(node.returns)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            found += node.args[1:]
    return {each for node in found if node is not None for each in ast.walk(node)}


def _is_field(statement: ast.stmt) -> TypeGuard[ast.AnnAssign]:
    """Whether a statement of a spec declares a field, which parameters hold."""
    return isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation)


def _dotted(node: ast.AST | None, known: Mapping[str, str]) -> str:
    """The dotted name of a known name or of an attribute of a module's; empty for anything else."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value, known)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _is_docstring(statement: ast.AST) -> bool:
    """A bare string: it acts on nothing, wherever it stands."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
