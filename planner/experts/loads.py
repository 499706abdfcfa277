"""Loads: how often each expert was chosen, layer by layer, where choices of single tokens were not written.

A CSV of layers x experts, or the runtime's `loads-00.jsonl`, one file a pipeline stage: {"step", "layer", "counts"}.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ...errors import InputError, Problem
from .trace import Ints, Routed, shortened


def read_loads(path: Path, routed: Routed | None = None) -> Ints:
    """[layers, experts], summed over steps, of a file or a folder with loads-*.jsonl. Raises InputError with every
    problem and its line."""
    files = sorted(path.glob("loads-*.jsonl")) if path.is_dir() else [path]
    problems: list[Problem] = [] if files else [Problem("loads", None, "the folder has no loads-*.jsonl")]
    total: dict[int, list[int]] = {}
    for file in files:
        _add(file, total, problems)
    widths = sorted({len(row) for row in total.values()})
    if not problems and len(widths) != 1:
        problems.append(Problem("counts", widths or None, "every layer needs the same number of experts, at least one"))
    if not problems and routed and (len(total), widths[0]) != (routed.layers, routed.experts):
        rule = f"the model has {routed.layers} layers with experts of {routed.experts}"
        problems.append(Problem("[layers, experts]", [len(total), widths[0]], rule))
    if problems:
        raise InputError(str(path), shortened(problems))
    return np.array([total[layer] for layer in sorted(total)])


def _add(file: Path, total: dict[int, list[int]], problems: list[Problem]) -> None:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(file.name, None, f"cannot be read: {' '.join(str(error).split())}"))
        return
    is_csv = file.suffix == ".csv"
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _csv_row(number - 1, line) if is_csv else _json_row(line)
        if found is None:
            rule = (
                "must be whole numbers with commas"
                if is_csv
                else "must be an object with layer and counts, whole numbers"
            )
            problems.append(Problem(f"{file.name}:{number}", line[:60], rule))
            continue
        layer, counts = found
        known = total.setdefault(layer, [0] * len(counts))
        if len(known) != len(counts):
            problems.append(
                Problem(f"{file.name}:{number}", len(counts), f"layer {layer} has {len(known)} experts before")
            )
        total[layer] = [a + b for a, b in zip(known, counts, strict=False)]


def _csv_row(layer: int, line: str) -> tuple[int, list[int]] | None:
    cells = [cell.strip() for cell in line.split(",")]
    return (layer, [int(cell) for cell in cells]) if all(cell.isdecimal() for cell in cells) else None


def _json_row(line: str) -> tuple[int, list[int]] | None:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    layer, counts = (data.get("layer"), data.get("counts")) if isinstance(data, dict) else (None, None)
    if type(layer) is not int or not isinstance(counts, list) or not counts:
        return None
    return (layer, counts) if all(type(each) is int and each >= 0 for each in counts) else None
