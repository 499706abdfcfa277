"""Run a function on several ranks, each a process of its own, joined by gloo.

A fork server that has imported torch once makes a world of eight start in about a second. Functions
are found by import: they live in a module beside this one, not in a test file.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

PRELOAD = ["meshwright.tests.runtime.preloaded"]


class Answer(NamedTuple):
    """A result, or a traceback, and when it came (one clock for all processes of the machine)."""

    failed: bool
    value: Any
    at_s: float


class RankError(AssertionError):
    """A rank raised, died or did not finish; carries its own words."""


def run_ranks(world: int, function: Callable[..., Any], *args: Any, timeout_s: float = 60.0) -> list[Any]:
    """Call `function(*args)` on every rank of a fresh default process group; the results, by rank.

    The first failure is raised with that rank's traceback; nothing is left running.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(world):
            receive, send = context.Pipe(duplex=False)
            arguments = (rank, world, Path(folder) / "store", send, timeout_s, function, args)
            process = context.Process(target=_rank, args=arguments)
            process.start()
            send.close()
            pipes.append(receive)
            processes.append(process)
        try:
            return _collect(pipes, time.monotonic() + timeout_s)
        finally:
            _stop(processes)


def _collect(pipes: list[Connection], deadline: float) -> list[Any]:
    answers: dict[int, Answer] = {}
    while len(answers) < len(pipes):
        waiting = {pipe: rank for rank, pipe in enumerate(pipes) if rank not in answers}
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        answers |= {rank: _receive(pipe) for pipe, rank in waiting.items() if pipe in ready}
        failed = any(answer.failed for answer in answers.values())
        if not ready and not failed:
            raise RankError(f"ranks {sorted(waiting.values())} did not finish in time")
        if not ready:
            break
        if failed:  # its peers fail after it: hear them too, to blame the first
            deadline = min(deadline, time.monotonic() + 0.3)
    return _results(answers)


def _results(answers: dict[int, Answer]) -> list[Any]:
    failed = [rank for rank, answer in answers.items() if answer.failed]
    if failed:
        first = min(failed, key=lambda rank: answers[rank].at_s)
        raise RankError(f"rank {first}:\n{answers[first].value}")
    return [answers[rank].value for rank in sorted(answers)]


def _receive(pipe: Connection) -> Answer:
    try:
        answer: Answer = pipe.recv()
    except EOFError:
        return Answer(True, "died without a word", time.monotonic())
    return answer


def _stop(processes: list[ForkServerProcess]) -> None:
    patience = time.monotonic() + 2.0
    for process in processes:
        process.join(timeout=max(0.0, patience - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _rank(
    rank: int,
    world: int,
    store: Path,
    send: Connection,
    timeout_s: float,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", RANK=str(rank), WORLD_SIZE=str(world))
    import torch
    import torch.distributed as dist

    from meshwright.runtime import compat

    torch.set_num_threads(1)
    warnings.filterwarnings("error", module=r"meshwright\.")
    compat.share_gloo_device()
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s)
        )
        result = function(*args)
        dist.barrier()
        send.send(Answer(False, result, time.monotonic()))
    except BaseException:
        send.send(Answer(True, traceback.format_exc(), time.monotonic()))
    finally:
        dist.destroy_process_group()
