"""Pretrained weights, straight from Hugging Face files into a sharded model: each rank reads its own part alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, Problem
from . import compat
from .blocks.shape import Shape, read_shape
from .blocks.transformer import HEAD
from .model import ParallelModel, state_sizes
from .names import Sizes, Source, sources, stored_sizes
from .shards import local
from .weights import Weights

_SHOWN = 5  # problems of one kind that are told one by one

# What published files hold beside the parameters: masks and angles that older implementations stored.
_BUFFERS = re.compile(r".*\.attn\.(masked_)?bias|.*rotary_emb\.inv_freq")


def load_pretrained(model: ParallelModel, folder: Path) -> int:
    """Fill every parameter and buffer that this rank holds; returns how many bytes of tensors it read.

    Numbers are converted to the precision that the model holds. Raises InputError when a tensor is missing or of
    another size; `check_pretrained` finds all such before anything starts.
    """
    weights = Weights(folder)
    with torch.no_grad():
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            found = list(sources(model.shape, name))
            _fill(tensor, [found[expert] for expert in model.orders.get(name, range(len(found)))], weights)
    return weights.read_bytes


def _fill(tensor: Tensor, found: list[Source], weights: Weights) -> None:
    """Read the box of the whole tensor that this rank has, piece by piece; stacked matrices are `found` by slot."""
    first, size = compat.own_box(tensor)
    own = local(tensor)
    if own.numel() == 0:
        return
    for slot, source in enumerate(found):
        if source.expert is None:
            own.copy_(_read(source, first, size, weights))
        elif first[0] <= slot < first[0] + size[0]:
            own[slot - first[0]].copy_(_read(source, first[1:], size[1:], weights))


def _read(source: Source, first: tuple[int, ...], size: tuple[int, ...], weights: Weights) -> Tensor:
    name = weights.stored(source.name)
    if name is None:
        raise InputError("pretrained weights", [_missing(source.name)])
    starts = (first[0] + source.first_row, *first[1:])
    box = tuple(slice(start, start + length) for start, length in zip(starts, size, strict=True))
    part = weights.read(name, box[::-1] if source.transposed else box)
    part = part.T if source.transposed else part
    if part.shape != size:
        raise InputError.single("pretrained weights", name, list(weights.size(name)), "has another size in this model")
    return part


def check_pretrained(folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    """Everything that keeps the files of a folder from being the weights of the model of `config`."""
    try:
        weights = Weights(folder)
        return _differences(weights, read_shape(config))
    except InputError as error:
        return list(error.problems)


def _differences(weights: Weights, shape: Shape) -> list[Problem]:
    expected = stored_sizes(shape, state_sizes(shape))
    stored = {name: weights.stored(name) for name in expected}
    missing = [_missing(name) for name, found in stored.items() if found is None]
    unknown = [
        Problem(name, list(weights.size(name)), "is in the files and not in the model")
        for name in weights.names
        if name not in stored.values() and not _is_left_out(name, shape)
    ]
    return [
        *_few(missing, "missing from the files"),
        *_few(unknown, "in the files and not in the model"),
        *_few([*_wrong(weights, expected, stored)], "stored otherwise"),
    ]


def _wrong(weights: Weights, expected: Sizes, stored: Mapping[str, str | None]) -> Iterator[Problem]:
    for name, size in expected.items():
        found = stored[name]
        if found is not None and weights.size(found) != size:
            yield Problem(found, list(weights.size(found)), f"must be {list(size)} in this model")
        elif found is not None and not weights.is_plain(found):
            yield Problem(found, "quantised", "must be float32, bfloat16 or float16", "unquantised weights")


def _missing(name: str) -> Problem:
    return Problem(name, None, "is missing from the files", "the weights of this very model")


def _few(problems: list[Problem], what: str) -> list[Problem]:
    """The first few of a kind, and how many more there are."""
    more = len(problems) - _SHOWN
    if more <= 0:
        return problems
    return [*problems[:_SHOWN], Problem("tensors", f"{more} more", f"are {what}")]


def _is_left_out(name: str, shape: Shape) -> bool:
    """What is no part of the model although files hold it: a tied head, buffers, layers that predict further tokens."""
    if _BUFFERS.fullmatch(name) or (shape.tied_embeddings and name == HEAD):
        return True
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    return shape.family == "deepseek_v3" and layer is not None and int(layer[1]) >= shape.layers
