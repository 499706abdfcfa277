"""What ranks do in the tests of swapping: found by import, run by harness.run_ranks."""

from __future__ import annotations

from typing import Any

import torch
from alive import Alive
from offload_ranks import CPU, data
from workers import own_sequences

from meshwright.planner.plan import Plan
from meshwright.runtime import build
from meshwright.runtime.parallel.offload.window import Window


def residents(plan: Plan) -> list[list[int]]:
    """Layers that fill device memory when one of them begins to compute or makes its first gradient, in one step."""
    windows: list[Window] = []

    class Seen(Window):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            windows.append(self)

    build.Window = Seen  # type: ignore[misc]
    model = build.build_model(plan, CPU)
    (window,) = windows
    seen: list[list[int]] = []

    def look(*_: object) -> None:
        filled = [any(each.device.untyped_storage().nbytes() for each in layer) for layer in window._layers]
        assert [index for index, full in enumerate(filled) if full] == sorted(window.resident)
        seen.append(sorted(window.resident))

    layers: list[torch.nn.Module] = list(model.parts[0].model.layers.values())  # type: ignore[union-attr, operator]
    for layer, swapped in zip(layers, window._layers, strict=True):
        layer.register_forward_pre_hook(look)
        (last,) = [each for each in swapped if each.owner is layer.mlp.down_proj and each.key == "weight"]
        last.device.register_post_accumulate_grad_hook(look)
    (batch,) = data(plan, 1)
    model.forward_backward(own_sequences(model, batch))
    return seen


def peak(plan: Plan) -> int:
    """Bytes at the fullest moment of a step."""
    model = build.build_model(plan, CPU)
    first, second = data(plan, 2)
    model.forward_backward(own_sequences(model, first))
    with Alive() as alive:
        model.forward_backward(own_sequences(model, second))
    return alive.peak
