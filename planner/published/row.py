"""Row: one published run, as a line of a CSV file says it; nothing assumed, nothing computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ...errors import Problem, did_you_mean
from .sheet import number, read_sheet, refuse


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
    notes: str = ""
    fw_version: str = ""
    step_time_s: float | None = None
    peak_mem_gb: float | None = None
    oom: str = ""
    derived_dp: float | None = None  # not whole where a row contradicts itself
    derived_step_time_s: float | None = None
    consistent: str = ""
    layout_complete: str = ""
    dup_group: str = ""

    @property
    def measured_step_time_s(self) -> float | None:
        """As published, else computed from published tokens or samples per second."""
        return self.step_time_s or self.derived_step_time_s


OUTCOMES = ("", "no", "oom", "crashed_or_oom", "would_not_fit_80GB")
"""What the column `oom` may say: any other word would count a run as one that ran."""

REQUIRED = ("row_id", "source", "gpu", "gpus", "layers", "hidden", "heads", "seq_len", "gbs")
_KINDS = {field.name: str(field.type) for field in fields(Row)}


def read_rows(path: Path) -> tuple[Row, ...]:
    """Every row of a file, in its order. Raises InputError with every problem of it."""
    problems: list[Problem] = []
    rows = tuple(_row(cells, line, problems) for line, cells in read_sheet(path, REQUIRED))
    refuse(path, problems)
    return rows


def _row(cells: Mapping[str, str], line: int, problems: list[Problem]) -> Row:
    values: dict[str, object] = {}
    for name, kind in _KINDS.items():
        text = cells.get(name, "").strip()
        try:
            values[name] = text if kind == "str" else number(text, whole=kind.startswith("int"))
        except ValueError as error:
            problems.append(Problem(f"line {line}: {name}", text, str(error)))
    rule = "must be empty or a known outcome"
    if (oom := str(values.get("oom", ""))) not in OUTCOMES:
        problems.append(Problem(f"line {line}: oom", oom, rule, did_you_mean(oom, OUTCOMES[1:])))
    return Row(**values) if values.keys() == _KINDS.keys() else _UNREADABLE  # type: ignore[arg-type]


_UNREADABLE = Row(row_id="", source="", gpu="")  # stands for a line with problems until they are raised
