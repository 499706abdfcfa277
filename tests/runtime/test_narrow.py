"""A weight in the type of activations, for several products."""

from __future__ import annotations

import torch

from meshwright.runtime.blocks.narrow import narrowed


def test_products_share_one_copy_and_gradients_add_up_in_the_type_of_the_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, generator=generator, requires_grad=True)
    again = weight.detach().clone().requires_grad_()
    inputs = torch.randn(5, 4, 8, generator=generator).bfloat16()
    matrix = narrowed(weight, torch.bfloat16)
    assert matrix().dtype == torch.bfloat16
    assert matrix().data_ptr() == matrix().data_ptr()
    for form in (matrix, lambda: again.to(torch.bfloat16)):
        torch.stack([x @ form() for x in inputs]).float().square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert torch.equal(weight.grad, again.grad)


def test_a_weight_of_that_type_is_itself() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    assert narrowed(weight, torch.float32)() is weight
