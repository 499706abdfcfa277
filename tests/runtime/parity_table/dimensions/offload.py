"""What lives off the device. On a CPU machine the host is the device: no memory is compared."""

from __future__ import annotations

from parity_table.row import Dimension

DIMENSION = Dimension(
    name="offload",
    values={
        "all on the device": {},
        "states on the host": {"offload": 1.0},
        "half of the states on drives": {"offload": 0.5, "offload_to": "nvme"},
        "2 layers on the device": {"swap_layers": 2},
    },
    rows={"dp2 zero3, 2 layers on the device": {"dp": 2, "zero": 3, "swap_layers": 2}},
)
