"""Weights: the tensors in the safetensors files of a folder, of which only what is asked for is read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PREFIXES = ("transformer.", "model.")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class Weights:
    """A Hugging Face folder: `model.safetensors`, or an index and the files that it names. Nothing is unpickled.

    `read_bytes` counts what was read of tensors.
    """

    def __init__(self, folder: Path):
        """Raises InputError when there are no such files, or they cannot be read."""
        self.folder = folder
        self.read_bytes = 0
        self._files: dict[Path, Any] = {}
        self._slices: dict[str, Any] = {}
        self._paths = self._index()

    @property
    def names(self) -> list[str]:
        """Of all tensors, sorted."""
        return sorted(self._paths)

    def stored(self, name: str) -> str | None:
        """The name under which the files have a tensor: a model that was saved without its head lacks the prefix."""
        short = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
        return next((each for each in (name, short) if each in self._paths), None)

    def size(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor of `names`."""
        return tuple(self._slice(name).get_shape())

    def is_plain(self, name: str) -> bool:
        """Whether a tensor of `names` holds floating-point numbers that need no scales beside them."""
        return self._slice(name).get_dtype() in _BYTES

    def read(self, name: str, box: tuple[slice, ...]) -> Tensor:
        """The part of a tensor of `names` that `box` cuts out, one slice a dimension, in the file's precision."""
        found: Tensor = self._slice(name)[box]
        self.read_bytes += math.prod(found.shape) * _BYTES[self._slice(name).get_dtype()]
        return found

    def _slice(self, name: str) -> Any:
        if name not in self._slices:
            self._slices[name] = self._file(self._paths[name]).get_slice(name)
        return self._slices[name]

    def _file(self, path: Path) -> Any:
        if path not in self._files:
            try:
                self._files[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise self._refused(path.name, f"cannot be read: {error}") from None
        return self._files[path]

    def _index(self) -> dict[str, Path]:
        index, single = self.folder / INDEX, self.folder / SINGLE
        if not index.exists():
            if not single.exists():
                raise self._refused("init_from", f"has neither {SINGLE} nor {INDEX}", "weights saved as safetensors")
            return dict.fromkeys(self._file(single).keys(), single)
        try:
            files = {name: self.folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._refused(INDEX, f"cannot be read: {error!r}") from None
        for path in sorted(set(files.values())):
            held = self._file(path).keys() if path.exists() else None
            missing = [name for name, file in files.items() if file == path and (held is None or name not in held)]
            if missing:
                what = "does not exist" if held is None else f"does not hold {missing[0]}, as the index says"
                raise self._refused(path.name, what, "the whole folder")
        return files

    def _refused(self, field: str, rule: str, fix: str = "") -> InputError:
        return InputError.single("pretrained weights", field, str(self.folder), rule, fix)
