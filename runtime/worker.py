"""One training process: `python -m meshwright.runtime.worker RUN_FOLDER`.

Everything it needs is in the run folder and in the environment, which torchrun's agent, plain torchrun and
srun all set. It does not know who started it.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.rendezvous import rendezvous

from ..errors import InputError
from ..planner.plan import Plan, load_plan
from .admission import admit
from .failures import first_cause
from .placement import device_type, local_device, logical_rank
from .recipe import Recipe, load_recipe
from .run_folder import RunFolder
from .stop import StopWish
from .watch import START_TIMEOUT_S, Heartbeat


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where this process stands."""

    rank: int
    world: int
    local_rank: int


def read_ranks(environment: Mapping[str, str]) -> Ranks:
    """From torchrun's variables, else from those of a Slurm step. Raises InputError without either."""
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")):
        if all(name in environment for name in names):
            rank, world, local_rank = (int(environment[name]) for name in names)
            return Ranks(rank, world, local_rank)
    rule = "is not set: a worker is started by meshwright launch, torchrun or srun"
    raise InputError.single("environment", "RANK", None, rule)


def join(ranks: Ranks, plan: Plan, timeout_s: float, rank: int) -> torch.device:
    """Take this process's device and join the process group as a plan's rank."""
    timeout, kind = timedelta(seconds=max(timeout_s, START_TIMEOUT_S)), device_type(plan)
    os.environ |= {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.world)}  # for env:// under srun
    device = torch.device("cpu")
    if kind == "cuda":
        device = torch.device("cuda", local_device(plan, rank, ranks.local_rank, torch.cuda.device_count()))
        torch.cuda.set_device(device)
    # env:// would let the first rank hold the store, but its address is that of the first process
    store, _, world = next(rendezvous("env://", timeout=timeout))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", store=store, rank=rank, world_size=world, timeout=timeout
    )
    os.environ["RANK"] = str(rank)
    return device


@record
def main() -> None:
    """Train this rank's share of the run folder named on the command line.

    Raises InputError before it joins a process group where the run cannot be trained by these processes, and what
    went wrong first where training fails.
    """
    run = RunFolder(Path(sys.argv[1]))
    plan, recipe, ranks = load_plan(run.plan), load_recipe(run.recipe), read_ranks(os.environ)
    admit(run, plan, recipe, ranks.world)
    try:
        _work(run, plan, recipe, ranks)
    except Exception as error:
        raise first_cause(error) from None


def _work(run: RunFolder, plan: Plan, recipe: Recipe, ranks: Ranks) -> None:
    from .train import train

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    wish, rank = StopWish(), logical_rank(plan, ranks.rank)
    heartbeat = Heartbeat(run.heartbeats, rank)  # from here on signals can find this process
    device = join(ranks, plan, recipe.timeout_s, rank)
    train(run, plan, recipe, device, wish, heartbeat.moved)
    dist.barrier()  # leaving early would look like a failure to those still working
    dist.destroy_process_group()
    heartbeat.close()


def start() -> None:
    """As `main`, with an end of its own for a worker that fails: at once.

    Leaving in order would wait for threads that wait for peers: a checkpoint being written, a collective.
    Wrong input is a reason and exit code 2, not a traceback.
    """
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        _leave(error.exit_code)
    except Exception:
        traceback.print_exc()
        _leave(1)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    start()
