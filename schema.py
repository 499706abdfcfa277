"""What every file format of ours shares: frozen, strict, and kind when a field is misspelt."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from .errors import InputError, Problem, did_you_mean


class Frozen(BaseModel):
    """A value read from or written to a file. Validators are built where they are used first: a command needs few."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """`nodes: yes` is a slip, not one node."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


Schema = TypeVar("Schema", bound=Frozen)


def parse(schema: type[Schema], data: object, source: str) -> Schema:
    """Validate `data` against `schema`; every problem at once, named as the user wrote it."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise InputError(source, [_problem(schema, data, detail) for detail in _causes(error.errors())]) from None


def load_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file as a mapping."""
    text = _read(path)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError.single(str(path), "file", None, f"is not valid YAML or JSON: {_one_line(error)}") from None
    if not isinstance(data, dict):
        raise InputError.single(str(path), "file", None, f"must hold a mapping, not {type(data).__name__}")
    return data


def load_json(path: Path) -> dict[str, Any]:
    """A file that must be JSON to the letter, as programs write it: a YAML reader passes over some flipped bits."""
    try:
        data = json.loads(_read(path))
    except ValueError as error:
        raise InputError.single(str(path), "file", None, f"is not valid JSON: {_one_line(error)}") from None
    if not isinstance(data, dict):
        raise InputError.single(str(path), "file", None, f"must hold an object, not {type(data).__name__}")
    return data


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.single(str(path), "file", None, f"cannot be read: {_one_line(error)}") from None


def check_output(path: Path) -> None:
    """Before long work whose result goes to `path`: raises InputError where it could not be written."""
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError("no folder there that you may write to")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes `path`: a folder that is not there is the user's error."""
    try:
        yield
    except OSError as error:
        fix = "" if path.parent.is_dir() else f"mkdir -p {path.parent}"
        raise InputError.single("output", str(path), None, f"cannot be written: {_one_line(error)}", fix) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _causes(details: list[Any]) -> list[Any]:
    """Without what only follows from another: a list with a wrong item also counts as too short."""
    wrong = [detail["loc"] for detail in details]
    return [d for d in details if not any(d["loc"] == loc[: len(d["loc"])] != loc for loc in wrong)]


def _problem(schema: type[BaseModel], data: object, detail: Any) -> Problem:
    field = _field_name(detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _fields_at(schema, detail["loc"][:-1])
        return Problem(field, detail["input"], "unknown field", did_you_mean(str(detail["loc"][-1]), known))
    if detail["type"] == "missing":
        return Problem(field, None, "is required")
    rule = _RULES.get(detail["type"]) or detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return Problem(field or "file", _short(detail["input"]), rule, _nearest(detail))


_RULES = {
    "too_short": "needs at least one entry",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
}
"""Of pydantic's types of errors, in the words of a file."""


def _nearest(detail: Any) -> str:
    """The nearest legal value, where the error says what is legal."""
    limits = detail.get("ctx") or {}
    for limit in ("ge", "le"):
        if limit in limits:
            return f"{limits[limit]:g}"
    if detail["type"] == "literal_error" and isinstance(detail["input"], str):
        hint = did_you_mean(detail["input"], re.findall(r"'([^']*)'", limits["expected"]))
        return "" if hint.startswith("one of") else hint
    if detail["type"] == "int_from_float":
        return f"{max(1, round(detail['input']))}"
    return ""


def _short(value: object) -> object:
    return value if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."


def _field_name(loc: tuple[int | str, ...]) -> str:
    name = ""
    for part in loc:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name


def _fields_at(schema: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """Names that are legal at `loc`: those of the model found by walking down the annotations."""
    models: list[type[BaseModel]] = [schema]
    for part in loc:
        if isinstance(part, str):
            models = [inner for model in models for inner in _models_in(_annotation(model, part))] or models
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def _annotation(model: type[BaseModel], name: str) -> Any:
    for key, field in model.model_fields.items():
        if name in (key, field.alias):
            return field.annotation
    return None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    arguments = getattr(annotation, "__args__", ())
    return [model for argument in arguments for model in _models_in(argument)]


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML as people read it: in the order given, short lists on one line."""
    return yaml.safe_dump(dict(data), sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
