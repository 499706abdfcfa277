"""States in bfloat16 and GaLore: the same bits on every mesh, kept in checkpoints; kernels auto and reference."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from expert_placements import placed
from harness import RankError, run_ranks
from hypothesis import given
from hypothesis import strategies as st
from moe_families import MIXTRAL
from optimizer_ranks import searched_apart, stepped, train_both_ways
from plans import LLAMA, make_plan
from training_ranks import run_training, save_then_change

from meshwright.errors import InputError
from meshwright.kernels.galore import SPACE
from meshwright.planner.plan import Plan
from meshwright.runtime.places import runs
from meshwright.runtime.recipe import Recipe

BF16: dict[str, Any] = {"optimizer_states": "bf16"}
GALORE: dict[str, Any] = {"optimizer": "galore", "galore": {"rank": 8, "every": 2, "scale": 0.5}}
SMALL = {**LLAMA, "num_hidden_layers": 2}


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=4))
def test_runs_are_the_numbers_of_a_box(dims: list[tuple[int, int, int]]) -> None:
    """As slicing the numbers of all elements gives them."""
    shape = [size for size, _, _ in dims]
    begin = [min(first, size) for size, first, _ in dims]
    size = [min(count, whole - first) for (whole, _, count), first in zip(dims, begin, strict=True)]
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    box = numbers[tuple(slice(first, first + count) for first, count in zip(begin, size, strict=True))].flatten()
    found = torch.full_like(box, -1)
    for at, place in runs(shape, begin, size):
        own = torch.arange(at.stop - at.start)
        found[at] = place.number + own // place.width * place.pitch + own % place.width
    assert torch.equal(found, box)


def whole_after(plan: Plan, folder: Path, steps: int = 3) -> dict[str, torch.Tensor]:
    folder.mkdir(parents=True)
    run_ranks(plan.configuration.mesh.world, stepped, plan, steps, folder)
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.iterdir()):
        part = torch.load(file)
        assert all(torch.equal(part[name], found[name]) for name in part.keys() & found.keys())
        found |= part
    return found


@pytest.mark.parametrize(
    ("config", "optimizer", "mesh"),
    [
        (SMALL, BF16, {"tp": 2, "dp": 2}),
        (SMALL, BF16, {"pp": 2, "dp": 2, "zero": 0}),
        (MIXTRAL, BF16, {"dp": 2, "zero": 2, **placed(MIXTRAL, 2)}),
        (MIXTRAL, BF16, {"dp": 2, "zero": 0, **placed(MIXTRAL, 2, replicas=2)}),
        (SMALL, {**GALORE, **BF16}, {"dp": 2}),
        (SMALL, GALORE, {"pp": 2}),
    ],
    ids=["tp2 dp2", "pp2 dp2", "ep2 zero 2", "ep2 replicas", "galore zero 1", "galore pp2"],
)
def test_steps_are_the_same_bits_on_every_mesh(
    config: dict[str, Any], optimizer: dict[str, Any], mesh: dict[str, Any], tmp_path: Path
) -> None:
    """From equal gradients equal parameters and states; bits of one tensor are not those of another."""
    expected = whole_after(make_plan(config, optimizer=optimizer, microbatch=4), tmp_path / "one")
    found = whole_after(make_plan(config, optimizer=optimizer, **mesh), tmp_path / "many")
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert {expected[name].dtype for name in expected if name.endswith("exp_avg")} == {
        torch.bfloat16 if "optimizer_states" in optimizer else torch.float32
    }


@pytest.mark.parametrize(
    "mesh",
    [{"dp": 2, "zero": 0}, {"dp": 2, "zero": 1}, {"dp": 4, "zero": 1, "dp_replicate": 2, "microbatch": 1}],
    ids=["zero 0", "zero 1", "copies of zero 1"],
)
def test_replicas_that_decompose_differently_have_one_space(mesh: dict[str, Any], tmp_path: Path) -> None:
    """Equal to the bit on all ranks: spaces, moments, weights. Each space is sent once when it is looked for (every
    second step), and each replica finds some of them."""
    plan = make_plan(SMALL, optimizer=GALORE, **mesh)
    world = plan.configuration.mesh.world
    run_ranks(world, searched_apart, plan, 3, tmp_path)
    first, *others = (torch.load(tmp_path / f"{rank}.pt") for rank in range(world))
    for other in others:
        assert [name for name in first if not torch.equal(first[name], other[name])] == []
    spaces = [name for name in first if name.endswith(SPACE)]
    for rank in range(world):
        assert torch.load(tmp_path / f"sent-{rank}.pt") == [len(spaces), 0, len(spaces)]
    finders = {round(1e4 * _error(first[name])) for name in spaces}
    assert len(finders) > 1


def _error(space: torch.Tensor) -> float:
    """How far columns are from length one: what the rank that found them added."""
    return float((space.square().sum(0) - 1).abs().max())


@pytest.mark.parametrize("mesh", [{"microbatch": 4}, {"tp": 2}, {"dp": 2, "zero": 3}], ids=["one", "tp2", "zero 3"])
def test_kernels_auto_are_the_references_where_there_is_no_gpu(mesh: dict[str, Any]) -> None:
    """The same bits: nothing but plain PyTorch runs on a CPU, whatever is asked."""
    plan = make_plan(SMALL, **mesh)
    for auto, reference in run_ranks(plan.configuration.mesh.world, train_both_ways, plan, 2):
        assert auto == reference


@pytest.mark.parametrize("optimizer", [BF16, GALORE], ids=["bf16", "galore"])
def test_a_checkpoint_has_these_states(optimizer: dict[str, Any], tmp_path: Path) -> None:
    plan = make_plan(SMALL, dp=2, optimizer=optimizer)
    assert all(run_ranks(2, save_then_change, tmp_path, plan))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(2000)))
    return path


def recipe(text: Path, **other: Any) -> Recipe:
    return Recipe.model_validate({"steps": 6, "data": str(text), "lr": 3e-3, "timeout_s": 60, **other})


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("optimizer", [{**BF16}, {**GALORE, **BF16}], ids=["bf16", "galore in bf16"])
def test_a_run_goes_on_as_it_would_have_and_on_other_meshes(
    optimizer: dict[str, Any], text: Path, tmp_path: Path
) -> None:
    """Stopped and resumed on the same mesh the same bits; on another one the same curve."""
    alone, two = (make_plan(SMALL, optimizer=optimizer, **mesh) for mesh in ({"microbatch": 4}, {"dp": 2}))
    run_ranks(1, run_training, tmp_path / "straight", alone, recipe(text))
    run_ranks(1, run_training, tmp_path / "stopped", alone, recipe(text), 3)
    run_ranks(1, run_training, tmp_path / "stopped", alone, recipe(text))
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    run_ranks(2, run_training, tmp_path / "moved", two, recipe(text), 3)
    run_ranks(1, run_training, tmp_path / "moved", alone, recipe(text))
    expected = losses(tmp_path / "straight")
    assert losses(tmp_path / "moved") == pytest.approx(expected, rel=1e-3)
    assert all(after < before for before, after in pairwise(expected))
    other = make_plan(SMALL, microbatch=4)
    with pytest.raises((RankError, InputError), match="this run was started with 'bf16'"):
        run_ranks(1, run_training, tmp_path / "moved", other, recipe(text))
