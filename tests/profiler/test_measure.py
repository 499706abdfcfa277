"""A profile of this machine: plausible, complete, and a cluster file that reads back equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.clusters import Topology, load_cluster, save_cluster
from meshwright.errors import InputError, RunError
from meshwright.profiler import records
from meshwright.profiler.assembly import assemble
from meshwright.profiler.measure import profile_machine
from meshwright.profiler.parts import Asked, Found, allot


@pytest.fixture(scope="module")
def profile():
    told = []
    cluster = profile_machine(2, budget_s=0.5, progress=lambda part, done: told.append((part, done)))
    return cluster, told


def test_profile_is_plausible(profile):
    cluster, _ = profile
    device, fabric = cluster.node_groups[0].device, cluster.node_groups[0].fabric
    assert cluster.num_devices == 2
    assert device.calibration.origin == "measured"
    assert 1e8 < device.peak_flops["fp32"] < 1e15
    assert 1e8 < device.memory_bandwidth_bytes_per_s < 1e13
    assert 1e-7 < device.calibration.launch_s < 1e-2
    assert 5e7 < device.context_bytes < device.memory_bytes
    assert len(device.calibration.matmul) >= 3
    assert max(point.fraction for point in device.calibration.matmul) > 0.2
    assert 1e6 < fabric.bandwidth_bytes_per_s < 1e13
    assert 0 <= fabric.latency_s < 1
    assert "torch" in cluster.source
    assert cluster.measured.workers == 2
    untold = {note.part for note in cluster.measured.notes}  # what this machine does not say, or takes longer
    assert untold <= {"detect", *allot(0.5, Asked()).left_out}


def test_progress_only_rises_and_ends(profile):
    _, told = profile
    done = [fraction for _, fraction in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0.0, 1.0)
    inside = [f"compute: {what}" for what in ("matrix products", "attention", "memory", "small operations")]
    assert [part for part, _ in told][1:-1] == ["machine", "detect", "compute", *inside, "links"]


def test_profile_reads_back_equal(profile, tmp_path):
    cluster, _ = profile
    path = tmp_path / "machine.yaml"
    save_cluster(cluster, path)
    assert load_cluster(str(path)) == cluster
    assert Topology(cluster).group(range(2)).inner is not None


def result(launch_s=1e-5, rate=50e9, **changes):
    """What one worker of known speed would report."""
    sizes = [2.0**power for power in range(20, 34, 2)]
    compute = {
        "matmul": [[flops, launch_s + flops / (rate * (0.5 if flops < 2**26 else 1.0))] for flops in sizes],
        "best_flops": {"fp32": rate / 2, "bf16": rate * 2},
        "attention_flops_per_s": rate / 4,
        "memory_bytes_per_s": 10e9,
        "block_bytes_per_s": 4e9,
        "host_bytes_per_s": 10e9,
        "launch_s": launch_s,
    }
    sizes = (2.0**12, 2.0**16, 2.0**20, 2.0**24)
    links = {
        "rings": [[2, size, 2 * 1e-4 + size / 1e9] for size in sizes],
        "reduce_scatter": [[1, size, 3 * (1e-4 + size / 1e9)] for size in sizes],
    }
    machine = {
        "context_bytes": 2e8,
        "kind": "cpu",
        "name": None,
        "memory_bytes": None,
        "host": "here",
        "processor": "a CPU",
    }
    machine |= {"versions": {"torch": "2.13.0"}} | changes
    return {"compute": compute, "links": links, "machine": machine}


def assembled(*results, notes=()):
    about = {"workers": len(results), "threads": 1, "budget_s": 1.0}
    return assemble(Found(results, [range(len(results))]), about, notes)


def test_known_machine_is_found_again():
    group = assembled(result(), result()).node_groups[0]
    assert group.device.peak_flops["fp32"] == pytest.approx(50e9, rel=0.01)
    assert group.device.calibration.attention == pytest.approx(0.25, rel=0.01)
    assert group.device.calibration.launch_s == pytest.approx(1e-5, rel=0.01)
    fractions = [point.fraction for point in group.device.calibration.matmul]
    assert fractions[-1] == pytest.approx(1.0, rel=0.01)
    assert fractions[1] == pytest.approx(0.5, rel=0.01)
    assert group.fabric.latency_s == pytest.approx(1e-4, rel=0.03)
    assert group.fabric.bandwidth_bytes_per_s == pytest.approx(1e9, rel=0.02)
    assert group.fabric.reduce_scatter == pytest.approx(3, rel=0.03)
    assert group.device.calibration.memory == pytest.approx(0.4)


def test_figures_are_medians_over_workers_and_gpus_keep_their_name():
    gpu = {"kind": "cuda", "name": "NVIDIA H200", "memory_bytes": 150e9}
    group = assembled(result(**gpu), result(launch_s=3e-5, **gpu)).node_groups[0]
    assert group.device.name == "NVIDIA H200"
    assert group.device.memory_bytes == 150e9
    assert group.fabric.kind == "nvlink"
    assert group.device.calibration.launch_s == pytest.approx(2e-5, rel=0.01)


def test_one_worker_says_that_its_fabric_is_assumed():
    assert "assumed" in assembled(result() | {"links": {"rings": [], "reduce_scatter": []}}).source


def test_what_one_worker_has_is_enough_and_the_rest_is_noted():
    lost = {"part": "links", "what": "rank 1", "why": "connection closed by peer"}
    cluster = assembled({key: value for key, value in result().items() if key != "links"}, {}, notes=[lost])
    assert cluster.num_devices == 2
    assert "assumed" in cluster.source
    assert [note.model_dump() for note in cluster.measured.notes] == [lost]


def test_a_profile_of_nothing_says_why():
    with pytest.raises(RunError, match="compute, rank 0: out of memory"):
        assembled({"machine": {}}, notes=[{"part": "compute", "what": "rank 0", "why": "out of memory"}])


@pytest.mark.parametrize(("workers", "budget_s"), [(0, 20), (-1, 20), (2, 0)])
def test_impossible_arguments(workers, budget_s):
    with pytest.raises(InputError):
        profile_machine(workers, budget_s)


def test_asking_for_a_profile_does_not_import_torch_here():
    code = "import sys, meshwright.profiler.measure; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_links_that_died_before_a_reduce_scatter_was_timed():
    died = result()
    died["links"] = died["links"] | {"reduce_scatter": []}
    fabric = assembled(died, died).node_groups[0].fabric
    assert fabric.bandwidth_bytes_per_s == pytest.approx(1e9, rel=0.02)
    assert fabric.reduce_scatter == 1.0


def interrupted(piece):
    """Stands for workers that are interrupted in a part, with or without something measured of it."""

    def run(settings, *_):
        for each in settings:
            own = Path(each.folder) / str(each.rank)
            own.mkdir()
            for part in ("machine", "compute"):
                records.save(Path(each.folder), each.rank, part, {"workers": each.workers}, result()[part])
            kept = records.Kept(own / "kernels.jsonl", {})
            if piece:
                kept.once("matmul", lambda: [[1.0]])
        return ["interrupted; last part begun: kernels"]

    return run


@pytest.mark.parametrize("piece", [True, False])
def test_pieces_of_a_part_that_did_not_end_are_kept_and_told(piece, monkeypatch, tmp_path):
    monkeypatch.setattr("meshwright.profiler.workers.run", interrupted(piece))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    notes = {note.what: note.why for note in profile_machine(1).measured.notes}
    kept = list(tmp_path.glob("*/0/kernels.jsonl"))
    assert len(kept) == piece
    assert ("what did not end" in notes) is piece
    if piece:
        assert f"--folder {kept[0].parent.parent} goes on" in notes["what did not end"]
