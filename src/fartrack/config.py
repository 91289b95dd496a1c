"""Configuration as frozen dataclasses: checks of their fields, and building them from parsed TOML or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, cast, get_origin, get_type_hints

from fartrack.errors import FartrackError

T = TypeVar("T")


def check_numbers(config: Any, **ranges: tuple[float, float]) -> None:
    """Check that the named fields of a dataclass are numbers (whole ones, if annotated ``int``) within a range.

    Raises:
        FartrackError: naming the field, its value and what it must be.
    """
    annotations = {field.name: str(field.type) for field in fields(config)}
    for name, (low, high) in ranges.items():
        value, whole = getattr(config, name), annotations[name] == "int"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise FartrackError(f"{name} is {value!r}; it must be {'a whole number' if whole else 'a number'}.")
        if not low <= value <= high:
            raise FartrackError(f"{name} is {value}; it must lie between {low:g} and {high:g}.")


def check_choice(config: Any, name: str, choices: tuple[str | bool, ...]) -> None:
    """Check that a field of a dataclass has one of the given values.

    Raises:
        FartrackError: naming the field, its value and the choices.
    """
    if getattr(config, name) not in choices:
        raise FartrackError(f"{name} is {getattr(config, name)!r}; it must be one of {', '.join(map(str, choices))}.")


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration dataclass, and those in its fields, from nested mappings such as parsed TOML or JSON.

    Raises:
        FartrackError: an unknown field (named, with those that exist), one that must be given and is not, or a value
            that the class refuses.
    """
    known = {field.name: field for field in fields(cast(Any, cls))}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise FartrackError(f"{unknown[0]!r} is no field of {cls.__name__}; those are {', '.join(known)}.")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise FartrackError(f"{cls.__name__} lacks {name}; give it a value.")
    hints, found = get_type_hints(cls), dict(values)
    for name, value in values.items():
        if is_dataclass(hints[name]) and not isinstance(value, hints[name]):
            if not isinstance(value, Mapping):
                raise FartrackError(f"{name} is {value!r}; it must be a table of fields.")
            found[name] = from_dict(cast(type[Any], hints[name]), value)
        elif get_origin(hints[name]) is tuple and isinstance(value, list):
            found[name] = tuple(value)
    return cls(**found)
