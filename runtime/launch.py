"""Start the workers of a plan on this machine, through torchrun's own elastic agent, and see them to the end.

On several nodes the same call runs on each of them, with torchrun's rendezvous arguments.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..clusters.local import usable_cores
from ..errors import InputError, Problem, RunError, gather
from ..planner.families import architecture
from ..planner.plan import Plan
from .checks import problems as runtime_problems
from .failures import held_up, run_error
from .follow import OnEvent, following
from .manifest import complete_checkpoints
from .placement import device_type, logical_rank, workers_per_node
from .recipe import Recipe
from .recipe_checks import recipe_problems
from .rendezvous import Rendezvous, check_rendezvous
from .run_folder import RunFolder, check_unchanged, in_use, make_folders, open_run
from .signals import LAUNCHED, stopping_by_signal
from .tokens import check_source, check_tokens, least_tokens, prepare_tokens

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

    from .agent_logs import WorkerLogs

_MONITOR_S = 0.1  # between two looks at the workers


def launch(
    plan: Plan, recipe: Recipe, run_dir: Path, *,
    rendezvous: Rendezvous | None = None, max_restarts: int = 3, on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:  # fmt: skip
    """Train, or continue, in `run_dir`; returns what is in its result.json.

    `on_event` is called from a thread: metrics have `step`, other events `event` and `message`. SIGTERM, SIGUSR1
    and Ctrl-C let the workers finish their step and write a checkpoint; the result's status is then `stopped`.
    After a crash the workers start again from the newest checkpoint, at most `max_restarts` times.
    Raises InputError before anything starts, RunError with the words of the rank that failed first.
    """
    rendezvous = rendezvous or Rendezvous()
    check_all(plan, recipe, run_dir, rendezvous)
    run = make_folders(run_dir)
    with in_use(run) if rendezvous.nnodes == 1 else nullcontext():
        check_unchanged(run_dir, plan, recipe)  # again: another launch may have started and ended since
        _check_checkpoint(run, plan)
        _check_tokens(plan, recipe, run)
        open_run(run_dir, plan, recipe)
        if (done := _finished(run, recipe)) is not None:
            message = f"{run_dir} already has its {recipe.steps} steps; a larger --steps continues it"
            on_event({"event": "finished", "message": message})
            return done
        before = _signature(run.result)
        stalls: list[str] = []
        try:
            with following(run, recipe.timeout_s, _noting(stalls, on_event)):
                _run_agent(plan, run, rendezvous, max_restarts)
        except RunError as error:
            raise held_up(error, stalls) from None
        return _result(run, before)


def _noting(stalls: list[str], on_event: OnEvent) -> OnEvent:
    """As `on_event`, and remembers which ranks the newest attempt has waited for."""

    def note(event: Mapping[str, Any]) -> None:
        if event.get("event") == "stalled":
            stalls.append(event["message"])
        elif "step" in event:
            stalls.clear()
        on_event(event)

    return note


def check_all(plan: Plan, recipe: Recipe, run_dir: Path, rendezvous: Rendezvous) -> None:
    """Everything that can be checked before a file is written. Raises InputError with all that is wrong."""
    gather(
        lambda: _refuse("launch", check_launch(plan, rendezvous)),
        lambda: check_source(recipe, RunFolder(run_dir).data),
        lambda: _refuse("recipe", recipe_problems(plan, recipe, RunFolder(run_dir))),
        lambda: check_unchanged(run_dir, plan, recipe),
    )


def check_launch(plan: Plan, rendezvous: Rendezvous) -> list[Problem]:
    """Everything that keeps this plan from running here, before any process is started."""
    problems = [*runtime_problems(plan, plan.configuration.mesh.world), *check_rendezvous(plan, rendezvous)]
    if plan.job.precision not in plan.cluster.node_groups[0].device.peak_flops:
        rule = f"has no peak for {plan.job.precision}, without which there is no MFU"
        problems.append(Problem("cluster.node_groups[0].device.peak_flops", None, rule))
    if device_type(plan) == "cuda" and rendezvous.nnodes > 0:
        problems += _check_devices(plan, rendezvous.nnodes)
    return problems


def _check_devices(plan: Plan, nnodes: int) -> Iterator[Problem]:
    import torch

    here, needed = torch.cuda.device_count(), workers_per_node(plan, nnodes)
    if here < needed:
        found = f"this machine has {here}" if torch.cuda.is_available() else "torch finds none on this machine"
        rule = f"the plan needs {needed} {plan.cluster.node_groups[0].device.name} on each of {nnodes} nodes; {found}"
        yield Problem("cluster", plan.cluster.name, rule, "plan for this machine: meshwright plan MODEL local")


def _check_tokens(plan: Plan, recipe: Recipe, run: RunFolder) -> None:
    tokens = prepare_tokens(recipe, run.data)
    vocab = architecture(plan.model).vocab
    _refuse("recipe", check_tokens(tokens, vocab, least_tokens(plan.job), plan.job.global_batch))


def _check_checkpoint(run: RunFolder, plan: Plan) -> None:
    """Only a run that has checkpoints pays for torch here."""
    if complete_checkpoints(run.checkpoints):
        from .admission import check_checkpoint

        check_checkpoint(run, plan)


def _refuse(source: str, problems: list[Problem]) -> None:
    if problems:
        raise InputError(source, problems)


def _run_agent(plan: Plan, run: RunFolder, rendezvous: Rendezvous, max_restarts: int) -> None:
    """Until the workers are done. Raises RunError when they are not."""
    import torch.distributed
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    from .agent_logs import WorkerLogs, agent_log

    workers = workers_per_node(plan, rendezvous.nnodes)
    logs = WorkerLogs(run.logs)
    config = _config(run, rendezvous, workers, max_restarts, logs)
    agent = elastic_launch(config, sys.executable)
    failed = f"the nodes did not find each other at {rendezvous.endpoint}"
    with _environment(workers), agent_log(run.logs / "agent.log"), stopping_by_signal(run.heartbeats, workers):
        try:
            agent("-m", f"{__package__}.worker", str(run.path.absolute()))
        except ChildFailedError as error:
            world = plan.configuration.mesh.world
            failures = {logical_rank(plan, process): failure for process, failure in error.failures.items()}
            raise run_error(failures, logs.error_files, world, nnodes=rendezvous.nnodes) from None
        except (RendezvousError, torch.distributed.DistError) as error:
            raise RunError(f"{failed}: {error}; the log of the agent: {run.logs / 'agent.log'}") from None
        except KeyboardInterrupt:
            raise RunError("interrupted before a checkpoint could be written") from None


def _config(run: RunFolder, rendezvous: Rendezvous, workers: int, max_restarts: int, logs: WorkerLogs) -> LaunchConfig:
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=rendezvous.nnodes,
        max_nodes=rendezvous.nnodes,
        nproc_per_node=workers,
        run_id=rendezvous.run_id or run.path.absolute().name,
        rdzv_backend=rendezvous.backend,
        rdzv_endpoint=rendezvous.endpoint,
        rdzv_configs={"rank": rendezvous.node_rank} if rendezvous.backend == "static" else {},
        max_restarts=max_restarts,
        monitor_interval=_MONITOR_S,
        logs_specs=logs,
        signals_to_handle="SIGHUP,SIGQUIT",  # the others are ours: see signals.py
    )


@contextmanager
def _environment(workers: int) -> Iterator[None]:
    """What the workers inherit, and the agent reads.

    Restarted workers must not read the dead ones' addresses in a shared store (pytorch#135712).
    """
    changed = {
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // workers))),
        LAUNCHED: "1",
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _finished(run: RunFolder, recipe: Recipe) -> dict[str, Any] | None:
    """The result of a run that already has all its steps."""
    if not run.result.exists():
        return None
    result = _read(run.result)
    return result if result.get("status") == "finished" and result.get("steps", 0) >= recipe.steps else None


def _signature(path: Path) -> tuple[int, int] | None:
    """Of a file that is only ever replaced: which one it is. Not by the time: the clocks of nodes differ."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _result(run: RunFolder, before: tuple[int, int] | None) -> dict[str, Any]:
    """What this launch left. Workers that end without a result were ended by somebody else."""
    if _signature(run.result) in (None, before):
        raise RunError(f"the workers ended without finishing; their logs are in {run.logs}")
    return _read(run.result)


def _read(path: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        rule = "is damaged"
        raise InputError.single("run folder", "result", str(path), rule, "delete it: the run resumes") from None
    return result
