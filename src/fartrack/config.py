"""Configuration as frozen dataclasses: checks of their fields, and building them from parsed TOML or JSON."""

import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, cast, get_origin, get_type_hints

from fartrack.errors import FartrackError

T = TypeVar("T")


def check_numbers(config: Any, **ranges: tuple[float, float]) -> None:
    """Check that the named fields of a dataclass are numbers (whole ones, if annotated ``int``) within a range;
    FartrackError names the field, its value and what it must be."""
    annotations = {field.name: field.type for field in fields(config)}
    for name, (low, high) in ranges.items():
        value, whole = getattr(config, name), annotations[name] in (int, "int")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise FartrackError(f"{name} is {value!r}; it must be {'a whole number' if whole else 'a number'}.")
        if not low <= value <= high:
            raise FartrackError(f"{name} is {value}; it must lie between {low:g} and {high:g}.")


def check_choice(config: Any, name: str, choices: tuple[str | bool, ...]) -> None:
    """Check that a field of a dataclass has one of the given values; FartrackError names it, its value and these."""
    if getattr(config, name) not in choices:
        raise FartrackError(f"{name} is {getattr(config, name)!r}; it must be one of {', '.join(map(str, choices))}.")


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration dataclass, and those in its fields, from nested mappings such as parsed TOML or JSON.

    FartrackError, with the table in which it lies, for an unknown field (named, with those that exist), one that must
    be given and is not, or a value that the class refuses.
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
            try:
                found[name] = from_dict(cast(type[Any], hints[name]), value)
            except FartrackError as error:  # says in which table of a TOML file, such as [rollout.tracker]
                text = str(error)
                raise FartrackError(f"[{name}.{text[1:]}" if text.startswith("[") else f"[{name}] {text}") from None
        elif get_origin(hints[name]) is tuple and isinstance(value, list):
            found[name] = tuple(value)
    return cls(**found)


def changed_fields(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations of one class differ, such as ``rollout.share``, with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in (field.name for field in fields(old)):
        before, after = getattr(old, name), getattr(new, name)
        if is_dataclass(before):
            found |= {f"{name}.{inner}": pair for inner, pair in changed_fields(before, after).items()}
        elif before != after:
            found[name] = before, after
    return found


def to_toml(config: Any, default: Any = None, table: str = "") -> str:
    """A configuration as TOML that :func:`from_dict` reads, every field with its meaning (from the ``Attributes`` of
    the class's docstring) and, where it has another value, its default."""
    default = type(config)() if default is None else default
    docs = inspect.cleandoc(type(config).__doc__ or "").partition("Attributes:\n")[2]
    meanings = dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", docs, re.M))
    text, tables = f"[{table}]\n" if table else "", ""
    for name in (field.name for field in fields(config)):
        value, usual = getattr(config, name), getattr(default, name)
        if is_dataclass(value):
            tables += "\n" + to_toml(value, usual, f"{table}.{name}".strip("."))
            continue
        meaning = textwrap.fill(" ".join(meanings[name].replace("``", '"').split()), 100)
        note = "" if value == usual else f"  # default: {json.dumps(usual)}"
        text += f"{textwrap.indent(meaning, '# ')}\n{name} = {json.dumps(value)}{note}\n"
    return text + tables
