"""Suite: what is asked of every kernel in the registry, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from meshwright.kernels.examples.example import DTYPES, Example, example
from meshwright.kernels.kernel import Kernel, Sizes, Tolerance, find

Call = Callable[..., Any]


def drawn(kernel: Kernel) -> st.SearchStrategy[dict[str, int]]:
    """Sizes that the declaration allows, small, often odd, and empty where they may be."""
    each = {
        name: st.integers(size.least // size.multiple, size.drawn // size.multiple).map(size.multiple.__mul__)
        for name, size in kernel.sizes.items()
    }
    return st.fixed_dictionaries(each)


def functions(kernel: Kernel) -> tuple[Call, Call]:
    """Reference and fast implementation."""
    return find(kernel.reference), find(kernel.fast)


def outputs(result: Any) -> list[Tensor]:
    """Of one tensor or several, some perhaps None."""
    return [result] if isinstance(result, Tensor) else [x for x in result if x is not None]


def leaves(made: Example, change: Callable[[Tensor], Tensor] = Tensor.clone) -> dict[str, Any]:
    """The arguments again, changed, with gradients asked for."""
    found = {}
    for name, value in made.arguments.items():
        value = change(value) if isinstance(value, Tensor) else value
        found[name] = value.detach().requires_grad_() if name in made.differentiable else value
    return found


def gradients(found: Sequence[Tensor], given: dict[str, Any], made: Example, seed: int = 1) -> list[Tensor]:
    """Of a random sum of all outputs, by every differentiable argument; zeros where an output depends on none."""
    if not made.differentiable:
        return []
    generator = torch.Generator().manual_seed(seed)
    slopes = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device, x.dtype) for x in found]
    leaves_ = [given[name] for name in made.differentiable]
    return list(torch.autograd.grad(list(found), leaves_, slopes, materialize_grads=True))


def exact(kernel: Kernel, sizes: Sizes, dtype: str, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of the reference in double precision, of the numbers that `dtype` holds."""
    reference, made = functions_of_reference(kernel), example(kernel, sizes, dtype, seed=seed)
    given = leaves(made, lambda x: x.double() if x.is_floating_point() else x.clone())
    found = outputs(reference(**given))
    return [x.detach() for x in found], gradients(found, given, made)


def functions_of_reference(kernel: Kernel) -> Call:
    """The reference alone: importing it needs no Triton."""
    reference: Call = find(kernel.reference)
    return reference


def near(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: Tolerance, scale: float = 1.0) -> None:
    """Assert that all are as near as a declaration says. `scale`: of how many numbers of size one each is a sum."""
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(
            x.double().cpu(), y.double().cpu(), rtol=tolerance.relative, atol=tolerance.absolute * scale
        )


def run(
    kernel: Kernel, sizes: Sizes, dtype: str, device: str, change: Callable[[Tensor], Tensor], seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of the fast implementation."""
    made = example(kernel, sizes, dtype, device=device, seed=seed)
    given = leaves(made, change)
    found = outputs(find(kernel.fast)(**given))
    assert all(x.dtype in (DTYPES[dtype], torch.float32) or not x.is_floating_point() for x in found)
    return [x.detach() for x in found], gradients(found, given, made)


def summands(sizes: Sizes) -> float:
    """Of gradients that are summed over rows: their error grows with the root of the number of summands."""
    return float(max([1, *sizes.values()])) ** 0.5
