"""A measured cluster beside the machine that runs: what does not match is told, and nothing where nobody can know."""

from __future__ import annotations

import pytest

from meshwright.clusters import load_cluster, save_cluster
from meshwright.clusters.here import Here, mismatches, parse_driver, this_machine, warnings
from meshwright.errors import InputError
from meshwright.schema import load_mapping

from .test_difference import provenance

MEASURED = provenance(host="node7", devices=("NVIDIA H200",), versions={"torch": "2.11.0", "driver": "550.90.07"})
SAME = Here("node7", ("NVIDIA H200",), {"torch": "2.11.0", "driver": "550.90.07"})


def cluster(measured=MEASURED):
    return load_cluster("dgx-h200").model_copy(update={"measured": measured})


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (SAME, []),
        (Here("node8", SAME.devices, SAME.versions), []),  # an equal machine
        (Here("node7", ("NVIDIA H100 80GB HBM3",), SAME.versions), ["NVIDIA H200; this machine has NVIDIA H100"]),
        (Here("node7", SAME.devices, {"torch": "2.13.0"}), ["torch 2.11.0; this machine has 2.13.0"]),
        (Here("node7", SAME.devices, {"driver": "570.1"}), ["driver 550.90.07; this machine has 570.1"]),
        (Here("node7", (), {}), []),  # nothing known
    ],
)
def test_what_does_not_match(here, words):
    told = list(mismatches(MEASURED, here))
    assert len(told) == len(words)
    assert all(part in whole for part, whole in zip(words, told, strict=True))


def test_plan_speaks_of_the_host_that_was_measured_and_launch_of_the_one_that_runs():
    other = Here("laptop", ("NVIDIA T400",), {"torch": "2.13.0"})
    assert warnings(cluster(), runs_here=False, here=other) == []
    assert len(warnings(cluster(), runs_here=True, here=other)) == 2
    assert len(warnings(cluster(), runs_here=False, here=Here("node7", ("NVIDIA T400",), {}))) == 1
    assert warnings(cluster(None), runs_here=True, here=other) == []


def test_a_cluster_measured_here_matches_here():
    here = this_machine(on_gpus=False)
    measured = provenance(host=here.host, devices=here.devices, versions=here.versions)
    assert warnings(cluster(measured), runs_here=True, here=here) == []


def test_drivers_name_themselves():
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024\nGCC version: 12\n"
    assert parse_driver(text) == "550.90.07"
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build  (dvs-builder)\n"
    assert parse_driver(text) == "565.57.01"
    assert parse_driver("") == ""


def test_the_file_keeps_where_it_was_measured(tmp_path):
    path = tmp_path / "c.yaml"
    save_cluster(cluster(), path)
    assert load_cluster(str(path)) == cluster()
    assert "measured" not in load_cluster("dgx-h200").model_dump()
    path.write_text(path.read_text().replace("host: node7", "hosts: node7"))
    assert "hosts" in load_mapping(path)["measured"]
    with pytest.raises(InputError, match=r"measured.hosts.*did you mean 'host'"):
        load_cluster(str(path))
