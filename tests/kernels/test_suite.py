"""Every kernel of the registry: reference beside double precision, fast implementation beside the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counted import Kept, Moved
from guarded import Guard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from suite import drawn, exact, functions_of_reference, gradients, leaves, near, outputs, run, summands
from torch import Tensor

from meshwright.kernels.examples.example import DTYPES, example
from meshwright.kernels.kernel import Kernel, Size, find
from meshwright.kernels.registry import KERNELS

EVERY = pytest.mark.parametrize("kernel", KERNELS.values(), ids=[*KERNELS])
DIFFERENTIABLE = [kernel for kernel in KERNELS.values() if kernel.backward is not None]
CUDA = torch.cuda.is_available()
FAST_TYPES = ("fp32", "bf16", "fp16") if CUDA else ("fp32", "fp16")
"""Triton's interpreter cuts numbers off where it casts to bf16."""
LAYOUTS = ("within", "strided", "transposed")
DRAWN = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),  # sizes are small as they are
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def smallest(kernel: Kernel) -> dict[str, int]:
    """Small sizes with something in them."""
    return {name: max(size.least, size.multiple * max(1, 3 // size.multiple)) for name, size in kernel.sizes.items()}


@pytest.mark.parametrize("kernel", DIFFERENTIABLE, ids=lambda kernel: kernel.name)
def test_the_references_gradients_are_its_slopes(kernel: Kernel) -> None:
    made = example(kernel, smallest(kernel), "fp64")
    reference, given_ = functions_of_reference(kernel), leaves(made)

    def of_leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(outputs(reference(**{**given_, **dict(zip(made.differentiable, tensors, strict=True))})))

    assert torch.autograd.gradcheck(of_leaves, [given_[name] for name in made.differentiable])


@EVERY
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_reference_is_near_double_precision(kernel: Kernel, dtype: str) -> None:
    sizes = {name: size.drawn // size.multiple * size.multiple for name, size in kernel.sizes.items()}
    made = example(kernel, sizes, dtype)
    given_ = leaves(made)
    found = outputs(functions_of_reference(kernel)(**given_))
    values, slopes = exact(kernel, sizes, dtype)
    near([x.detach() for x in found], values, kernel.tolerance[dtype])
    near(gradients(found, given_, made), slopes, kernel.tolerance[dtype], summands(sizes))


@EVERY
@pytest.mark.parametrize("dtype", FAST_TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fast_is_near_double_precision_and_stays_within_its_tensors(
    kernel: Kernel, dtype: str, layout: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sizes that hypothesis draws, with empty ones; outputs are poisoned, inputs and outputs lie between bands."""
    from meshwright.kernels.fast import memory

    @DRAWN
    @given(sizes=drawn(kernel), seed=st.integers(0, 99))
    def check(sizes: dict[str, int], seed: int) -> None:
        guard = Guard()
        monkeypatch.setattr(memory, "empty", guard.empty)
        found, slopes = run(kernel, sizes, dtype, device, getattr(guard, layout), seed)
        guard.check()
        expected, expected_slopes = exact(kernel, sizes, dtype, seed)
        near(found, expected, kernel.tolerance[dtype])
        near(slopes, expected_slopes, kernel.tolerance[dtype], summands(sizes))

    check()


@EVERY
def test_fast_gives_the_same_bits_twice(kernel: Kernel, device: str) -> None:
    sizes = {name: size.drawn // size.multiple * size.multiple for name, size in kernel.sizes.items()}
    once, again = (run(kernel, sizes, "fp32", device, Tensor.clone) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(once[0] + once[1], again[0] + again[1], strict=True))


@pytest.mark.parametrize("kernel", DIFFERENTIABLE, ids=lambda kernel: kernel.name)
def test_what_is_not_finite_comes_out_not_finite(kernel: Kernel, device: str) -> None:
    """A NaN in any input that has gradients is seen in some output."""
    for name in example(kernel, smallest(kernel), "fp32").differentiable:
        made: dict[str, Any] = dict(example(kernel, smallest(kernel), "fp32", device=device).arguments)
        made[name] = torch.full_like(made[name], torch.nan)
        assert any(bool(x.isnan().any()) for x in outputs(find(kernel.fast)(**made)))


@EVERY
def test_compiled_calls_give_the_same(kernel: Kernel, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through torch.compile and its autograd, with the backend that changes nothing; no break in the graph."""
    torch._dynamo.reset()  # of one function with other arguments only so many are kept
    fast, made = find(kernel.fast), example(kernel, smallest(kernel), "fp32", device=device)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    plain, through = leaves(made), leaves(made)
    expected, found = outputs(fast(**plain)), outputs(compiled(**through))
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    for x, y in zip(gradients(found, through, made), gradients(expected, plain, made), strict=True):
        assert torch.equal(x, y)


@EVERY
def test_declarations_are_whole(kernel: Kernel) -> None:
    assert set(kernel.tolerance) == set(DTYPES)
    for sizes in kernel.typical:
        assert set(sizes) == set(kernel.sizes)
        assert kernel.takes(sizes)
        for dtype in kernel.dtypes:
            assert 0 < kernel.trained(sizes, dtype).moved_bytes <= 1.01 * kernel.plain(sizes, dtype).moved_bytes
            assert kernel.kept_bytes(sizes, dtype) <= kernel.plain_kept_bytes(sizes, dtype)


@EVERY
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_declared_bytes_are_those_of_the_tensors(kernel: Kernel, dtype: str) -> None:
    """Every input read once and every output written once: no less can be moved, unless half a table repeats itself."""
    sizes = {name: size.drawn // size.multiple * size.multiple for name, size in kernel.sizes.items()}
    made = example(kernel, sizes, dtype)
    found = outputs(functions_of_reference(kernel)(**made.arguments))
    written = sum(x.nbytes for x in found)
    work = kernel.forward(sizes, dtype)
    read = sum(x.nbytes for x in made.arguments.values() if isinstance(x, Tensor))
    assert work.written_bytes >= written
    assert work.written_bytes <= written * 1.1 + 4096
    assert work.read_bytes <= read
    assert work.read_bytes >= 0.8 * sum(made.arguments[name].nbytes for name in made.differentiable)


@EVERY
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_declared_bytes_of_plain_pytorch_are_those_of_its_operators(kernel: Kernel, dtype: str) -> None:
    """Counted as they run, and what autograd keeps; what happens once a row is little."""
    sizes = {name: large(name, size) for name, size in kernel.sizes.items()}
    made = example(kernel, sizes, dtype)
    given_ = leaves(made)
    kept = Kept(given_)
    with Moved() as moved:
        with kept:
            found = outputs(functions_of_reference(kernel)(**given_))
        if kernel.differentiated:
            gradients(found, given_, made)
    assert kernel.plain(sizes, dtype).moved_bytes == pytest.approx(moved.bytes, rel=0.06)
    assert kernel.plain_kept_bytes(sizes, dtype) == pytest.approx(kept.bytes, rel=0.06)


@EVERY
def test_declared_bytes_are_kept(kernel: Kernel, device: str) -> None:
    sizes = {name: large(name, size) for name, size in kernel.sizes.items()}
    made = example(kernel, sizes, "fp32", device=device)
    given_ = leaves(made)
    kept = Kept(given_)
    with kept:
        find(kernel.fast)(**given_)
    assert kernel.kept_bytes(sizes, "fp32") == pytest.approx(kept.bytes, rel=0.01)


def large(name: str, size: Size) -> int:
    """Sizes at which rows are wide and many."""
    if name in ("width", "turned"):
        return 64
    return 128 if name == "rows" else size.drawn // size.multiple * size.multiple
