"""Swapped layers: the same training, with no more layers on the device than the window has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import offload_ranks
import pytest
import swap_ranks
from harness import run_ranks
from parity import assert_same
from plans import LLAMA, make_plan

LAYERS = LLAMA["num_hidden_layers"]
MESHES: dict[str, dict[str, Any]] = {
    "alone": {"swap_layers": 2},
    "alone, recompute": {"swap_layers": 3, "recompute": "full"},
    "alone, selective": {
        "swap_layers": 2,
        "recompute": "selective",
        "recompute_operations": ("core_attn", "layernorm", "mlp"),
    },
    "tp2 sp": {"swap_layers": 2, "tp": 2, "sp": True, "microbatch": 4},
    "dp2": {"swap_layers": 2, "dp": 2, "zero": 3},
    "hsdp": {"swap_layers": 3, "dp": 4, "dp_replicate": 2, "zero": 3, "recompute": "full"},
}


@pytest.mark.parametrize("name", MESHES)
def test_swapping_equals_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, MESHES[name], 5, tmp_path)


@pytest.mark.parametrize("options", [{}, {"recompute": "full"}, {"tp": 2}], ids=str)
@pytest.mark.parametrize("window", [2, 3])
def test_no_more_layers_are_resident_than_the_window_has(window: int, options: dict[str, Any]) -> None:
    """The next one is there before its turn, forward and backward; the ends of a pass are not copied twice."""
    plan = make_plan(LLAMA, swap_layers=window, microbatch=4, **options)
    for seen in run_ranks(options.get("tp", 1), swap_ranks.residents, plan):
        forward = [list(range(index, min(index + window, LAYERS))) for index in range(LAYERS - window)]
        forward += [list(range(LAYERS - window, LAYERS))] * window
        backward = [list(range(max(0, index - window + 1), index + 1)) for index in reversed(range(LAYERS))]
        assert seen == (forward + backward) * 2


def test_gathered_layers_are_no_more_than_the_window_has() -> None:
    """Bytes of weights that a microbatch makes whole at once, beside the same without a window to speak of."""
    narrow, wide = (
        run_ranks(2, swap_ranks.peak, make_plan(LLAMA, dp=2, zero=3, swap_layers=window, microbatch=1))
        for window in (2, 4)
    )
    layer = 4 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64)
    assert [more - less for less, more in zip(narrow, wide, strict=True)] == [pytest.approx(2 * layer, rel=0.3)] * 2


def test_swapped_layers_go_into_checkpoints_and_come_from_them(tmp_path: Path) -> None:
    swapped, plain = make_plan(LLAMA, swap_layers=2), make_plan(LLAMA)
    expected = run_ranks(1, offload_ranks.moved, plain, None, tmp_path / "stay")
    for before, after in ((swapped, plain), (plain, swapped)):
        folder = tmp_path / f"from {before.swap_layers}"
        assert run_ranks(1, offload_ranks.moved, before, after, folder) == expected
