"""Steps of AdamW against torch's own, rounding against its expectation, GaLore against its algorithm written out."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from meshwright.kernels import switch
from meshwright.kernels.adamw import (
    WHOLE,
    Options,
    Place,
    Shard,
    adamw_step,
    adamw_steps,
    clip_scale,
    rounded,
    stepped_reference,
)  # fmt: skip
from meshwright.kernels.galore import GaLore
from meshwright.kernels.mix import mix, mixed
from meshwright.kernels.optimizer import FusedAdamW

OPTIONS = Options(lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, step=3)


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def trained(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int = 6) -> list[Tensor]:
    for step in range(steps):
        for place, parameter in enumerate(parameters):
            parameter.grad = random(*parameter.shape, seed=100 * step + place).to(parameter.dtype)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_equal_to_torch_bit_for_bit() -> None:
    ours, theirs = ([nn.Parameter(random(7, 33)), nn.Parameter(random(130, seed=1))] for _ in range(2))
    found = trained(FusedAdamW(ours, lr=1e-2, weight_decay=0.1), ours)
    reference = torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1, foreach=False, fused=False)
    assert all(torch.equal(x, y) for x, y in zip(found, trained(reference, theirs), strict=True))


def test_clipping_and_unscaling_are_those_of_torch() -> None:
    gradient = nn.Parameter(torch.zeros(50))
    gradient.grad = random(50) * 8
    norm = torch.nn.utils.clip_grad_norm_([gradient], 1.0)
    torch.testing.assert_close(random(50) * 8 * clip_scale(norm, 1.0), gradient.grad, rtol=1e-6, atol=0.0)
    assert clip_scale(torch.tensor(64.0), 100.0, loss_scale=64.0).item() == 1 / 64
    assert clip_scale(torch.tensor(math.inf), 1.0).isnan()
    assert clip_scale(torch.tensor(math.nan), 1.0).isnan()


@pytest.mark.parametrize("states", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("choice", ["auto", "reference"])
def test_a_step_that_is_not_finite_changes_nothing(
    choice: switch.Choice, states: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "INTERPRETED", True)
    held = [random(40).to(device), *(random(40, seed=1).abs().to(device, states) for _ in range(2))]
    before, gradient = [x.clone() for x in held], torch.full((40,), math.inf, device=device)
    with switch.kernels(choice):
        adamw_step(held[0], gradient, held[1], held[2], OPTIONS, clip_scale(gradient.norm(), 1.0))
    assert all(torch.equal(x, y) for x, y in zip(held, before, strict=True))


def test_triton_rounds_as_the_reference_does(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random bits, by the number of an element in the whole."""
    from meshwright.kernels.fast.adamw import stepped

    options, scale = Options(1e-3, (0.9, 0.95), 1e-8, 0.0, 5, seed=11), torch.ones((), device=device)
    tensors = [x.to(device, torch.bfloat16) for x in (random(3000), random(3000, seed=1), torch.zeros(3000))]
    tensors.append(random(3000, seed=2).abs().to(device, torch.bfloat16))
    for place in (WHOLE, Place(2**33 + 5), Place(7, width=30, pitch=100)):
        found = stepped(*tensors, scale, options, place)
        expected = stepped_reference(*tensors, scale, options, place)
        for x, y in zip(found[1:], expected[1:], strict=True):
            different = (x != y).double().mean().item()
            assert different < 0.01  # where a float32 differs in its last bit
    one, other = (stepped(*tensors, scale, options, place)[1] for place in (WHOLE, Place(1)))
    assert not torch.equal(one, other)


def test_rounding_is_right_on_average_and_reproducible() -> None:
    value = 1 + 2**-7 * 0.3  # between 1 and the next number of bfloat16, 1 + 2^-7
    found = rounded(torch.full((100_000,), value), key=5)
    assert set(found.tolist()) == {1.0, 1 + 2**-7}
    share = (found > 1).double().mean().item()
    assert abs(share - 0.3) < 6 * math.sqrt(0.3 * 0.7 / 100_000)
    assert torch.equal(found[40_000:], rounded(torch.full((60_000,), value), key=5, place=Place(40_000)))
    assert not torch.equal(found, rounded(torch.full((100_000,), value), key=6))
    special = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 3.0, -1.5])
    torch.testing.assert_close(rounded(special, key=1).float(), special, rtol=0.0, atol=0.0, equal_nan=True)


def test_states_in_bfloat16_follow_those_in_float32() -> None:
    """A second moment whose steps are far below its last bit still moves; rounded to nearest, it stands still."""
    moments = [torch.full((4096,), 1.0, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    nearest = torch.ones((), dtype=torch.bfloat16)
    for step in range(1, 41):
        options = Options(0.0, (0.9, 0.999), 1e-8, 0.0, step)
        for second in moments:
            adamw_step(torch.zeros(4096), torch.zeros(4096), torch.zeros_like(second), second, options)
        nearest = (nearest.float() * 0.999).to(torch.bfloat16)
    assert nearest.item() == 1.0
    assert abs(moments[1].double().mean().item() - moments[0][0].item()) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("states", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("galore", [False, True])
def test_a_run_that_is_loaded_goes_on_as_it_would_have(dtype: torch.dtype, states: torch.dtype, galore: bool) -> None:
    """States keep their own type, whatever that of the parameter: torch would cast them."""
    make = partial(GaLore, rank=2, every=4) if galore else FusedAdamW
    one, other = ([nn.Parameter(random(6, 9).to(dtype))] for _ in range(2))
    first, second = (make(parameters, lr=1e-2, states=states) for parameters in (one, other))
    trained(first, one, steps=3)
    other[0].data.copy_(one[0].data)
    second.load_state_dict(deepcopy(first.state_dict()))
    assert {x.dtype for name, x in second.state[other[0]].items() if name.startswith("exp")} == {states}
    assert torch.equal(trained(first, one)[0], trained(second, other)[0])


def test_counts_of_steps_are_loaded_to_the_host() -> None:
    one = [nn.Parameter(random(6, 9))]
    far = [nn.Parameter(torch.empty(6, 9, device="meta"))]
    first, second = (GaLore(each, rank=2, states=torch.bfloat16) for each in (one, far))
    trained(first, one, steps=3)
    second.load_state_dict(deepcopy(first.state_dict()))
    state = second.state[far[0]]
    assert (state["step"].item(), state["step"].device.type) == (3, "cpu")
    assert {state[name].device.type for name in ("exp_avg", "exp_avg_sq", "space")} == {"meta"}


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_galore_is_its_algorithm(shape: tuple[int, int]) -> None:
    """Algorithm 2 of the paper, written out for the shorter side, with AdamW's moments."""
    rank, every, alpha, lr, decay = 2, 3, 0.25, 1e-2, 0.1
    parameter = nn.Parameter(random(*shape))
    weight, m, v = parameter.detach().double(), torch.zeros(()), torch.zeros(())
    optimizer = GaLore([parameter], rank=rank, every=every, scale=alpha, lr=lr, weight_decay=decay, eps=1e-8)
    flip = shape[0] > shape[1]
    for step in range(1, 8):
        gradient = random(*shape, seed=step).double()
        parameter.grad = gradient.float()
        optimizer.step()
        wide = gradient.T if flip else gradient
        if (step - 1) % every == 0:
            space = torch.linalg.svd(wide, full_matrices=False)[0][:, :rank]
        small = space.T @ wide
        m, v = 0.9 * m + 0.1 * small, 0.999 * v + 0.001 * small**2
        moved = space @ ((m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
        weight = weight * (1 - lr * decay) - lr * alpha * (moved.T if flip else moved)
    torch.testing.assert_close(parameter.detach().double(), weight, rtol=1e-4, atol=1e-5)
    held = optimizer.state[parameter]["exp_avg"]
    assert held.numel() == rank * max(shape)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("first", [True, False])
def test_a_gradient_that_is_not_finite_says_nothing_of_its_space(first: bool, broken: bool) -> None:
    """In a step that looks for a space: weight, moments and space stay, and the next step looks instead. Also where
    this gradient is finite and the norm of the whole model is not."""
    parameter = nn.Parameter(random(6, 9))
    found = GaLore([parameter], rank=2, every=3, lr=1e-2, weight_decay=0.1)
    for number in range(0 if first else 3):
        parameter.grad = random(6, 9, seed=number + 1)
        found.step(scale=torch.tensor(0.5))
    before = {name: x.clone() for name, x in found.state[parameter].items() if isinstance(x, Tensor)}
    kept, bad = parameter.detach().clone(), random(6, 9, seed=50)
    bad[2, 3] = torch.nan if broken else 1.0
    parameter.grad = bad
    found.step(scale=torch.tensor(torch.nan))
    assert torch.equal(parameter.detach(), kept)
    assert all(torch.equal(found.state[parameter][name], x) for name, x in before.items() if name != "step")
    following = random(6, 9, seed=51)
    parameter.grad = following
    found.step(scale=torch.tensor(0.5))
    left = torch.linalg.svd(following, full_matrices=False)[0][:, :2]
    assert torch.equal(found.state[parameter]["space"], left)
    assert not torch.equal(parameter.detach(), kept)
    parameter.grad = random(6, 9, seed=52)
    found.step(scale=torch.tensor(0.5))
    assert torch.equal(found.state[parameter]["space"], left)  # until its turn comes again


def test_galore_leaves_vectors_to_adamw() -> None:
    ours, theirs = ([nn.Parameter(random(33))] for _ in range(2))
    found = trained(GaLore(ours, rank=4, lr=1e-2), ours)
    assert torch.equal(found[0], trained(FusedAdamW(theirs, lr=1e-2), theirs)[0])


def test_wrong_arguments_are_refused() -> None:
    x = torch.zeros(4)
    with pytest.raises(ValueError, match=r"adamw: gradient has shape \[3\], expected \[4\]"):
        adamw_step(x, torch.zeros(3), x, x, OPTIONS)
    with pytest.raises(TypeError, match=r"adamw: second is torch.bfloat16, expected torch.float32"):
        adamw_step(x, x, x, x.bfloat16(), OPTIONS)
    with pytest.raises(ValueError, match=r"first has strides \[2\], expected a contiguous tensor"):
        adamw_step(x, x, torch.zeros(8)[::2], x, OPTIONS)
    with pytest.raises(TypeError, match=r"states is torch\.float16, expected torch.float32 or torch.bfloat16"):
        FusedAdamW([nn.Parameter(x)], states=torch.float16)
    with pytest.raises(ValueError, match="rank is 0"):
        GaLore([nn.Parameter(x)], rank=0)


def test_a_number_is_mixed_as_tensors_are() -> None:
    numbers = [0, 1, 2**31, 2**32 - 1, 123456789]
    assert [mixed(each) for each in numbers] == mix(torch.tensor(numbers)).tolist()


@pytest.mark.parametrize("states", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parameter", [torch.float32, torch.bfloat16])
def test_many_shards_step_as_each_alone(
    parameter: torch.dtype, states: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One launch of all, whatever their sizes, alignment and types of gradients; what is beside them stays."""
    from meshwright.kernels.fast import adamw as fast

    monkeypatch.setattr(switch, "INTERPRETED", True)
    monkeypatch.setattr(fast, "_PIECE", 4096)
    shards, expected, beside = [], [], []
    scale = torch.tensor(0.5, device=device)
    for number, (count, offset) in enumerate([(9000, 0), (5, 0), (0, 0), (1, 1), (4097, 1), (4096, 0)]):
        types = (parameter, [torch.float32, torch.bfloat16][number % 2], states, states)
        whole = [
            random(count + 9, seed=9 * number + place).abs().to(device, dtype) for place, dtype in enumerate(types)
        ]
        own = [x[offset : offset + count] for x in whole]
        place = Place(11 * number, width=100, pitch=1000) if number % 2 else Place(number)
        shards.append(Shard(*own, seed=number, place=place))
        expected.append(stepped_reference(*own, scale, replace(OPTIONS, seed=number), place))
        beside += [(x[offset + count :], x[offset + count :].clone()) for x in whole]
    adamw_steps(shards, OPTIONS, scale)
    for shard, wanted in zip(shards, expected, strict=True):
        for x, y in zip((shard.parameter, shard.first, shard.second), wanted, strict=True):
            if x.dtype == torch.bfloat16:
                assert (x != y).sum() <= 0.01 * x.numel()  # where a float32 differs in its last bit
            else:
                torch.testing.assert_close(x, y, rtol=2e-6, atol=2e-6)
    assert all(torch.equal(x, y) for x, y in beside)
