"""Optimizer states off the device: the same update bit for bit, wherever they live and wherever they go."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import offload_ranks
import pytest
import torch
from harness import run_ranks
from parity import assert_same
from plans import LLAMA, make_plan
from torch import Tensor, nn

from meshwright.errors import RunError
from meshwright.runtime.parallel.offload import states as states_module
from meshwright.runtime.parallel.offload.optimizer import IN_FLIGHT, OffloadedAdamW
from meshwright.runtime.parallel.offload.states import FileStates, HostStates, States
from meshwright.runtime.parallel.offload.subgroups import offloaded, subgroups

SIZES = [(40, 7), (3,), (16, 16), (1,), (9, 30), (64,), (128, 2)]
OPTIONS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in SIZES]


def groups(of: list[nn.Parameter]) -> list[dict[str, Any]]:
    matrices, vectors = [p for p in of if p.ndim > 1], [p for p in of if p.ndim == 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


def give_gradients(of: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in of:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def run(optimizer: torch.optim.Optimizer, of: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        give_gradients(of, step)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        optimizer.step()


def moments(optimizer: torch.optim.Optimizer, of: list[nn.Parameter]) -> list[Tensor]:
    return [optimizer.state[p][key] for p in of for key in ("exp_avg", "exp_avg_sq", "step")]


def places(folder: Path) -> dict[str, Any]:
    """Each way to hold the states; with the fewest buffers that suffice, so that they are waited for."""
    return {"cpu": HostStates, "nvme": lambda ranges: FileStates(ranges, folder, buffers=IN_FLIGHT)}


def equal(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("place", ["cpu", "nvme"])
@pytest.mark.parametrize("most", [64, 320, 1 << 20])
@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_updates_are_those_of_torch(fraction: float, most: int, place: str, tmp_path: Path) -> None:
    plain, other = parameters(), parameters()
    expected = torch.optim.AdamW(groups(plain), **OPTIONS, fused=True)
    found = OffloadedAdamW(
        groups(other), places(tmp_path)[place], fraction=fraction, device=torch.device("cpu"),
        subgroup_elements=most, **OPTIONS,
    )  # fmt: skip
    run(expected, plain, range(4))
    run(found, other, range(4))
    assert equal(list(other), list(plain))
    assert equal(moments(found, other), moments(expected, plain))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_fraction_is_held_to_less_than_a_parameter(fraction: float) -> None:
    held = parameters()
    total, largest = sum(p.numel() for p in held), max(p.numel() for p in held)
    taken = sum(p.numel() for p in offloaded(held, fraction))
    assert fraction * total <= taken < fraction * total + largest or taken == fraction == 0


def test_subgroups_are_small_and_complete() -> None:
    held = parameters()
    found = subgroups([({}, held[:3]), ({}, held[3:])], 192)  # 192, 88 + 3, 192, 64; 1, 192, 78 + 64, 192, 64
    assert [len(each.elements) for each in found] == [192, 91, 192, 64, 1, 192, 142, 192, 64]
    assert [each.elements.start for each in found[1:]] == [each.elements.stop for each in found[:-1]]
    for parameter in held:
        pieces = [piece.elements for each in found for piece in each.pieces if piece.parameter is parameter]
        assert [element for piece in pieces for element in piece] == list(range(parameter.numel()))


def test_the_drive_is_read_ahead_and_written_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the host updates a subgroup the next is being read; nobody waits for a write but for want of buffers."""
    begun: list[int] = []
    hold = threading.Event()

    def slow_write(path: Path, offset: int, source: Tensor) -> None:
        hold.wait(10.0)
        write(path, offset, source)

    def noted_read(path: Path, offset: int, into: Tensor) -> None:
        begun.append(offset)
        read(path, offset, into)

    read, write = states_module._read, states_module._write
    monkeypatch.setattr(states_module, "_read", noted_read)
    monkeypatch.setattr(states_module, "_write", slow_write)
    states = FileStates([range(4), range(4, 8), range(8, 12)], tmp_path, buffers=3)
    states.ahead(0)
    states.ahead(1)
    states.take(0).fill_(1.0)
    states.put(0)  # is not done yet
    states.take(1)
    assert sorted(begun) == [0, 16, 48, 64]  # momentum and variance of both
    assert not states.resident().any()
    hold.set()
    states.put(1)
    states.settle()
    assert states.resident()[:, :4].eq(1.0).all()
    assert not states.resident()[:, 4:].any()


def test_a_full_drive_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"optimizer states need \d+ bytes in .*states\.bin"):
        FileStates([range(1 << 50)], tmp_path, buffers=0)


def test_a_broken_drive_is_said(tmp_path: Path) -> None:
    states: States = FileStates([range(4)], tmp_path, buffers=1)
    (tmp_path / "states.bin").write_bytes(b"")
    with pytest.raises(RunError, match="ends early"):
        states.take(0)


MESHES: dict[str, dict[str, Any]] = {
    "dp2 zero1": {"dp": 2, "zero": 1},
    "dp2 zero3": {"dp": 2, "zero": 3, "offload": 0.4},
    "tp2": {"tp": 2, "microbatch": 4},
    "pp2": {"pp": 2, "offload_to": "nvme"},
}


@pytest.mark.parametrize("name", MESHES)
def test_offloaded_training_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    options = {"offload": 1.0, **MESHES[name]}
    plan = make_plan(LLAMA, **options)
    plain = make_plan(LLAMA, **{**options, "offload": 0.0, "offload_to": "cpu"})
    assert run_ranks(2, offload_ranks.weights, plan, 3, tmp_path) == run_ranks(
        2, offload_ranks.weights, plain, 3, tmp_path
    )


def test_offload_with_zero3_equals_one_device(tmp_path: Path) -> None:
    assert_same(LLAMA, {"dp": 2, "zero": 3, "offload": 1.0}, 5, tmp_path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"dp": 2, "zero": 3, "offload": 1.0}, {"pp": 2}),
        ({"dp": 2, "zero": 1}, {"tp": 2, "offload": 1.0, "offload_to": "nvme"}),
        ({"dp": 2, "offload": 0.5, "offload_to": "nvme"}, {"dp": 2, "offload": 1.0}),
        ({"dp": 4, "dp_replicate": 2, "zero": 3, "offload": 1.0}, {"pp": 2, "tp": 2}),
    ],
    ids=str,
)
def test_states_go_anywhere_from_anywhere(before: dict[str, Any], after: dict[str, Any], tmp_path: Path) -> None:
    """Train, save, go on elsewhere: as if nothing had moved."""
    first, then = make_plan(LLAMA, **before), make_plan(LLAMA, **after)
    world = first.configuration.mesh.world
    expected = run_ranks(world, offload_ranks.moved, first, None, tmp_path / "stay")
    found = run_ranks(world, offload_ranks.moved, first, then, tmp_path / "move")
    assert found == [pytest.approx(losses, rel=1e-4) for losses in expected]


def test_a_launched_run_keeps_states_on_the_drive(tmp_path: Path) -> None:
    """In the recipe's folder, out of the way of checkpoints."""
    losses = run_ranks(2, offload_ranks.launched, tmp_path, make_plan(LLAMA, dp=2, offload=1.0, offload_to="nvme"))
    plain = run_ranks(2, offload_ranks.launched, tmp_path / "plain", make_plan(LLAMA, dp=2))
    assert losses == plain
    assert sorted(path.name for path in (tmp_path / "drive").iterdir()) == ["rank-00000", "rank-00001"]
