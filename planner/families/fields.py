"""Fields: typed reading of a config.json that collects every problem instead of stopping at the first.

A value that is wrong is reported once, replaced by its default, and left out of the checks that
involve it, so that one mistake gives one problem.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import Problem, did_you_mean

LARGEST = 2**31 - 1  # of any size in a config: beyond it there is a mistake, not a model


class Fields:
    """The keys of one config.json. A key is asked for by its names: that of the family, then its aliases."""

    def __init__(self, values: Mapping[str, Any], name: str, family: str, prefix: str = ""):
        self.name = name
        self.family = family  # the file's model_type
        self._values = values
        self._prefix = prefix  # "text_config." where the language model is nested
        self._wrong: set[str] = set()
        self._known: set[tuple[str, ...]] = set()  # the names of each field that was asked for
        self.problems: list[Problem] = []

    def integer(self, *names: str, default: int | None, least: int = 1, most: int = LARGEST) -> int:
        """A whole number from `least` to `most`; without a default the key is required."""
        value = self._value(names, default)
        other = next((name for name in names if name in self._values and not _same(self._values[name], value)), None)
        if other is not None:
            self._report(names, value, f"contradicts {other} ({self._values[other]!r}), which means the same")
        elif value is None:
            rule = "is required" if self._spelled(names) is None else "must be a whole number, not null"
            self._report(names, None, rule)
        elif type(value) is not int:
            self._report(names, value, "must be a whole number", _as_integer(value))
        elif not least <= value <= most:
            self._report(names, value, f"must be from {least} to {most}", str(min(max(value, least), most)))
        else:
            return value
        return least if default is None else default

    def optional_integer(self, *names: str, default: int | None = None, least: int = 1) -> int | None:
        """As `integer`, where null (or an absent key without a default) means that the model has no such thing."""
        if self._value(names, default) is None:
            return None
        return self.integer(*names, default=default or least, least=least)

    def flag(self, *names: str, default: bool) -> bool:
        """True or false; null means the default."""
        value = self._value(names, default)
        if isinstance(value, bool):
            return value
        if value is not None:
            self._report(names, value, "must be true or false")
        return default

    def integers(self, *names: str) -> tuple[int, ...]:
        """A list of whole numbers from 0; absent or null: empty."""
        return tuple(self._list(names, "must be a list of whole numbers", lambda item: type(item) is int and item >= 0))

    def words(self, name: str, legal: tuple[str, ...], length: int) -> tuple[str, ...] | None:
        """One of the `legal` words for each of the `length` layers; absent or null: None."""
        if self._value((name,), None) is None:
            return None
        rule = f"must be a list of {' or '.join(legal)}"
        words = tuple(self._list((name,), rule, lambda item: item in legal))
        complete = len(words) == length
        rule = f"must have one entry for each of the {length} layers"
        self.require(complete, (name,), rule, given=("num_hidden_layers",))
        return words if complete else None

    def word(self, name: str, default: str) -> str:
        """A string."""
        value = self._value((name,), default)
        if isinstance(value, str):
            return value
        self._report((name,), value, "must be a string")
        return default

    def require(
        self, holds: bool, names: tuple[str, ...], rule: str, fix: object = "", given: tuple[str, ...] = ()
    ) -> None:
        """Report the field `names` unless `holds`; says nothing when a field of the rule is itself wrong."""
        if not holds and not self._wrong & {*names, *given}:
            self._report(names, self._value(names, None), rule, str(fix))

    def has(self, *names: str, default: object = None) -> bool:
        """Whether the field has a value other than null: the file's, or where it gives none the default."""
        return self._value(names, default) is not None

    def report_misspelt(self) -> None:
        """A key that nobody reads, but is almost one that is absent, would silently become a default."""
        absent = {name for names in self._known if self._spelled(names) is None for name in names}
        known = {name for names in self._known for name in names}
        for key in sorted(self._values.keys() - known):
            near = difflib.get_close_matches(key, sorted(absent), n=1, cutoff=0.9)
            if near:
                value = _short(self._values[key])
                self.problems.append(Problem(self._prefix + key, value, "unknown field", did_you_mean(key, near)))

    def _list(self, names: tuple[str, ...], rule: str, legal: Callable[[Any], bool]) -> list[Any]:
        value = self._value(names, None)
        if value is None:
            return []
        if isinstance(value, list) and all(legal(item) for item in value):
            return value
        self._report(names, value, rule)
        return []

    def _value(self, names: tuple[str, ...], default: Any) -> Any:
        self._known.add(names)
        spelled = self._spelled(names)
        return default if spelled is None else self._values[spelled]

    def _spelled(self, names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in self._values), None)

    def _report(self, names: tuple[str, ...], value: object, rule: str, fix: str = "") -> None:
        if names[0] not in self._wrong:
            self._wrong.update(names)
            self.problems.append(Problem(self._prefix + (self._spelled(names) or names[0]), _short(value), rule, fix))


def _same(one: object, other: object) -> bool:
    """Equal, where even not-a-number equals itself."""
    return one is other or one == other


def _short(value: object) -> object:
    """A value as a report shows it: a list of a hundred layers is cut."""
    return value if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."


def _as_integer(value: object) -> str:
    """The whole number that was meant, where one can be read out of the value."""
    try:
        return str(round(float(value)))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return ""


def nearest_multiple(value: int, of: int) -> int:
    """The positive multiple of `of` that is nearest to `value`."""
    return max(1, (value + of // 2) // of) * of


def nearest_divisor(value: int, of: int) -> int:
    """The divisor of `of` that is nearest to `value`."""
    small = [d for d in range(1, math.isqrt(of) + 1) if of % d == 0]
    return min(small + [of // d for d in small], key=lambda d: (abs(d - value), d))
