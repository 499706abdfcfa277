"""The catalogue loads, is sound, says where its numbers come from; bad files are reported whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from meshwright.clusters import Cluster, Topology, bundled_clusters, load_cluster
from meshwright.clusters.devices import bundled_devices, device_mapping
from meshwright.clusters.schema import Device
from meshwright.errors import InputError

EXPECTED = {
    "dgx-a100-40g",
    "dgx-a100-80g",
    "dgx-h100",
    "dgx-h200",
    "dgx-b200",
    "gb200-nvl72",
    "mi250x-frontier",
    "mi300x",
    "rtx4090-ethernet",
    "two-site",
    "h800",
    "dgx-a800",
    "dgx-b300",
    "gb300-nvl72",
    "dgx-1-v100",
    "jean-zay-v100",
}
NO_BF16 = {"v100-sxm-16gb", "v100-sxm-32gb", "v100h-sxm3-32gb"}  # Volta's tensor cores take fp16 alone
# Dense bf16 peaks as other people's planners and papers use them (Llama 3, Megatron-Bridge, OLCF).
DENSE_BF16 = {
    "a100-sxm-80gb": 312e12,
    "h100-sxm-80gb": 989e12,
    "h200-sxm-141gb": 989e12,
    "b200-sxm-180gb": 2250e12,
    "mi250x-gcd-64gb": 191.5e12,
    "mi300x-192gb": 1307e12,
    "rtx-4090-24gb": 165e12,
    "b300-sxm-288gb": 2250e12,
    "gb300-288gb": 2500e12,
}


def test_catalogue_is_complete():
    assert set(bundled_clusters()) >= EXPECTED


@pytest.mark.parametrize("name", bundled_clusters())
def test_every_cluster_is_joined_and_sourced(name):
    cluster = load_cluster(name)
    topology = Topology(cluster)
    paths = topology.group(range(topology.num_devices))
    assert cluster.name == name
    assert paths.inner is not None
    assert len(cluster.source) > 80
    for group in cluster.node_groups:
        assert group.host.memory_bytes > 16 * 2**30
        assert group.fabric.bandwidth_bytes_per_s > group.host.device_link_bytes_per_s


@pytest.mark.parametrize("name", bundled_devices())
def test_every_device_is_sound_and_sourced(name):
    device = Device.model_validate(device_mapping(name))
    assert device.name == name
    assert device.context_bytes < device.memory_bytes / 4
    assert {"fp32", "fp16" if name in NO_BF16 else "bf16"} <= device.peak_flops.keys()
    assert ("bf16" in device.peak_flops) == (name not in NO_BF16)
    assert len(device.calibration.source) > 30
    assert len(device.source) > 30
    assert 1e-6 < device.calibration.launch_s < 1e-4


@pytest.mark.parametrize(("name", "peak"), DENSE_BF16.items())
def test_peaks_are_dense(name, peak):
    assert Device.model_validate(device_mapping(name)).peak_flops["bf16"] == pytest.approx(peak, rel=0.01)


def test_failure_rate_is_that_of_the_llama_3_report():
    rate = load_cluster("dgx-h100").node_groups[0].failures_per_device_hour
    assert rate == pytest.approx(419 / (54 * 24 * 16384), rel=0.02)


def test_node_count():
    assert load_cluster("dgx-h100:16").num_devices == 128
    assert Topology(load_cluster("gb200-nvl72:36")).group(range(144)).domains == 2
    for wrong in ("dgx-h100:0", "dgx-h100:many", "two-site:8"):
        with pytest.raises(InputError):
            load_cluster(wrong)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match="dgx-h100"):
        load_cluster("dgx_h100")
    with pytest.raises(InputError, match="cannot be read"):
        load_cluster("nowhere.yaml")


def test_file_with_named_and_inline_devices(tmp_path):
    inline = device_mapping("h200-sxm-141gb") | {"name": "mine", "memory": "100 GiB"}
    mapping = yaml.safe_load(CLUSTER)
    mapping["node_groups"][0]["device"] = inline
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(mapping))
    assert load_cluster(str(path)).node_groups[0].device.memory_bytes == 100 * 2**30
    path.write_text(CLUSTER)
    group = load_cluster(str(path)).node_groups[0]
    assert group.device.peak_flops["bf16"] == pytest.approx(989.4e12)
    assert group.nics is not None
    assert group.nics.rate_bytes_per_s == 50e9


CLUSTER = """
name: mine
node_groups:
  - name: a
    nodes: 2
    devices_per_node: 8
    device: h100-sxm-80gb
    fabric: {kind: nvswitch, bandwidth: 450 GB/s, latency: 3 us}
    nics: {kind: infiniband, count: 8, rate: 400 Gbit/s, latency: 4 us}
    host: {memory: 2 TB, cores: 96, device_link: 55 GB/s}
"""


def test_every_problem_of_a_file_is_reported_as_written(tmp_path):
    text = CLUSTER.replace("h100-sxm-80gb", "h100-smx-80gb").replace("450 GB/s", "450 Gb/s")
    text = text.replace("count: 8", "cuont: 8").replace("nodes: 2", "nodes: 0")
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_cluster(str(path))
    report = str(caught.value)
    for expected in (
        "node_groups[0].device",
        "did you mean 'h100-sxm-80gb'",
        "node_groups[0].fabric.bandwidth",
        "ambiguous",
        "node_groups[0].nics.cuont",
        "did you mean 'count'",
        "node_groups[0].nics.count: is required",
        "node_groups[0].nodes",
    ):
        assert expected in report


def test_efficiency_points_must_ascend(tmp_path):
    device = device_mapping("cpu-core")
    device["calibration"]["matmul"].reverse()
    with pytest.raises(ValueError, match="ascending"):
        Device.model_validate(device)


def test_the_documented_example_and_catalogue_are_real():
    text = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    example = Cluster.model_validate(yaml.safe_load(text.split("```yaml\n")[1].split("```")[0]))
    assert Topology(example).num_devices == 40
    assert [name for name in bundled_clusters() if f"`{name}`" not in text] == []


def test_fp8_has_its_own_curve_where_it_is_known():
    device = device_mapping("h100-sxm-80gb")
    device["calibration"]["matmul_fp8"] = [{"flops": 1e9, "fraction": 0.5}]
    hopper = Device.model_validate(device).calibration
    assert hopper.points("fp8") == hopper.matmul_fp8 != hopper.points("bf16") == hopper.matmul


@pytest.mark.parametrize(("dtype", "times"), [("bf16", 1), ("fp8", 2), ("fp4", 4)])
def test_a_narrow_product_is_as_efficient_as_a_16_bit_one_that_takes_as_long(dtype: str, times: int) -> None:
    device = Device.model_validate(device_mapping("b200-sxm-180gb"))
    peak, sixteen = device.peak_flops, device.calibration.matmul
    for point, narrow in zip(sixteen, device.calibration.points(dtype), strict=True):
        assert narrow.flops / (peak[dtype] * narrow.fraction) == pytest.approx(
            point.flops / (peak["bf16"] * point.fraction)
        )
        assert narrow.flops == times * point.flops


def test_local_takes_a_number_of_workers() -> None:
    assert load_cluster("local:3").num_devices == 3
    for wrong in ("local:0", "local:x", "local:", "local:100000"):
        with pytest.raises(InputError, match="workers must be a whole number"):
            load_cluster(wrong)
