"""From pydantic's errors to one line that names the field, the value and what is allowed."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from hlrs.config.base import Spec


def describe_error(detail: ErrorDetails, raw: Any, model: type[Spec]) -> str:
    """One line for a pydantic error: the field as the file names it, the value, what is allowed."""
    field = ".".join(str(part) for part in _path(detail["loc"], raw))
    value, kind, context = detail["input"], detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        message = str(context["error"])
    elif kind == "extra_forbidden":
        allowed = _fields(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), allowed, 1)
        hint = f", did you mean {close[0]}?" if close else ";"
        message = f"unknown key{hint} allowed: {', '.join(allowed)}"
    elif kind == "missing":
        kinds = _kinds(model, detail["loc"])
        message = f"is missing{f'; kinds: {kinds}' if kinds else ''}"
    elif kind == "union_tag_not_found":
        field, message = f"{field}.kind", f"is missing; allowed: {_kinds(model, detail['loc'])}"
    elif kind == "union_tag_invalid":
        field, message = (
            f"{field}.kind",
            f"{context['tag']!r} is unknown; allowed: {context['expected_tags']}",
        )
    elif kind == "literal_error":
        message = f"{value!r} is unknown; allowed: {context['expected']}"
    else:
        message = f"{value!r} is not allowed: {detail['msg'][0].lower()}{detail['msg'][1:]}"
    return f"{field}: {message}" if field else message


def _path(location: tuple[int | str, ...], raw: Any) -> Iterator[int | str]:
    """The error's location without the union tags that pydantic puts between the file's own keys."""
    for part in location:
        tag = isinstance(raw, dict) and part not in raw and raw.get("kind") == part
        if tag or part == "[key]":
            continue
        yield part
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            raw = None


def _annotation(model: type[Spec], location: tuple[int | str, ...]) -> Any:
    """The type at an error's location."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            current = (
                current.model_fields[str(part)].annotation if str(part) in current.model_fields else None
            )
            continue
        members = [t for t in _flatten(current) if isinstance(t, type) and issubclass(t, BaseModel)]
        tagged = (
            [t for t in members if part in get_args(t.model_fields["kind"].annotation)]
            if _has_kind(members)
            else []
        )
        if tagged:
            current = tagged[0]
        elif len(members) == 1:  # the value of a dict, or an optional model
            current = members[0]
            if str(part) in current.model_fields:
                current = current.model_fields[str(part)].annotation
        else:
            return None
    return current


def _flatten(annotation: Any) -> Iterator[Any]:
    """The leaves of unions, Annotated, dict and list annotations."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _flatten(argument)


def _has_kind(members: list[type[BaseModel]]) -> bool:
    return bool(members) and all("kind" in member.model_fields for member in members)


def _fields(model: type[Spec], location: tuple[int | str, ...]) -> list[str]:
    """The names allowed at a location."""
    found = _annotation(model, location)
    members = [t for t in _flatten(found) if isinstance(t, type) and issubclass(t, BaseModel)]
    return sorted({name for member in members for name in member.model_fields})


def _kinds(model: type[Spec], location: tuple[int | str, ...]) -> str:
    """The kinds allowed at a location, or nothing where there are none."""
    members = [
        t for t in _flatten(_annotation(model, location)) if isinstance(t, type) and issubclass(t, BaseModel)
    ]
    return (
        ", ".join(str(get_args(m.model_fields["kind"].annotation)[0]) for m in members)
        if _has_kind(members)
        else ""
    )
