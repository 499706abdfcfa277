"""What leaves the device: bytes by hand, and seconds of the slowest of link, host and drive."""

from __future__ import annotations

import pytest

from meshwright.planner.cost.footprint import footprint, offloaded_bytes, resident_bytes
from meshwright.planner.cost.offload import ADAMW_PER_CORE_S
from meshwright.planner.cost.step import price

PINS = "tp=1 pp=1 microbatch=1 recompute=full logits_chunks=1"
ELEMENTS = 8_030_261_248  # parameters of Llama 3.1 8B


@pytest.fixture
def setting(make_setting):
    return make_setting("llama-3.1-8b", "dgx-h100:1", 4096, 64)


def test_half_of_the_states_leave_and_the_masters_stay(setting, configure):
    """Of 12 bytes a parameter 8 can go; ZeRO 1 shares them out over 8 ranks."""
    plain, half = (configure(setting, f"{PINS} zero=1 offload={share}") for share in (0, 0.5))
    gone = footprint(setting, plain)[0].optimizer - footprint(setting, half)[0].optimizer
    assert gone == pytest.approx(0.5 * 8 * ELEMENTS / 8)
    assert offloaded_bytes(setting, half) == pytest.approx(gone)


def test_the_host_updates_beside_the_device(setting, configure):
    """The slowest of: 8 bytes a parameter down, AdamW on a device's share of the cores, and the drive."""
    own = ELEMENTS / 8
    host = setting.cluster.node_groups[0].host
    link_s, cores_s = 8 * own / host.device_link_bytes_per_s, own / (ADAMW_PER_CORE_S * host.cores / 8)
    drive_s = 8 * own * 8 / min(setting.cluster.node_groups[0].nvme.read_bytes_per_s,
                                setting.cluster.node_groups[0].nvme.write_bytes_per_s)  # fmt: skip
    for place, slowest_s in (("cpu", max(link_s, cores_s)), ("nvme", max(link_s, cores_s, drive_s))):
        found = price(setting, configure(setting, f"{PINS} zero=1 offload=1 offload_to={place}")).breakdown_s
        assert found.offload + found.optimizer == pytest.approx(slowest_s)


def test_swapped_layers_hold_a_window(setting, configure):
    """Embedding and head stay; each layer more in the window holds its 16-bit weights."""
    narrow, wide = (footprint(setting, configure(setting, f"{PINS} zero=3 swap_layers={n}"))[0] for n in (2, 6))
    resident = footprint(setting, configure(setting, f"{PINS} zero=3"))[0]
    layer = (ELEMENTS - 2 * 128256 * 4096 - 4096) / 32
    assert wide.buffers - narrow.buffers == pytest.approx(4 * 2 * layer)
    assert narrow.optimizer == pytest.approx(12 * (2 * 128256 * 4096 + 4096) / 8)
    assert narrow.total < resident.total
    away = configure(setting, f"{PINS} zero=3 swap_layers=2")
    assert resident_bytes(setting, away, 0) == narrow.weights + narrow.gradients + narrow.optimizer + narrow.context
    assert offloaded_bytes(setting, away) == pytest.approx(16 * 32 * layer / 8)


def test_copies_keep_gathers_inside_a_domain(make_setting, configure):
    """Over Ethernet ZeRO 3 is faster in copies of one machine each, which hold four times the states; ZeRO 1 sends as
    much either way."""
    setting = make_setting("llama-3.2-1b", "rtx4090-ethernet:4", 2048, 512)
    steps = {
        (zero, copies): price(setting, configure(setting, f"{PINS} zero={zero} dp_replicate={copies}"))
        for zero in (1, 3)
        for copies in (1, 4)
    }
    assert steps[3, 4].step_time_s < 0.9 * steps[3, 1].step_time_s
    assert steps[1, 4].step_time_s == pytest.approx(steps[1, 1].step_time_s, rel=0.1)
    assert steps[3, 4].memory[0].optimizer == pytest.approx(4 * steps[3, 1].memory[0].optimizer)
