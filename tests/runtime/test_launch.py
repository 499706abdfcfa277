"""The launcher with real workers: to the end, through a kill, through a failure, and refused beforehand."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from plans import LLAMA, make_plan

from meshwright.errors import InputError, RunError
from meshwright.planner.plan import Plan
from meshwright.runtime.launch import check_launch, launch
from meshwright.runtime.manifest import aside, damage
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.rendezvous import Rendezvous
from meshwright.runtime.run_folder import in_use, open_run
from meshwright.runtime.watch import read_beats
from meshwright.runtime.worker import Ranks, read_ranks

# torch's agent leaves the log files of its workers to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(2000)))
    return path


def recipe(text: Path, **other: Any) -> Recipe:
    settings = {"steps": 12, "data": str(text), "lr": 3e-3, "checkpoint_every": 3, "timeout_s": 60}
    return Recipe.model_validate({**settings, **other})


def once(run: Path, step: int, number: signal.Signals, rank: int | None) -> Any:
    """An observer that sends a signal at a step: to a worker, or to this process (None)."""
    sent = []

    def observe(event: Mapping[str, Any]) -> None:
        if event.get("step", 0) >= step and not sent:
            sent.append(event)
            beats = {beat.rank: beat.pid for beat in read_beats(run / "heartbeats", 0)}
            os.kill(os.getpid() if rank is None else beats[rank], number)

    return observe


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_worker_is_started_again_and_the_run_ends(tmp_path: Path, text: Path) -> None:
    run, many = tmp_path / "run", recipe(text, steps=20)
    result = launch(make_plan(LLAMA, dp=2), many, run, on_event=once(run, 7, signal.SIGKILL, rank=1))
    assert (result["status"], result["steps"]) == ("finished", 20)
    assert steps_of(run) == list(range(1, 21))
    assert any("resumed from step" in line for line in (run / "events.jsonl").read_text().splitlines())
    attempts = sorted(path.name for path in run.glob("logs/*/attempt_*"))
    assert attempts == ["attempt_0", "attempt_1"]
    assert list((run / "heartbeats").iterdir()) == []
    events: list[Mapping[str, Any]] = []
    assert launch(make_plan(LLAMA, dp=2), many, run, on_event=events.append) == result
    assert [event["event"] for event in events] == ["finished"]


def test_a_wish_to_stop_leaves_a_checkpoint(tmp_path: Path, text: Path) -> None:
    run, many = tmp_path / "run", recipe(text, steps=400, checkpoint_every=1000)
    stopped = launch(make_plan(LLAMA, dp=2), many, run, on_event=once(run, 3, signal.SIGTERM, rank=None))
    assert stopped["status"] == "stopped"
    assert 3 < stopped["steps"] < 400
    assert stopped["checkpoint"].endswith(f"step-{stopped['steps']:08}")
    assert steps_of(run) == list(range(1, stopped["steps"] + 1))


def test_the_failing_rank_speaks_first(tmp_path: Path, text: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError) as caught:
        launch(
            make_plan(LLAMA, dp=2), recipe(text, steps=400), run,
            max_restarts=0, on_event=once(run, 3, signal.SIGABRT, rank=1),
        )  # fmt: skip
    assert str(caught.value).startswith("the worker process was killed by SIGABRT\n  on rank 1 of 2; its log: ")


@pytest.mark.slow
def test_a_stopped_worker_is_named_and_the_run_ends(tmp_path: Path, text: Path) -> None:
    run, events = tmp_path / "run", []
    stop = once(run, 7, signal.SIGSTOP, rank=1)

    def observe(event: Mapping[str, Any]) -> None:
        events.append(event)
        stop(event)

    result = launch(make_plan(LLAMA, dp=2), recipe(text, steps=20, timeout_s=5), run, on_event=observe)
    assert result["status"] == "finished"
    assert steps_of(run) == list(range(1, 21))
    assert [event["rank"] for event in events if event.get("event") == "stalled"] == [1]


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_launcher(tmp_path: Path, text: Path) -> None:
    run = tmp_path / "run"
    open_run(run, make_plan(LLAMA, dp=2), recipe(text, steps=100_000))
    command = [sys.executable, "-c", NODE.replace("nnodes=2, ", ""), str(run), "localhost:0"]
    launcher = subprocess.Popen(command)
    wait_for(lambda: run.joinpath("metrics.jsonl").exists() and len(steps_of(run)) > 3)
    pids = [beat.pid for beat in read_beats(run / "heartbeats", 0)]
    assert len(pids) == 2
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


NODE = """
import sys
from pathlib import Path
from meshwright.planner.plan import load_plan
from meshwright.runtime.launch import launch
from meshwright.runtime.rendezvous import Rendezvous
from meshwright.runtime.manifest import aside, damage
from meshwright.runtime.recipe import load_recipe
run = Path(sys.argv[1])
rendezvous = Rendezvous(nnodes=2, endpoint=sys.argv[2], run_id="two")
result = launch(load_plan(run / "plan.yaml"), load_recipe(run / "recipe.yaml"), run, rendezvous=rendezvous)
print(result["status"], result["steps"])
"""


def test_two_nodes_run_the_same_command(tmp_path: Path, text: Path) -> None:
    """Two agents, each with one worker, meet at an address that both are given."""
    open_run(tmp_path, make_plan(LLAMA, dp=2), recipe(text, steps=4))
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-c", NODE, str(tmp_path), endpoint]
    nodes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [node.communicate(timeout=120) for node in nodes]
    assert [out for out, _ in ended] == ["finished 4\n"] * 2, [err for _, err in ended]
    assert len(list(tmp_path.glob("logs/two_*/attempt_0/0/stderr.log"))) == 2


def test_a_run_folder_serves_one_launch_at_a_time(tmp_path: Path, text: Path) -> None:
    plan = make_plan(LLAMA, dp=2)
    with in_use(open_run(tmp_path, plan, recipe(text))), pytest.raises(InputError, match="another launch is training"):
        launch(plan, recipe(text), tmp_path)


def changed(plan: Plan, **fields: Any) -> Plan:
    return Plan.model_validate({**plan.model_dump(mode="json", by_alias=True), **fields})


def test_a_run_folder_refuses_another_training_and_takes_another_mesh(tmp_path: Path, text: Path) -> None:
    plan = make_plan(LLAMA, dp=2)
    open_run(tmp_path, plan, recipe(text))
    open_run(tmp_path, make_plan(LLAMA, pp=2), recipe(text, steps=99, lr=1e-4))
    other = make_plan({**LLAMA, "hidden_size": 128}, dp=2, seq_len=16)
    with pytest.raises(InputError) as caught:
        open_run(tmp_path, other, recipe(text, seed=1, tokenizer="t.json"))
    fields = {problem.field for problem in caught.value.problems}
    assert fields == {"model.config.hidden_size", "job.seq_len", "recipe.seed", "recipe.tokenizer"}


def test_a_run_folder_keeps_its_loss(tmp_path: Path, text: Path) -> None:
    plan = make_plan(LLAMA, dp=2)
    open_run(tmp_path, plan, recipe(text))
    open_run(tmp_path, plan, recipe(text, experts={"record_every": 5}))
    with pytest.raises(InputError) as caught:
        open_run(tmp_path, plan, recipe(text, separate_documents=True, dropout=False, experts={"aux_loss": 0.1}))
    fields = {problem.field for problem in caught.value.problems}
    assert fields == {"recipe.separate_documents", "recipe.dropout", "recipe.experts.aux_loss"}


def test_everything_is_refused_before_a_worker_starts(tmp_path: Path, text: Path) -> None:
    plan = make_plan(LLAMA, dp=2)
    cluster = plan.cluster.model_dump(mode="json", by_alias=True)
    cluster["node_groups"][0]["device"]["kind"] = "cuda"
    problems = check_launch(changed(plan, cluster=cluster, swap_layers=2), Rendezvous(nnodes=3))
    fields = {problem.field for problem in problems}
    assert {"--nnodes", "--rdzv-endpoint", "swap_layers"} <= fields
    if not torch.cuda.is_available():
        assert "cluster" in fields
    small = make_plan({**LLAMA, "vocab_size": 64}, dp=2)
    with pytest.raises(InputError, match="the model's vocabulary has 64"):
        launch(small, recipe(text), tmp_path / "run")
    assert not list(tmp_path.glob("run/logs/*"))


def test_without_an_intact_checkpoint_no_launch_begins_again(tmp_path: Path, text: Path) -> None:
    """Also the launch after the one that set the damaged ones aside: it would silently train from the start."""
    run, plan = tmp_path / "run", make_plan(LLAMA)
    two, four = recipe(text, steps=2), recipe(text, steps=4)
    launch(plan, two, run)
    (checkpoint,) = (run / "checkpoints").iterdir()
    next(checkpoint.glob("*.distcp")).write_bytes(b"")
    assert damage(checkpoint)
    for _ in range(2):
        with pytest.raises(RunError, match="no checkpoint is intact"):
            launch(plan, four, run)
    assert len(list((run / "logs").glob("*/attempt_*"))) == 3  # one each: nothing was tried again
    shutil.rmtree(aside(run / "checkpoints")[0])
    assert launch(plan, four, run)["steps"] == 4


def test_a_worker_reads_torchrun_or_slurm() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "2"}
    assert read_ranks({**torchrun, **slurm}) == Ranks(3, 8, 1)
    assert read_ranks(slurm) == Ranks(5, 16, 2)
    with pytest.raises(InputError, match="started by meshwright launch, torchrun or srun"):
        read_ranks({})
