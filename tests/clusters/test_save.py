"""What is saved reads back equal, and reads well."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwright.clusters import Cluster, bundled_clusters, load_cluster, save_cluster
from meshwright.clusters.devices import device_mapping

positive = st.floats(min_value=1e-9, max_value=1e18)
words = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=30)  # YAML folds control characters
fraction = st.floats(min_value=1e-3, max_value=1.0)


@st.composite
def clusters(draw):
    points = sorted(draw(st.lists(positive, min_size=1, max_size=4, unique=True)))
    device = device_mapping("a100-sxm-80gb") | {
        "memory": draw(positive),
        "memory_bandwidth": draw(positive),
        "peak_flops": {"fp32": draw(positive), "bf16": draw(positive)},
        "power_w": draw(st.none() | positive),
    }
    device["calibration"] = {
        "origin": "measured",
        "source": draw(words),
        "matmul": [{"flops": flops, "fraction": draw(fraction)} for flops in points],
        "attention": draw(fraction),
        "memory": draw(fraction),
        "launch": draw(st.floats(min_value=0, max_value=1)),
    }
    fabric = {"kind": "pcie", "bandwidth": draw(positive), "latency": draw(positive), "efficiency": draw(fraction)}
    nics = {"kind": "roce", "count": 2, "rate": draw(positive), "latency": draw(positive)}
    host = {"memory": draw(positive), "cores": draw(st.integers(1, 512)), "device_link": draw(positive)}
    nvme = {"capacity": draw(positive), "read": draw(positive), "write": draw(positive)}
    group = {"name": "g", "nodes": draw(st.integers(1, 9)), "devices_per_node": 4, "device": device, "fabric": fabric}
    group |= {"nics": nics, "host": host, "nvme": draw(st.none() | st.just(nvme))}
    group["price_per_device_hour"] = draw(st.none() | st.floats(min_value=0, max_value=100))
    given = {"name": "random", "node_groups": [group], "source": draw(words), "exceptions": draw(exceptions(group))}
    return Cluster.model_validate(given)


@st.composite
def exceptions(draw, group):
    """A slow node, a missing device, a slow path or a matrix, where there are nodes enough."""
    nodes = group["nodes"]
    rate = st.floats(min_value=1e3, max_value=1e12)
    slow = st.fixed_dictionaries({"network": rate} | {"fabric_factor": fraction})
    found = {"nodes": [{"node": "g/0", "missing": [draw(st.integers(0, 3))], **draw(st.just({}) | slow)}]}
    if nodes > 1 and draw(st.booleans()):
        found["paths"] = [{"between": ["g/0", f"g/{nodes - 1}"], **draw(st.sampled_from([{"factor": 0.1}]))}]
    elif nodes > 1:
        rows = [[0 if a == b else draw(st.floats(0, 100)) for b in range(nodes)] for a in range(nodes)]
        found = {"matrix": {"rows": rows, "unit": draw(st.sampled_from(["GB/s", "Gbit/s"]))}}
    return draw(st.just({}) | st.just(found))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cluster=clusters())
def test_round_trip_is_exact(tmp_path, cluster):
    path = tmp_path / "cluster.yaml"
    save_cluster(cluster, path)
    assert load_cluster(str(path)) == cluster


@pytest.mark.parametrize("name", bundled_clusters())
def test_bundled_clusters_round_trip(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    save_cluster(load_cluster(name), path)
    assert load_cluster(str(path)) == load_cluster(name)


def test_reads_as_a_person_would_write(tmp_path):
    path = tmp_path / "cluster.yaml"
    save_cluster(load_cluster("dgx-h100:4"), path)
    text = path.read_text()
    for expected in ("nodes: 4", "memory: 79.1 GiB", "bandwidth: 450 GB/s", "bf16: 989.4 TFLOP/s", "launch: 3.1 us"):
        assert expected in text
    assert "oversubscription" not in text


def test_clusters_that_nobody_measured_are_written_as_ever():
    """Fields that the format has grown stay out where they hold nothing: plans hold the cluster that they are for."""
    data = load_cluster("dgx-h100:1").model_dump(mode="json", by_alias=True)
    (group,) = data["node_groups"]
    assert not data.keys() & {"measured", "adjustment"}
    assert not group["device"]["calibration"].keys() & {"shapes", "overlap", "layers"}
    assert "costs" not in group["fabric"]
    assert "costs" not in group["nics"]
