"""The verb `profile`: from what the user gave to what is measured, compared or learned, all problems at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError, Problem, gather

if TYPE_CHECKING:
    from .clusters.difference import Difference
    from .clusters.schema import Cluster
    from .profiler.parts import Asked

INTERRUPTED = "interrupted"


def one_purpose(given: Mapping[str, Any]) -> None:
    """Raises InputError where options of measuring, comparing and learning stand beside each other.

    `given`: options as written, with what they hold.
    """
    written = list(given)
    purposes = [name for name in ("--diff", "--from-run", "--from-log") if name in written]
    if not purposes:
        needed = {"--cluster": "--from-log runs.csv", "RUN": "--from-run RUN"}
        needed |= {} if "--model" in written else dict.fromkeys(("--seq-len", "--global-batch"), "--model MODEL")
        wrong = [Problem(name, given[name], f"goes with {fix}", fix) for name, fix in needed.items() if name in written]
        if wrong:
            raise InputError("command line", wrong)
        return
    kept = {purposes[0], "--json"} | ({"--out"} if purposes[0] != "--diff" else set())
    kept |= {"--from-log": {"--cluster"}, "--from-run": {"RUN"}}.get(purposes[0], set())
    rule = f"has nothing to do with {purposes[0]}"
    wrong = [Problem(name, None, rule, "leave one of them out") for name in written if name not in kept]
    if wrong:
        raise InputError("command line", wrong)


def compare(before: str, after: str) -> Difference:
    """Two cluster files (or names). Raises InputError with the problems of both."""
    from .clusters import load_cluster
    from .clusters.difference import difference

    return difference(*gather(partial(load_cluster, before), partial(load_cluster, after)))


def request(
    budget: str, folder: Path | None, out: Path | None, model: str | None, seq_len: int, global_batch: int
) -> tuple[float, Asked]:
    """Seconds to spend and what the profile is for. Raises InputError with every problem."""
    from .planning import quantity
    from .profiler.parts import Asked
    from .schema import check_output
    from .units import parse_duration

    def budget_s() -> float:
        seconds = quantity("--budget", budget, parse_duration)
        if seconds <= 0:
            raise InputError.single("command line", "--budget", budget, "must be above 0 seconds", "20s")
        return seconds

    checks: list[Callable[[], Any]] = [budget_s, lambda: _model(model, seq_len, global_batch)]
    checks += [partial(check_output, out)] if out else []
    checks += [partial(_check_folder, folder)] if folder else []
    seconds = gather(*checks)[0]
    return seconds, Asked(model, seq_len, global_batch)


def _model(model: str | None, seq_len: int, global_batch: int) -> None:
    from .planner.families import load_model
    from .planner.job import job_of_options

    if model is not None:
        job = {"seq_len": seq_len, "global_batch": global_batch, "precision": "bf16", "optimizer": "adamw"}
        gather(partial(load_model, model), partial(job_of_options, job))


def _check_folder(folder: Path) -> None:
    """It is there or can be made, and may be written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError.single("command line", "--folder", str(folder), f"{there} is not a folder", "another name")
    if not os.access(there, os.W_OK):
        raise InputError.single(
            "command line", "--folder", str(folder), f"{there} may not be written to", "another one"
        )


def workers_of(given: int | None) -> tuple[int, list[str]]:
    """How many, and what there is to say about it. Raises InputError where there cannot be so many."""
    from .clusters.local import MOST_WORKERS, usable_cores, visible_gpus

    gpus, cores = len(visible_gpus()), usable_cores()
    count = given if given is not None else gpus or min(8, cores)
    if count < 1 or count > MOST_WORKERS:
        rule = f"must be between 1 and {MOST_WORKERS} on one machine"
        raise InputError.single("command line", "--workers", count, rule, str(min(max(count, 1), MOST_WORKERS)))
    if gpus and count > gpus:
        return count, [f"{count} workers on {gpus} GPUs: all share the processor instead, and no GPU is measured"]
    if count > cores and not gpus:
        return count, [f"{count} workers share {cores} cores: each is measured as slow as it is beside the others"]
    return count, []


def was_interrupted(cluster: Cluster) -> bool:
    """Whether Ctrl-C ended the profile."""
    return cluster.measured is not None and any(note.why.startswith(INTERRUPTED) for note in cluster.measured.notes)


def learned(runs: list[Path], log: Path | None, cluster: str | None) -> Any:
    """What runs taught about a cluster: `calibrated.cluster` with its adjustment. Raises InputError."""
    if runs:
        from .profiler.from_run import from_run

        return from_run(runs)
    from .profiler.from_log import from_log

    assert log is not None
    return from_log(log, cluster)
