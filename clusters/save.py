"""A cluster back to a YAML file as a person would write it: quantities with units, defaults left out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from ..schema import dump_yaml, writing
from ..units import exact, parse_bytes, parse_flops, parse_rate, parse_seconds
from .schema import Cluster

Quantity = Literal["bytes", "rate", "flops", "seconds"]
_QUANTITIES: dict[object, Quantity] = {
    parse_bytes: "bytes",
    parse_rate: "rate",
    parse_flops: "flops",
    parse_seconds: "seconds",
}


def save_cluster(cluster: Cluster, path: Path) -> None:
    """Write a file that `load_cluster` reads back equal, float for float."""
    with writing(path):
        path.write_text(dump_yaml(written(cluster)))


def written(model: BaseModel) -> dict[str, Any]:
    """A model as a file has it: names as users write them, quantities with units, without what is default."""
    fields = type(model).model_fields
    return {
        field.alias or name: _value(getattr(model, name), _metadata(field), field.annotation)
        for name, field in fields.items()
        if field.is_required() or getattr(model, name) != field.default
    }


def _value(value: Any, metadata: Iterable[object], annotation: Any) -> Any:
    quantity = _quantity(metadata)
    if quantity is not None and value is not None:
        return exact(value, quantity)
    if isinstance(value, BaseModel):
        return written(value)
    if isinstance(value, dict):
        inner = getattr(get_args(annotation)[1], "__metadata__", ())
        return {key: _value(each, inner, None) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_value(each, (), None) for each in value]
    return value


def _metadata(field: FieldInfo) -> Iterable[object]:
    """What stands beside a type, also inside of `Rate | None`; values of mappings have their own."""
    inner = () if get_origin(field.annotation) is dict else get_args(field.annotation)
    return [*field.metadata, *(part for each in inner for part in getattr(each, "__metadata__", ()))]


def _quantity(metadata: Iterable[object]) -> Quantity | None:
    validators = (part.func for part in metadata if isinstance(part, BeforeValidator))
    return next((_QUANTITIES[func] for func in validators if func in _QUANTITIES), None)
