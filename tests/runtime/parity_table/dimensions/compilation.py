"""Compiled layers. What the compiler makes of them is not proven here, only that it is given the same training."""

from __future__ import annotations

from parity_table.row import Dimension

DIMENSION = Dimension(
    name="compilation",
    values={"not compiled": {}},
    rows={
        "compiled": {"compiler": "aot_eager"},
        "compiled, dp2 zero3": {"compiler": "aot_eager", "dp": 2, "zero": 3},
        "compiled, cp2 pp2": {"compiler": "aot_eager", "cp": 2, "pp": 2},
        "compiled, tp2 sp": {"compiler": "aot_eager", "tp": 2, "sp": True},
        "compiled, ep2 dp2": {"compiler": "aot_eager", "model": "mixtral", "dp": 2, "ep": 2},
    },
)
