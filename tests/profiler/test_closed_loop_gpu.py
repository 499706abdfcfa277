"""The closed loop on one GPU, as far as a CPU takes it: profiles joined, and a walk from profile to verdict."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

import closed_loop_gpu

from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.local import cpu_cluster
from meshwright.clusters.schema import Cluster


def profiled(name: str, hidden: int) -> Cluster:
    """One device with one layer of a model, and the rest of a step."""
    data = cpu_cluster(1).model_dump(mode="json", by_alias=True, exclude_none=True) | {"name": name}
    row = {"sizes": {"hidden": hidden}, "dtype": "fp32", "seq_len": 8, "microbatch": 1}
    times: dict[str, Any] = {
        "source": name,
        "layers": [row | {"forward_s": 0.1, "backward_s": 0.2}],
        "tails": [{"sharded": False, "parameters": hidden, "seconds": 0.1}],
    }
    data["node_groups"][0]["device"]["calibration"]["layers"] = times
    return Cluster.model_validate(data)


def test_the_layers_of_all_models_come_into_the_file_of_the_first() -> None:
    found = closed_loop_gpu.joined([profiled("first", 64), profiled("second", 128)])
    times = found.node_groups[0].device.calibration.layers
    assert times is not None
    assert found.name == "first"
    assert [row.sizes["hidden"] for row in times.layers] == [64, 128]
    assert [row.parameters for row in times.tails] == [64, 128]


@pytest.mark.slow
def test_a_walk_on_the_cpu_writes_the_file_and_says_both_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the verdict: eight seconds of measuring promise no 5 %."""
    out = tmp_path / "cpu.yaml"
    options = Namespace(models=["byte-llama"], seq_len=64, global_batch=2, budget=8.0, steps=2, out=out)
    assert closed_loop_gpu.main(options) in (0, 1)
    shown = capsys.readouterr().out
    told = json.loads(shown[shown.index("{") :])
    assert told["predicted_s"] > 0 < told["measured_s"]
    layers = load_cluster(str(out)).node_groups[0].device.calibration.layers
    assert layers is not None
    assert layers.layers
