"""Running rows: all of one world size in one set of processes, whose start is most of the cost."""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import expert_oracle
import oracle
import torch
from harness import RankError, run_ranks
from oracle import Curve
from torch import Tensor

from parity_table.memory import predicted_peak_bytes
from parity_table.outcome import Outcome, outcome
from parity_table.ranks import Fault, Found, Task, answer, run_tasks
from parity_table.row import Row
from parity_table.written import EXPERTS, logits_of, write_model

STEPS = 20


class Reference(NamedTuple):
    """The training of one process, and the logits of its first step where the weights come from files."""

    curve: Curve
    logits: Tensor | None = None


def reference(row: Row, steps: int, files: Path | None = None) -> Reference:
    """Of the row's model; `files` is where its weights are to be written before."""
    job = row.plan.job
    return _reference(json.dumps(row.config, sort_keys=True), steps, job.seq_len, job.global_batch, files)


@cache
def _reference(config_text: str, steps: int, seq_len: int, global_batch: int, files: Path | None) -> Reference:
    config = json.loads(config_text)
    train = oracle.train_reference if EXPERTS.isdisjoint(config) else expert_oracle.train_reference
    asked = {"steps": steps, "seq_len": seq_len, "global_batch": global_batch}
    if files is None:
        return Reference(train(config, **asked))
    model = write_model(config, files)
    logits = logits_of(model, seq_len, global_batch)
    return Reference(train(config, **asked, model=model), logits)


def run_rows(
    rows: Iterable[Row],
    folder: Path,
    *,
    steps: int = STEPS,
    memory: bool = True,
    written: bool = False,
    fault: Fault | None = None,
) -> dict[str, Outcome]:
    """What every row shows, by name. `written`: weights come from files of transformers, and logits are compared, too;
    `fault`: what is to be spoilt, to see that the bars see it."""
    worlds: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        worlds[row.world].append(row)
    found: dict[str, Outcome] = {}
    for world, left in sorted(worlds.items()):
        while left:
            tasks = [_task(row, folder, steps, memory, written, fault) for row in left]
            done = _run_world(world, left, tasks, folder)
            found |= done
            left = left[len(done) :]
    return found


def _run_world(world: int, rows: Sequence[Row], tasks: list[Task], folder: Path) -> dict[str, Outcome]:
    """Outcomes of the first rows: of all, or up to the first one that fails."""
    words = ""
    answers = Path(tempfile.mkdtemp(dir=folder))
    try:
        run_ranks(world, run_tasks, tasks, answers, timeout_s=60.0 + 20.0 * len(rows))
    except RankError as error:
        words = str(error)
    found = {}
    for number, (row, task) in enumerate(zip(rows, tasks, strict=True)):
        files = [answer(answers, number, rank) for rank in range(world)]
        if not all(file.exists() for file in files):
            return {**found, row.name: Outcome(error=words)}
        found[row.name] = _judge(row, task, [pickle.loads(file.read_bytes()) for file in files])
    return found


def _task(row: Row, folder: Path, steps: int, memory: bool, written: bool, fault: Fault | None) -> Task:
    wide, compiler = row.wide_plan if memory else None, row.options.get("compiler")
    saved = _saved(row, steps, folder, written)
    return Task(row.plan, wide, saved, steps, fault, compiler, saved.with_suffix("") if written else None)


def _saved(row: Row, steps: int, folder: Path, written: bool) -> Path:
    """The reference of a row's model in a file that all ranks read; weights that are written lie beside it."""
    name = hashlib.sha256(
        json.dumps([row.config, row.plan.job.model_dump(), steps], sort_keys=True).encode()
    ).hexdigest()[:16]
    path = folder / f"{name}.pt"
    if not path.exists():
        curve, logits = reference(row, steps, path.with_suffix("") if written else None)
        torch.save({"gradients": curve.gradients, "parameters": curve.parameters, "logits": logits}, path)
    return path


def _judge(row: Row, task: Task, ranks: list[Found]) -> Outcome:
    curve, logits = reference(row, task.steps, task.files)
    predicted = 0 if task.wide_plan is None else predicted_peak_bytes(task.wide_plan)
    numbers = 0 if logits is None else logits.numel()
    return outcome(ranks, curve.losses, set(curve.parameters), predicted, numbers)
