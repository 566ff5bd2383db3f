"""Describe every parameter of `params.yaml`: as a page for people, and as a JSON Schema for editors."""

import inspect
import io
import json
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from hlrs.config.base import Spec
from hlrs.config.params import Params

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
}
HEAD = """# Parameters

Every entry of `params.yaml` with its type, default and bounds. `hlrs schema --markdown` writes this page from
the code (`hlrs/config/`), and a test keeps it current. Equations and sources: [methods.md](methods.md);
images: [data.md](data.md).

`params.schema.json`, written by `hlrs schema`, says the same as a JSON Schema, by which an editor completes
and checks the file as you type; the first line of `params.yaml` names it to the YAML language server:

    # yaml-language-server: $schema=params.schema.json

What no schema can say (which entries fit together) `hlrs plan` checks.

Every section but `tracking` must be there, if only empty, as in `evaluate: {}`, for DVC to follow it.
"""


def schema() -> Schema:
    """Return the JSON Schema of `params.yaml` (draft 2020-12).

    Kinds are alternatives of which any may fit: a mapping without `kind` has the default one's entries. What
    a method overrides is a part of the common recipe.
    """
    text = json.dumps(Params.model_json_schema()).replace('"oneOf":', '"anyOf":')
    found: Schema = {"$schema": DIALECT, **json.loads(text), "title": "params.yaml of hlrs"}
    overrides = found["$defs"]["Method"]["properties"]
    for section, recipe in {"search": "Search", "retrain": "Retrain", "evaluate": "Evaluate"}.items():
        overrides[section] = {"$ref": f"#/$defs/{recipe}"}
    return found


def markdown() -> str:
    """Return the page of all parameters: one table per spec, in the order in which they are first named."""
    whole = Params.model_json_schema()
    definitions = whole["$defs"]
    specs = {spec.__name__: spec for spec in _subclasses(Spec)}
    parts, pending, seen = [HEAD], [], set[str]()
    for name, entry in whole["properties"].items():
        placeholder = {"datasets": "datasets.NAME", "methods": "methods.NAME"}.get(name, name)
        pending += [(_title(inner, definitions[inner], placeholder), inner) for inner in _references(entry)]
    while pending:
        title, name = pending.pop(0)
        if name in seen:
            continue
        seen.add(name)
        definition = definitions[name]
        parts.append(_section(title, definition, _comments(specs[name])))
        nested = [
            (_title(inner, definitions[inner], field), inner)
            for field, entry in definition.get("properties", {}).items()
            for inner in _references(entry)
        ]
        pending = nested + pending
    return "\n".join(parts)


def _subclasses(spec: type[Spec]) -> Iterator[type[Spec]]:
    for below in spec.__subclasses__():
        yield below
        yield from _subclasses(below)


def _references(entry: Any) -> Iterator[str]:
    """Yield the names of the specs that a field may hold."""
    for node in entry if isinstance(entry, list) else [entry]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"].rsplit("/", 1)[1]
            for key in ("oneOf", "anyOf", "items"):
                yield from _references(node.get(key))
            yield from _references([*node.get("patternProperties", {}).values()])


def _title(name: str, definition: Schema, field: str) -> str:
    """Name a spec by the field that holds it, and by its kind."""
    kind = definition["properties"].get("kind", {}).get("const")
    return f"{field}: {{kind: {kind}}}" if kind else field


def _section(title: str, definition: Schema, comments: dict[str, str]) -> str:
    """Write a spec's description and the table of its fields."""
    rows = [
        f"| `{name}` | {_type(entry)} | {_default(entry)} | {_bounds(entry)} | {comments.get(name, '')} |"
        for name, entry in definition["properties"].items()
        if name != "kind"
    ]
    heading = ["| entry | type | default | bounds | |", "|---|---|---|---|---|"] if rows else []
    text = definition.get("description", "").replace("|", "\\|")
    return "\n".join([f"## `{title}`", "", text, "", *heading, *rows, *([""] if rows else [])])


def _type(entry: Schema) -> str:
    """Name the type of a field, or the kinds that it may have."""
    if "discriminator" in entry:
        return f"kind {', '.join(f'`{kind}`' for kind in entry['discriminator']['mapping'])}"
    if "enum" in entry:
        return ", ".join(f"`{_plain(value)}`" for value in entry["enum"])
    if "$ref" in entry:
        return "mapping"
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(_type(inner) for inner in entry["anyOf"]))
    if entry.get("type") == "array":
        return f"list of {_type(entry['items'])}"
    names = {"object": "mapping", "null": "`null`", "boolean": "`true` or `false`", "string": "text"}
    kind: str = entry["type"]
    return names.get(kind, kind)


def _default(entry: Schema) -> str:
    """Write a field's default; one that is a mapping is that of its own entries."""
    if "default" not in entry:
        return "required"
    value = entry["default"]
    if isinstance(value, dict):
        return f"kind `{value['kind']}`" if "kind" in value else ""
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """Write a value as YAML has it."""
    return json.dumps(value, ensure_ascii=False).replace('"', "") or '""'


def _bounds(entry: Schema) -> str:
    """Write a field's bounds, and those of the values that it lists or may hold."""
    inner = [entry, entry.get("items", {}), *entry.get("anyOf", [])]
    found = (
        text.format(f"{node[key]:,}" if isinstance(node[key], int) else f"{node[key]:g}")
        for node in inner
        for key, text in BOUNDS.items()
        if key in node
    )
    return ", ".join(dict.fromkeys(found))


def _comments(spec: type[Spec]) -> dict[str, str]:
    """Return the comments behind the fields of a spec and of those that it extends."""
    found: dict[str, str] = {}
    for owner in reversed(spec.__mro__):
        if not issubclass(owner, Spec) or owner is Spec:
            continue
        field = ""
        for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(owner)).readline):
            if token.start[1] == 4 and (token.type == tokenize.NAME or token.string == "@"):
                line = re.match(r"    (\w+): ", token.line)
                field = line.group(1) if line else ""  # a method, whose comments are its own
            if token.type == tokenize.COMMENT and field and not token.line.lstrip().startswith("#"):
                found[field] = token.string.removeprefix("# ").replace("|", "\\|")
    return found
