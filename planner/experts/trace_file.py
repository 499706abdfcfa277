"""Trace files: the JSONL of Megatron-LM's --moe-routing-trace-path, which our runtime writes too, and .npz.

A line is one layer of one microbatch on one rank: {"step", "stage", "block", "layer", "rank", "num_tokens", "topk",
"top_indices"}, in our files with the ids of the "tokens" in the first layer; a folder has one file a rank. Tokens stand
in the order of step, rank and line; the ranks of other pipeline stages, which have other layers, are taken to have the
same tokens in the same order.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ...errors import InputError, Problem
from ...schema import writing
from .token_homes import MOST_IDS
from .trace import Ints, Routed, Trace, check, shortened, smallest, twice

_NUMBERS = ("step", "layer", "rank", "num_tokens", "topk")


@dataclass(frozen=True, slots=True)
class _Row:
    step: int
    layer: int
    rank: int
    choices: Ints  # [tokens, top_k]
    token: Ints | None = None


def read_trace(path: Path, routed: Routed | None = None) -> Trace:
    """A .jsonl file, a folder of such files of ranks, or a .npz with `experts` (and `prompt`, and ids as `token`).

    `routed` is what the model says; without it the number of experts is the largest id and one. Raises InputError with
    every problem and its line.
    """
    if path.suffix == ".npz":
        return _read_npz(path, routed)
    problems: list[Problem] = []
    rows = [row for file in _files(path) for row in _rows(file, routed, problems)]
    if not problems:
        problems = _together(rows, routed, str(path))
    if problems:
        raise InputError(str(path), shortened(problems))
    return _trace(rows, routed)


def _files(path: Path) -> list[Path]:
    files = (
        sorted(each for each in path.glob("*.jsonl") if not each.name.startswith("loads-")) if path.is_dir() else [path]
    )
    if not files:
        raise InputError.single(str(path), "trace", None, "the folder has no .jsonl files", "routing/ of a run folder")
    return files


def _rows(file: Path, routed: Routed | None, problems: list[Problem]) -> Iterator[_Row]:
    """What the good lines say; what is wrong with the others is added to `problems`."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(file.name, None, f"cannot be read: {' '.join(str(error).split())}"))
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            found = _line(line, f"{file.name}:{number}", routed)
            if isinstance(found, _Row):
                yield found
            else:
                problems.extend(found)


def _line(line: str, place: str, routed: Routed | None) -> _Row | list[Problem]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return [Problem(place, _short(line), "is not JSON: the line is cut off or damaged", "leave the line out")]
    if not isinstance(data, dict):
        return [Problem(place, _short(line), "must be an object")]
    wrong = [
        Problem(f"{place} {name}", data.get(name), "must be a whole number, 0 or more")
        for name in _NUMBERS
        if type(data.get(name)) is not int or data[name] < 0
    ]
    return wrong or _choices(data, place, routed)


def _choices(data: dict[str, Any], place: str, routed: Routed | None) -> _Row | list[Problem]:
    shape = data["num_tokens"], data["topk"]
    if routed and data["topk"] != routed.top_k:
        return [Problem(f"{place} topk", data["topk"], f"the model chooses {routed.top_k} experts a token")]
    choices = _matrix(data.get("top_indices"), shape)
    if choices is None:
        rule = f"must be {shape[0]} lists (num_tokens) of {shape[1]} whole numbers (topk)"
        return [Problem(f"{place} top_indices", _short(data.get("top_indices")), rule)]
    experts = routed.experts if routed else 2**16
    outside = choices[(choices < 0) | (choices >= experts)]
    if len(outside):
        rule = f"ids of experts are 0 to {experts - 1}"
        return [Problem(f"{place} top_indices", sorted(set(outside.tolist()))[:8], rule)]
    if twice(choices).any():
        first = choices[int(twice(choices).argmax())].tolist()
        return [Problem(f"{place} top_indices", first, "an expert stands twice at one token")]
    ids = None if data.get("tokens") is None else _matrix([data["tokens"]], (1, shape[0]))
    if data.get("tokens") is not None and (ids is None or not _are_ids(ids)):
        rule = f"must be {shape[0]} ids (num_tokens), whole numbers below {MOST_IDS:,}"
        return [Problem(f"{place} tokens", _short(data["tokens"]), rule)]
    row = data["step"], data["layer"], data["rank"], choices.astype(smallest(experts))
    return _Row(*row, None if ids is None else ids[0])


def _matrix(value: object, shape: tuple[int, int]) -> Ints | None:
    """The lists as an array of this shape, if they are one of whole numbers."""
    if not isinstance(value, list) or len(value) != shape[0] or not shape[0] or not shape[1]:
        return None
    if any(not isinstance(row, list) or len(row) != shape[1] for row in value):
        return None
    if any(type(each) is not int for row in value for each in row):
        return None
    return np.asarray(np.clip(np.array(value, dtype=object), -1, 2**31 - 1).astype(np.int64))


def _together(rows: list[_Row], routed: Routed | None, place: str) -> list[Problem]:
    """What is wrong with all lines together: layers of the model that miss, and layers with other numbers of tokens."""
    if not rows:
        return [Problem(place, None, "holds no routing")]
    if len({row.choices.shape[1] for row in rows}) > 1:
        found = sorted({row.choices.shape[1] for row in rows})
        return [Problem("topk", found, "must be the same in every line")]
    tokens: dict[int, int] = {}
    for row in rows:
        tokens[row.layer] = tokens.get(row.layer, 0) + len(row.choices)
    problems = []
    if routed and len(tokens) != routed.layers:
        rule = f"the model has {routed.layers} layers with experts, the trace {len(tokens)}"
        problems.append(Problem("layer", sorted(tokens), rule, "the routing of all ranks of a run, of this model"))
    first = [row for row in rows if row.layer == min(tokens)]
    missing = sum(row.token is None for row in first)
    if 0 < missing < len(first):
        rule = f"stand in all lines of layer {min(tokens)} or in none, and {missing} of {len(first)} have none"
        problems.append(Problem("tokens", None, rule, "a trace of one version, or without them"))
    usual = max(set(tokens.values()), key=list(tokens.values()).count)
    return problems + [
        Problem(
            f"layer {layer}", count, f"has other tokens than the {usual} of most layers", "whole steps of all ranks"
        )
        for layer, count in sorted(tokens.items())
        if count != usual
    ]


def _trace(rows: list[_Row], routed: Routed | None) -> Trace:
    layers = sorted({row.layer for row in rows})
    ordered = sorted(rows, key=lambda row: (row.step, row.rank))  # stable: lines of a rank keep their order
    columns = [np.concatenate([row.choices for row in ordered if row.layer == layer]) for layer in layers]
    first = [row for row in ordered if row.layer == layers[0]]
    sizes = [len(row.choices) for row in first]
    steps, ranks = (np.repeat([getattr(row, name) for row in first], sizes) for name in ("step", "rank"))
    count = routed.experts if routed else int(max(each.max() for each in columns)) + 1
    ids = [row.token for row in first if row.token is not None]
    token = np.concatenate(ids) if len(ids) == len(first) else None
    return Trace(np.stack(columns, 1).astype(smallest(count)), count, None, steps, ranks, tuple(layers), token)


def _read_npz(path: Path, routed: Routed | None) -> Trace:
    experts, prompt, token = _arrays(path)
    count = routed.experts if routed else int(experts.max()) + 1 if experts.size else 1
    problems = check(experts, count)
    shape = experts.shape[1:] if experts.ndim == 3 else ()
    if not problems and routed and shape != (routed.layers, routed.top_k):
        rule = f"the model has {routed.layers} layers with experts and chooses {routed.top_k} a token"
        problems.append(Problem("experts [layers, top_k]", list(shape), rule))
    for name, each in (("prompt", prompt), ("token", token)):
        if each is not None and each.shape != experts.shape[:1]:
            problems.append(Problem(name, list(each.shape), "needs one number a token", str(list(experts.shape[:1]))))
    if token is not None and not _are_ids(token):
        problems.append(Problem("token", str(token.dtype), f"ids are whole numbers below {MOST_IDS:,}"))
    if problems:
        raise InputError(str(path), shortened(problems))
    ids = None if token is None else token.astype(np.int64)
    return Trace(experts.astype(smallest(count)), count, prompt, token=ids)


def _are_ids(token: Ints) -> bool:
    whole = np.issubdtype(token.dtype, np.integer)
    return whole and (not token.size or 0 <= int(token.min()) <= int(token.max()) < MOST_IDS)


def _arrays(path: Path) -> tuple[Ints, Ints | None, Ints | None]:
    """`experts`, `prompt` and `token`, whatever they hold. Raises InputError where the file is no .npz with such
    arrays."""
    try:
        with path.open("rb") as file:
            data = np.load(file, allow_pickle=False)
            if isinstance(data, np.ndarray):
                raise ValueError("it is one array, as np.save writes it")
            with data:
                experts, *beside = data["experts"], data.get("prompt"), data.get("token")
        if not isinstance(experts, np.ndarray) or not all(isinstance(each, np.ndarray | None) for each in beside):
            raise ValueError("what it holds under these names are no arrays")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        rule = f"cannot be read as .npz with an array `experts`: {' '.join(str(error).split())}"
        raise InputError.single(str(path), "trace", None, rule) from None
    return experts, *beside


def write_trace(trace: Trace, path: Path) -> None:
    """One .jsonl file: of each run of tokens of one step and rank, one line a layer."""
    zero = np.zeros(trace.tokens, np.int64)
    step, rank = (zero if each is None else each for each in (trace.step, trace.rank))
    borders = np.flatnonzero((np.diff(step) != 0) | (np.diff(rank) != 0)) + 1
    layers = trace.layers or tuple(range(trace.num_layers))
    with writing(path), path.open("w") as file:
        for run in np.split(np.arange(trace.tokens), borders):
            for place, layer in enumerate(layers):
                row = {"step": int(step[run[0]]), "stage": "pre_dispatch", "block": "decoder", "layer": layer}
                row |= {"rank": int(rank[run[0]]), "num_tokens": len(run), "topk": trace.top_k}
                if trace.token is not None and place == 0:
                    row["tokens"] = trace.token[run].tolist()
                file.write(json.dumps({**row, "top_indices": trace.experts[run, place].tolist()}) + "\n")


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
