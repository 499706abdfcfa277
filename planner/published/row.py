"""Row: one published run, as a line of a CSV file says it; nothing assumed, nothing computed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ...errors import InputError, Problem, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The columns that a prediction reads. Empty text and None: not stated."""

    row_id: str
    source: str
    gpu: str
    framework: str = ""
    year: int | None = None
    model: str = ""
    train_mode: str = ""
    layers: int | None = None
    hidden: int | None = None
    ffn_hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocab: int | None = None
    tied_emb: int | None = None
    mlp: str = ""
    attn: str = ""
    experts: int | None = None
    top_k: int | None = None
    expert_ffn: int | None = None
    shared_ffn: int | None = None
    dense_layers: int | None = None
    seq_len: int | None = None
    gpu_mem_gb: float | None = None
    gpus: int | None = None
    gpus_per_node: int | None = None
    interconnect: str = ""
    precision: str = ""
    tp: int | None = None
    pp: int | None = None
    vpp: int | None = None
    cp: int | None = None
    ep: int | None = None
    etp: int | None = None
    dp: int | None = None
    zero_stage: int | None = None
    sp: int | None = None
    recompute: str = ""
    schedule: str = ""
    mbs: int | None = None
    gbs: int | None = None
    ga: int | None = None
    features: str = ""
    fw_version: str = ""
    step_time_s: float | None = None
    peak_mem_gb: float | None = None
    oom: str = ""
    derived_dp: int | None = None
    derived_step_time_s: float | None = None
    consistent: str = ""
    layout_complete: str = ""
    dup_group: str = ""

    @property
    def measured_step_time_s(self) -> float | None:
        """As published, else computed from published tokens or samples per second."""
        return self.step_time_s or self.derived_step_time_s


REQUIRED = ("row_id", "source", "gpu", "gpus", "layers", "hidden", "heads", "seq_len", "gbs")
_KINDS = {field.name: str(field.type) for field in fields(Row)}


def read_rows(path: Path) -> tuple[Row, ...]:
    """Every row of a file, in its order. Raises InputError with every problem of it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or ())
            problems: list[Problem] = []
            rows = tuple(_row(line, number, problems) for number, line in enumerate(reader, 2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        rule = getattr(error, "strerror", None) or str(error)
        raise InputError.single("command line", "--against", str(path), rule, "a CSV file of runs") from None
    if not rows:
        problems.append(Problem("--against", str(path), "holds no runs", "a line below its header"))
    if problems:
        raise InputError(str(path), problems)
    return rows


def _check_columns(path: Path, columns: tuple[str, ...] | list[str]) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        near = [
            Problem(name, "missing", "a column that must be there", did_you_mean(name, columns)) for name in missing
        ]
        raise InputError(str(path), near)


def _row(line: Mapping[str, str], number: int, problems: list[Problem]) -> Row:
    values: dict[str, object] = {}
    for name, kind in _KINDS.items():
        text = (line.get(name) or "").strip()
        if kind == "str":
            values[name] = text
            continue
        try:
            values[name] = None if not text else float(text) if kind.startswith("float") else int(float(text))
        except ValueError:
            problems.append(Problem(f"line {number}: {name}", text, "must be a number", "a number, or nothing"))
    return Row(**values)  # type: ignore[arg-type]
