"""Turn pydantic's errors into one line that names the field, the value and what is allowed."""

import difflib
import reprlib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from hlrs.config.base import Spec

SHORT = reprlib.Repr()  # of a value from a file, which may be of any size, or grow without end by its aliases
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother, SHORT.maxlist, SHORT.maxdict = 3, 100, 100, 12, 12
KEY = 110  # characters of a key that are shown
MANY_BITS = 200  # of a number that is counted rather than written out


def describe_error(detail: ErrorDetails, raw: Any, model: type[Spec]) -> str:
    """Describe a pydantic error in one line: the field as in the file, the value, what is allowed."""
    field = ".".join(_key(part) for part in _path(detail, raw))
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        field += ".kind"
    message = _message(detail, model)
    return f"{field}: {message}" if field else message


def _message(detail: ErrorDetails, model: type[Spec]) -> str:
    """Say what is wrong with a field, and how to mend it."""
    location, value, context = detail["loc"], detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return str(context["error"])
        case "extra_forbidden":
            allowed = _fields(model, location[:-1])
            if location[-2:-1] and location[-2] in allowed:  # of a method or data set, which has no such name
                return f"unknown key; is {location[-2]} indented too little?"
            close = difflib.get_close_matches(str(location[-1]), allowed, 1)
            hint = f", did you mean {close[0]}?" if close else ";"
            return f"unknown key{hint} allowed: {', '.join(allowed)}"
        case "missing":
            return f"is missing; write {_wanted(model, location)}"
        case "invalid_key":
            return "a number is no key; write numbers with a point, and without commas"
        case "string_pattern_mismatch":
            return f"{_shown(value)} is no name; use letters, digits, _, . and -, a letter or digit first"
        case "union_tag_not_found":
            return f"is missing; allowed: {', '.join(_kinds(model, location))}"
        case "union_tag_invalid":
            return f"{_shown(context['tag'])} is unknown; allowed: {context['expected_tags']}"
        case "literal_error":
            return f"{_shown(value)} is unknown; allowed: {context['expected']}"
        case "model_type" | "model_attributes_type":
            return _no_mapping(value, model, location)
        case "dict_type":
            return f"{_named(value)}; write one entry per line below it, or {{}} for none"
        case "list_type":
            short = isinstance(value, str | int | float) and _shown(value).strip("'") == str(value)
            return f"{_named(value, 'list')}; write [{value if short else '...'}]"
        case "too_short":
            return f"{_shown(value)} is too short; write at least {_items(context['min_length'])}"
        case "too_long":
            return f"{_shown(value)} is too long; write at most {_items(context['max_length'])}"
    return f"{_shown(value)} is not allowed: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _no_mapping(value: Any, model: type[Spec], location: tuple[int | str, ...]) -> str:
    """Say which keys, or which kind, to write in place of a value that should be a mapping."""
    known = value in _kinds(model, location)
    return f"{_named(value)}; write {f'{{kind: {value}}}' if known else _mapping(model, location)}"


def _mapping(model: type[Spec], location: tuple[int | str, ...]) -> str:
    """Describe the mapping to write at a location by its kinds or keys."""
    if kinds := _kinds(model, location):
        return f"{{kind: ...}}, with one of: {', '.join(kinds)}"
    members = _models(_annotation(model, location))
    required = any(field.is_required() for member in members for field in member.model_fields.values())
    defaults = "" if required else ", or {} for the defaults"
    return f"its keys: {', '.join(_fields(model, location))}{defaults}"


def _wanted(model: type[Spec], location: tuple[int | str, ...]) -> str:
    """Describe what to write at a location that has no value yet."""
    annotation = _annotation(model, location)
    if get_origin(annotation) is dict:
        return "one entry per line below it"
    if _models(annotation):
        return _mapping(model, location)
    try:
        TypeAdapter(annotation).validate_python(None)
    except ValidationError as error:
        return error.errors()[0]["msg"].removeprefix("Input should be ").replace(" valid ", " ")
    return "a value"


def _named(value: Any, wanted: str = "mapping") -> str:
    return "is empty" if value is None else f"{_shown(value)} is not a {wanted}"


def _shown(value: Any) -> str:
    """Show a value in less than a line, as YAML writes it where Python has another word."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > MANY_BITS:
        return f"a number of {value.bit_length()} bits"
    return SHORT.repr(value)


def _key(part: int | str) -> str:
    """Show a key, or a place in a list, of a field."""
    key = str(part)[:KEY]
    return key if key.isprintable() else repr(key)


def _items(count: int) -> str:
    return f"{count} item{'s' if count > 1 else ''}"


def _path(detail: ErrorDetails, raw: Any) -> Iterator[int | str]:
    """Yield an error's location without what pydantic inserts between the file's keys, such as union tags."""
    location, absent = detail["loc"], detail["type"] == "missing"
    for place, part in enumerate(location, 1):
        if isinstance(raw, dict) and part not in raw and not (absent and place == len(location)):
            continue
        yield part
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            raw = None


def _annotation(model: type[Spec], location: tuple[int | str, ...]) -> Any:
    """Return the type at an error's location, None where there is none."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            current = (
                current.model_fields[str(part)].annotation if str(part) in current.model_fields else None
            )
            continue
        if get_origin(current) is dict:
            current = get_args(current)[1]
            continue
        members = _models(current)
        tagged = (
            [t for t in members if part in get_args(t.model_fields["kind"].annotation)]
            if _has_kind(members)
            else []
        )
        if tagged:
            current = tagged[0]
        elif len(members) == 1:  # an optional model
            current = members[0]
            if str(part) in current.model_fields:
                current = current.model_fields[str(part)].annotation
        else:
            return None
    return current


def _flatten(annotation: Any) -> Iterator[Any]:
    """Yield the leaves of union, Annotated, dict and list annotations."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _flatten(argument)


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [t for t in _flatten(annotation) if isinstance(t, type) and issubclass(t, BaseModel)]


def _has_kind(members: list[type[BaseModel]]) -> bool:
    return bool(members) and all("kind" in member.model_fields for member in members)


def _fields(model: type[Spec], location: tuple[int | str, ...]) -> list[str]:
    """Return the names allowed at a location."""
    members = _models(_annotation(model, location))
    return sorted({name for member in members for name in member.model_fields})


def _kinds(model: type[Spec], location: tuple[int | str, ...]) -> list[str]:
    """Return the kinds allowed at a location, none where there are no kinds."""
    members = _models(_annotation(model, location))
    if not _has_kind(members):
        return []
    return [str(get_args(member.model_fields["kind"].annotation)[0]) for member in members]
