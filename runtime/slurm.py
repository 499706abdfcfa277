"""Slurm: the sbatch script that runs a plan, and handing it in."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, Problem, RunError
from ..planner.plan import Plan
from .placement import devices_of_nodes, workers_per_node

_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")  # sbatch(1), --time


_SCRIPT = """\
#!/bin/bash
{options}
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Slurm signals this shell, not the job step: hand it on, let the step checkpoint, and queue the job again.
again=
trap 'again=yes; kill -USR1 "$step" 2>/dev/null || true' USR1

export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}  # srun stopped inheriting it in Slurm 22.05
srun --kill-on-bad-exit=1 {launch} --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:{port}" &
step=$!
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do code=0; wait "$step" || code=$?; done  # a signal ends wait early
if [ -n "$again" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


_NUMBERED = 'exec "$@" --node-rank "$SLURM_NODEID"'
"""Runs its arguments as the node that it is on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions:
    """What Slurm needs to know beside the plan. None: the site's default."""

    partition: str | None = None
    account: str | None = None
    time: str | None = None  # as sbatch has it: 30, 4:00:00, 2-12
    job_name: str | None = None  # default: the name of the run folder
    port: int = 29500
    extra: tuple[str, ...] = ()  # further #SBATCH options, as written: --constraint=h100


def check_slurm(options: SlurmOptions) -> list[Problem]:
    """What sbatch would refuse."""
    problems = []
    if options.time is not None and not _TIME.fullmatch(options.time):
        problems.append(Problem("--time", options.time, "is not a time limit of sbatch", "4:00:00 or 2-12"))
    if not 1024 <= options.port <= 65535:
        problems.append(Problem("--port", options.port, "must lie between 1024 and 65535", "29500"))
    problems += [
        Problem("--slurm", text, "an option of sbatch starts with --", f"--{text.lstrip('-')}")
        for text in options.extra
        if not text.startswith("--") or "\n" in text
    ]
    return problems


def sbatch_script(plan: Plan, run_dir: Path, options: SlurmOptions, python: str = "python") -> str:
    """A script whose job continues the run folder `run_dir`, and after a pre-emption continues it again.

    One task a node starts torchrun's agent. Five minutes before its time is up the job is told to checkpoint
    (SIGUSR1) and queued again. `run_dir` must lie on a file system that all nodes share.
    Raises InputError with every wrong option.
    """
    problems = check_slurm(options)
    if problems:
        raise InputError("slurm", problems)
    run = run_dir.absolute()
    nodes, workers = _shape(plan)
    launch = [python, "-m", "meshwright", "launch", str(run), "--nnodes", str(nodes)]
    if plan.rank_map and nodes > 1:  # Slurm numbers nodes as the plan does: in the order of the list of nodes
        launch = ["bash", "-c", _NUMBERED, "launch", *launch, "--rdzv-backend", "static"]
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in _options(plan, options, run, nodes, workers)),
        launch=shlex.join(launch), port=options.port,
    )  # fmt: skip


def _shape(plan: Plan) -> tuple[int, int]:
    """Nodes and workers a node."""
    world = plan.configuration.mesh.world
    if plan.rank_map:
        nodes = len(devices_of_nodes(plan))
        return nodes, workers_per_node(plan, nodes)
    per_node = min(world, plan.cluster.node_groups[0].devices_per_node)
    nodes = -(-world // per_node)
    return nodes, workers_per_node(plan, nodes)


def _options(plan: Plan, options: SlurmOptions, run: Path, nodes: int, workers: int) -> list[str]:
    group = plan.cluster.node_groups[0]
    chosen = {
        "job-name": options.job_name or run.name,
        "nodes": nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": workers if group.device.kind != "cpu" else None,
        "cpus-per-task": group.host.cores,
        "exclusive": "",
        "partition": options.partition,
        "account": options.account,
        "time": options.time,
        "output": run / "logs" / "%x-%j.log",
        "open-mode": "append",
        "signal": "B:USR1@300",
        "requeue": "",
    }
    named = [f"--{name}={shlex.quote(str(value))}" if value != "" else f"--{name}" for name, value in chosen.items()
             if value is not None]  # fmt: skip
    return [*named, *options.extra]


def write_and_submit(script: str, path: Path) -> str:
    """Write the script and hand it to sbatch; its answer, e.g. `Submitted batch job 42`. The file stays."""
    path.write_text(script)
    path.chmod(0o755)
    return submit(path)


def submit(path: Path) -> str:
    """Hand a script to sbatch. Raises InputError without sbatch here, RunError when it refuses."""
    if shutil.which("sbatch") is None:
        rule = f"sbatch is not installed on this machine; the script is in {path}"
        raise InputError.single("launch", "--slurm", None, rule, f"sbatch {path} on the login node of the cluster")
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"sbatch refused {path}: {done.stderr.strip()}")
    return done.stdout.strip()
