"""What leaves the device for its host or a drive, and the seconds that nothing hides.

Two levers (`runtime/parallel/offload`). `offload`: a fraction of the optimizer states lives on the host, which updates
its part while the device updates the rest (Deep Optimizer States, arXiv:2410.21316; on NVMe ZeRO-Infinity,
arXiv:2104.07857). `swap_layers`: weights, gradients and states of all layers live on the host, and so many layers at a
time have their weights on the device.
"""

from __future__ import annotations

from ..configuration import Configuration
from .blocks import ModelCosts
from .memory import RECIPES, Held
from .setting import Setting

ADAMW_PER_CORE_S = 10e9 / 2.57 / 48
"""Parameters that a core updates a second: CPU-Adam's 10 billion in 2.57 s on the 48 cores of a DGX-2 (ZeRO-Offload,
arXiv:2101.06840, table 4)."""
MASTER_BYTES = 4
SWAPPED_BYTES = 16
"""Of a parameter of a swapped layer on the host, all fp32: weight, gradient, momentum, variance."""


def states_bytes(setting: Setting) -> int:
    """Of the states of a parameter, what can leave: all, or all but the master weight where that is the weight."""
    stays = setting.framework.keeps.masters_stay and setting.job.precision != "fp32"
    return RECIPES[setting.job.precision].states - (MASTER_BYTES if stays else 0)


def host_bytes(setting: Setting, configuration: Configuration, owned: float) -> float:
    """Of a device that owns the states of so many parameters: in host memory, or on the drive."""
    if configuration.swap_layers:
        return SWAPPED_BYTES * owned
    return configuration.offload * states_bytes(setting) * owned


def room_bytes(setting: Setting, configuration: Configuration) -> float:
    """What a device's share of the host, or of the drive, holds."""
    return setting.nvme.capacity_bytes if configuration.offload_to == "nvme" else setting.host_bytes_per_device


def of_ends(costs: ModelCosts) -> Held:
    """What stays on the device when layers are swapped."""
    return costs.embedding.held + costs.head.held


def update_s(setting: Setting, configuration: Configuration, parameters: float, device_s: float) -> float:
    """Exposed seconds of the update of so many offloaded parameters, which runs beside `device_s` of the others'.
    Subgroups pass through in a pipeline: the slowest of link, host and drive counts."""
    return max(0.0, max(_link_s(setting, parameters), adamw_s(setting, parameters),
                        _drive_s(setting, configuration, parameters)) - device_s)  # fmt: skip


def adamw_s(setting: Setting, parameters: float) -> float:
    """Seconds of AdamW on a device's share of the host's cores."""
    return parameters / (ADAMW_PER_CORE_S * setting.host_cores_per_device)


def _link_s(setting: Setting, parameters: float) -> float:
    """Gradients come down in fp32, and masters that stay on the device with them; weights go up at the same time."""
    stays = setting.framework.keeps.masters_stay
    return (8 if stays else 4) * parameters / setting.host_link_bytes_per_s


def _drive_s(setting: Setting, configuration: Configuration, parameters: float) -> float:
    """States are read and written at the same time."""
    if configuration.offload_to != "nvme" or not parameters:
        return 0.0
    slower = min(setting.nvme.read_bytes_per_s, setting.nvme.write_bytes_per_s)
    return states_bytes(setting) * parameters / slower


def swap_s(setting: Setting, parameters: float) -> float:
    """Seconds in which the owned parameters of a stage, or their gradients, pass the link once, in fp32."""
    return 4 * parameters / setting.host_link_bytes_per_s
