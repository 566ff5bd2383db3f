"""Specs by the name of their kind."""

from typing import Any, get_args


def specs(union: Any) -> dict[str, type]:
    """The spec of each kind of a union in hlrs.config."""
    return {get_args(s.model_fields["kind"].annotation)[0]: s for s in get_args(get_args(union)[0])}


def spec(union: Any, given: Any, **options: Any) -> Any:
    """The spec that a kind's name and options, or a mapping as in params.yaml, ask for."""
    fields = given if isinstance(given, dict) else {"kind": given, **options}
    return specs(union)[fields["kind"]](**fields)
