"""Optimizer states on the host or on a drive, and layers that come and go."""

from __future__ import annotations

from parity_table.row import Dimension

DIMENSION = Dimension(
    name="offload",
    values={
        "on the device": {},
        "offload half": {"offload": 0.5},
        "offload all to a drive": {"offload": 1.0, "offload_to": "nvme"},
        "swap 2 layers": {"swap_layers": 2},
    },
)
