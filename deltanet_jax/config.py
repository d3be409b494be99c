# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Configs: frozen dataclasses that refuse unknown keys and round-trip through JSON.

The base class knows the machinery only; every config lives beside the module it describes, and
every default is stated once, there.
"""

import dataclasses
import functools
import json
import reprlib
import types
import typing
from typing import Any, ClassVar, Self

# Values in messages: whole if they can be meant, cut where nobody would read on.
SHORT = reprlib.Repr(maxlist=40, maxdict=10, maxstring=200, maxother=200, maxlong=200)


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of all configs.

    A family of configs (the mixers, the tasks) has an abstract member that sets `family = True`;
    the members set `kind`, which is written into their JSON and picks the class on the way back.
    """

    kind: ClassVar[str] = ""
    family: ClassVar[bool] = False

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings, numbers, bools and None."""
        fields = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {"kind": self.kind, **fields} if self.kind else fields

    def to_json(self) -> str:
        """JSON text with a final newline, stable under a round trip."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`. Raises ValueError like `from_dict`."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Builds the config.

        Raises:
            ValueError: an unknown, missing or ill-typed key; the message names it.
        """
        return _build(cls, data, cls.__name__)

    @classmethod
    def completed(cls, data: dict[str, Any]) -> dict[str, Any]:
        """`data`, as an earlier version may have written it, with the defaults of what is new.

        Raises:
            ValueError: as `from_dict`.
        """
        return cls.from_dict(data).to_dict()

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed. Raises TypeError for an unknown field."""
        return dataclasses.replace(self, **changes)


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _members(cls: type[Config]) -> dict[str, type[Config]]:
    members = {}
    for sub in cls.__subclasses__():
        members |= {sub.kind: sub} if sub.kind else {}
        members |= _members(sub)
    return members


def _build(cls: type[Config], data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: wanted an object, got {SHORT.repr(data)}")
    data = dict(data)
    kind = data.pop("kind", "")
    if cls.family:
        members = _members(cls)
        if not isinstance(kind, str) or kind not in members:
            raise ValueError(
                f"{where}.kind: wanted one of {sorted(members)}, got {SHORT.repr(kind)}"
            )
        cls = members[kind]
    elif kind != cls.kind:
        raise ValueError(f"{where}.kind: wanted {cls.kind!r}, got {SHORT.repr(kind)}")

    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ValueError(f"{where}: unknown keys {SHORT.repr(unknown)}; known are {sorted(fields)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in data
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: missing keys {missing}")
    hints = typing.get_type_hints(cls)
    return cls(**{k: _convert(hints[k], v, f"{where}.{k}") for k, v in data.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (hint,) = [a for a in args if a is not type(None)]
        return _convert(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: wanted a list, got {SHORT.repr(value)}")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, Config):
        return _build(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where}: wanted {hint.__name__}, got {SHORT.repr(value)}")
    return value


_field_types = functools.cache(typing.get_type_hints)


def _number(config: Config, name: str) -> Any:
    """The field `name`. Raises ValueError unless it is of its type."""
    return _convert(_field_types(type(config))[name], getattr(config, name), name)


def check_at_least(config: Config, name: str, minimum: float) -> None:
    """Raises ValueError unless the field `name` is a number of its type of at least `minimum`, or
    None where it may be."""
    value = _number(config, name)
    if value is not None and not value >= minimum:  # written so that NaN fails too
        raise ValueError(f"{name}: wanted at least {minimum}, got {value}")


def check_positive(config: Config, name: str) -> None:
    """Raises ValueError unless the field `name` is a number of its type of more than 0."""
    value = _number(config, name)
    if not value > 0:
        raise ValueError(f"{name}: wanted more than 0, got {value}")


def check_one_of(config: Config, name: str, choices: typing.Sequence[object]) -> None:
    """Raises ValueError unless the field `name` is one of `choices`."""
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"{name}: wanted one of {tuple(choices)}, got {SHORT.repr(value)}")
