"""Ranks on other devices: the same training, under the same names, and what is refused."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from plans import LLAMA, cluster, make_plan

from meshwright.clusters.schema import Cluster, Exceptions
from meshwright.errors import RunError
from meshwright.planner.plan import Plan
from meshwright.runtime.checks import problems
from meshwright.runtime.launch import launch
from meshwright.runtime.placement import local_device, logical_rank
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.rendezvous import Rendezvous, check_rendezvous
from meshwright.runtime.slurm import SlurmOptions, sbatch_script
from meshwright.runtime.watch import read_beats

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"),
]
MAP = (2, 0, 3, 1)


def nodes_of(count: int, devices: int) -> Cluster:
    """Several of those nodes."""
    group = cluster(devices).node_groups[0].model_copy(update={"nodes": count})
    return cluster(devices).model_copy(update={"node_groups": (group,)})


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(500)))
    return path


def recipe(text: Path, steps: int) -> Recipe:
    given = {"steps": steps, "data": str(text), "lr": 3e-3, "checkpoint_every": 2, "timeout_s": 60}
    return Recipe.model_validate(given)


def four(rank_map: tuple[int, ...]) -> Plan:
    return make_plan(LLAMA, pp=2, dp=2).model_copy(update={"rank_map": rank_map})


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_training_is_the_same_and_goes_on_in_another_order(tmp_path: Path, text: Path) -> None:
    """Losses and weights bit by bit; a checkpoint is one of the training, not of devices."""
    runs: list[tuple[str, tuple[int, ...]]] = [
        ("standard", ()),
        ("mapped", MAP),
        ("standard", ()),
        ("mapped", MAP[::-1]),
    ]
    for steps, (name, rank_map) in zip((4, 4, 6, 6), runs, strict=True):
        launch(four(rank_map), recipe(text, steps), tmp_path / name)
    assert losses(tmp_path / "mapped") == losses(tmp_path / "standard")
    assert len(losses(tmp_path / "mapped")) == 6
    exported = [exports(tmp_path / name / "final") for name in ("standard", "mapped")]
    assert exported[0] == exported[1]
    assert any(name.endswith(".safetensors") for name in exported[0])


def exports(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_errors_name_the_rank_and_show_the_log_of_its_process(tmp_path: Path, text: Path) -> None:
    sent: list[Mapping[str, Any]] = []

    def kill(event: Mapping[str, Any]) -> None:
        if event.get("step", 0) >= 3 and not sent:
            sent.append(event)
            beats = {beat.rank: beat.pid for beat in read_beats(tmp_path / "heartbeats", 0)}
            os.kill(beats[3], signal.SIGABRT)

    with pytest.raises(RunError) as caught:
        launch(four(MAP), recipe(text, 400), tmp_path, max_restarts=0, on_event=kill)
    told = str(caught.value)
    assert told.startswith("the worker process was killed by SIGABRT\n  on rank 3 of 4; its log: ")
    assert f"attempt_0/{MAP[3]}/stderr.log" in told


def test_processes_count_the_devices_that_are_used() -> None:
    assert [logical_rank(four(MAP), process) for process in range(4)] == [1, 3, 0, 2]
    assert [logical_rank(four((12, 4, 13, 5)), process) for process in range(4)] == [1, 3, 0, 2]
    assert [logical_rank(four(()), process) for process in range(4)] == [0, 1, 2, 3]


def test_a_rank_takes_the_device_that_its_map_says_where_all_are_seen() -> None:
    """Of nodes with four devices each, the second of a group after another one; or those that a process is shown."""
    two = [cluster(4).node_groups[0].model_copy(update={"nodes": nodes}) for nodes in (1, 2)]
    plan = four((9, 11, 0, 3)).model_copy(update={"cluster": cluster(4).model_copy(update={"node_groups": two})})
    local_ranks = [0, 1, 0, 1]
    assert [local_device(plan, rank, local_ranks[rank], 4) for rank in range(4)] == [1, 3, 0, 3]
    assert [local_device(plan, rank, local_ranks[rank], 2) for rank in range(4)] == local_ranks
    assert [local_device(plan, rank, local_ranks[rank], 1) for rank in range(4)] == [0, 0, 0, 0]
    assert [local_device(four(()), rank, rank, 4) for rank in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("rank_map", "expected"),
    [
        ((0, 1, 2), "rank_map = '3 devices': must have one device for each of the 4 ranks of the mesh, or be empty"),
        ((0, 1, 1, 3), "rank_map[2] = 1: rank 1 has this device already. Try: 2"),
        ((0, 1, 2, 4), "rank_map[3] = 4: must be a device of the cluster, which are numbered 0 to 3"),
        ((0, 1, 2, -1), "rank_map[3] = -1: must be a device of the cluster, which are numbered 0 to 3"),
    ],
)
def test_what_is_no_map_is_refused(rank_map: tuple[int, ...], expected: str) -> None:
    (told,) = map(str, problems(four(rank_map), 4))
    assert expected in told
    assert problems(four(MAP), 4) == []


def test_a_missing_device_is_refused() -> None:
    gone = Exceptions.model_validate({"nodes": [{"node": "node/0", "missing": [1]}]})
    part = cluster(5).model_copy(update={"exceptions": gone})
    plan = four((0, 2, 3, 4)).model_copy(update={"cluster": part})
    assert problems(plan, 4) == []
    wrong = plan.model_copy(update={"rank_map": (0, 1, 2, 3)})
    assert [problem.field for problem in problems(wrong, 4)] == ["rank_map[1]"]


def test_nodes_must_be_numbered_where_a_map_says_which_runs_what() -> None:
    meeting = {"nnodes": 2, "endpoint": "127.0.0.1:29500"}
    plan = four(MAP).model_copy(update={"cluster": nodes_of(2, 2)})
    found = list(check_rendezvous(plan, Rendezvous(**meeting, backend="c10d")))
    assert [problem.field for problem in found] == ["--rdzv-backend"]
    assert list(check_rendezvous(plan, Rendezvous(**meeting, backend="static"))) == []
    assert list(check_rendezvous(four(()), Rendezvous(**meeting, backend="c10d"))) == []


@pytest.mark.parametrize(
    ("rank_map", "expected"),
    [
        ((0, 2, 5, 6), []),
        ((0, 1, 2, 4), ["rank_map = '3, 1': has so many devices of its nodes, and must have as many of each"]),
        ((0, 3, 4, 8), ["--nnodes = 2: the plan has devices of 3 nodes (rank_map). Try: 3"]),
        ((0, 1, 2, 12), []),  # no device: said of the map itself
    ],
)
def test_every_node_has_as_many_devices_in_a_map(rank_map: tuple[int, ...], expected: list[str]) -> None:
    """Or a launcher, that starts as many processes on each, would put ranks on nodes that the map does not say."""
    plan = four(rank_map).model_copy(update={"cluster": nodes_of(3, 4)})
    found = check_rendezvous(plan, Rendezvous(nnodes=2, endpoint="127.0.0.1:29500", backend="static"))
    for said, start in zip(map(str, found), expected, strict=True):
        assert said.startswith(start)


def test_slurm_asks_for_the_nodes_that_are_used(tmp_path: Path) -> None:
    """Four devices of four nodes of two: as many as two whole nodes have."""
    script = sbatch_script(
        four((0, 2, 5, 7)).model_copy(update={"cluster": nodes_of(4, 2)}), tmp_path, SlurmOptions(), "echo"
    )
    assert "#SBATCH --nodes=4\n" in script
    assert "--nnodes 4 " in script


def test_slurm_numbers_the_nodes(tmp_path: Path) -> None:
    """What srun runs on each node, with srun itself replaced by the shell."""
    wide = nodes_of(2, 2)
    script = sbatch_script(four(MAP).model_copy(update={"cluster": wide}), tmp_path, SlurmOptions(), "echo")
    (line,) = [line for line in script.splitlines() if line.startswith("srun ")]
    command = line.removeprefix("srun --kill-on-bad-exit=1 ").removesuffix(" &")
    shell = {"SLURM_NODEID": "1", "SLURM_JOB_ID": "42", "head": "node-7", "PATH": os.environ["PATH"]}
    said = subprocess.run(["bash", "-c", command], env=shell, capture_output=True, text=True, check=True).stdout
    assert "--nnodes 2 --rdzv-backend static --rdzv-id 42 --rdzv-endpoint node-7:29500 --node-rank 1" in said
    usual = sbatch_script(four(()).model_copy(update={"cluster": wide}), tmp_path, SlurmOptions(), "echo")
    assert "node-rank" not in usual
