"""Three recorded machines and this one: what is found, and what is told of what is not."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from meshwright.profiler.detect import gpus, machine, memory, networks, pcie, processors, wires
from meshwright.profiler.detect.busy import busy_notes, processors_used, ticks
from meshwright.profiler.detect.tree import Tree

from . import trees


def smi(query, topology="", links=""):
    """Stands for nvidia-smi."""

    def execute(command):
        return {"topo": topology, "nvlink": links}.get(command[1], query)

    return execute


def nobody(_):
    raise FileNotFoundError("nvidia-smi")


@pytest.fixture(autouse=True)
def _no_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.fixture
def dgx(tmp_path):
    trees.dgx_h100(tmp_path)
    return machine.read_machine(Tree(tmp_path), smi(trees.DGX_QUERY, trees.dgx_topology(), trees.DGX_LINKS))


@pytest.fixture
def box(tmp_path):
    trees.box_4090(tmp_path)
    return machine.read_machine(Tree(tmp_path), smi(trees.BOX_QUERY, trees.BOX_TOPO))


def whys(found):
    return {note["what"]: note["why"] for note in found.notes}


def test_dgx_h100(dgx):
    assert (dgx.processors.sockets, dgx.processors.cores, dgx.processors.threads) == (2, 112, 224)
    assert dgx.processors.numa[1][:2] == (56, 57)
    assert dgx.memory_bytes == 2113463552 * 1024
    assert [gpu.name for gpu in dgx.gpus] == ["NVIDIA H100 80GB HBM3"] * 8
    assert dgx.gpus[0].memory_bytes == 81559 * 2**20
    assert (dgx.gpus[0].address, dgx.gpus[0].driver, dgx.gpus[0].power_w) == ("0000:1b:00.0", "550.90.07", 700.0)
    assert dgx.wires.kind == "nvswitch"
    assert sum(dgx.wires.link_bytes_per_s) == pytest.approx(18 * 26.562e9)
    assert len(dgx.wires.pairs) == 28
    assert [card.name for card in dgx.cards] == [f"mlx5_{port}" for port in trees.DGX_CARDS]
    assert {(card.kind, card.rate_bytes_per_s) for card in dgx.cards} == {("infiniband", 50e9)}
    assert dgx.near == ("PXB",) * 8
    assert sum(drive.capacity_bytes for drive in dgx.drives) == pytest.approx(30.7e12, rel=0.01)
    # of PCIe 4.0 with four lanes: 16 GT/s x 4 x 128/130 / 8
    assert dgx.drives[0].bytes_per_s == pytest.approx(7.877e9, rel=1e-3)
    assert "DOWN" in whys(dgx)["card mlx5_2"]
    assert "more bandwidth" in whys(dgx)["card mlx5_1"]
    assert "card enp0" not in whys(dgx)  # the same port, once


def test_a_box_without_nvlink(box):
    assert box.wires.kind == "pcie"
    assert [(card.name, card.kind, card.rate_bytes_per_s) for card in box.cards] == [
        ("enp161s0f0", "ethernet", 25e9 / 8)
    ]
    assert box.near == ("NODE", "NODE", "SYS", "SYS")
    assert [drive.model for drive in box.drives] == ["Samsung SSD 980 PRO 2TB"]
    assert box.gpus[2].used is None
    told = whys(box)
    assert told["card enp162s0f0"] == "it is down"
    assert told["GPU 2"] == "its slot gives it 8 of its 16 PCIe lanes"
    assert not {"card docker0", "card lo"} & told.keys()


def test_efa_is_known_by_its_vendor(tmp_path):
    trees.ec2_p5(tmp_path)
    found = machine.read_machine(Tree(tmp_path), nobody)
    assert len(found.cards) == 32
    assert {(card.kind, card.rate_bytes_per_s) for card in found.cards} == {("efa", 12.5e9)}
    assert found.cards[0].name == "rdmap79s0"
    assert "driver does not say" in whys(found)["card ens32"]
    assert found.gpus == ()


def test_this_machine():
    found = machine.read_machine(execute=nobody)
    assert 1 <= found.processors.cores <= found.processors.threads
    assert found.processors.threads >= len(os.sched_getaffinity(0))
    assert found.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 1.001


def test_an_empty_machine_says_so_and_does_not_fail(tmp_path):
    found = machine.read_machine(Tree(tmp_path), nobody)
    assert found.processors.threads == 1
    assert {"processors", "host memory", "network cards"} <= whys(found).keys()


def test_no_permission_is_told(tmp_path):
    trees.box_4090(tmp_path)
    file = tmp_path / "sys/class/net/enp161s0f0/speed"
    tree = Tree(tmp_path)
    if os.geteuid() == 0:  # who may read everything gets no refusal to look at
        tree = Refusing(tmp_path)
    else:
        file.chmod(0)
    networks.read_cards(tree)
    assert tree.notes == [
        {"part": "detect", "what": "/sys/class/net/enp161s0f0/speed", "why": "no permission to read it"}
    ]


class Refusing(Tree):
    """Files named speed may not be read."""

    def text(self, path):
        if not path.endswith("speed") or "pci" in path:
            return Tree.text(self, path)
        self.notes.append({"part": "detect", "what": f"/{path}", "why": "no permission to read it"})
        return None


def test_a_container_has_less_memory(tmp_path):
    trees.box_4090(tmp_path)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert memory.read_memory(Tree(tmp_path))[0] == 263856280 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{2**33}\n")
    assert memory.read_memory(Tree(tmp_path)) == (
        2**33,
        [{"part": "detect", "what": "host memory", "why": "a container allows 8.0 GiB of it"}],
    )


@pytest.mark.parametrize(
    ("speed", "lanes", "gb_per_s"),
    # published payload rates of x16 slots: 4.0, 8.0, 15.75, 31.5, 63.0, 121 GB/s
    [
        ("2.5 GT/s PCIe", "16", 4.0),
        ("5.0 GT/s PCIe", "16", 8.0),
        ("8.0 GT/s PCIe", "16", 15.75),
        ("16.0 GT/s PCIe", "16", 31.5),
        ("32.0 GT/s PCIe", "16", 63.0),
        ("64.0 GT/s PCIe", "16", 121.0),
    ],
)
def test_what_a_slot_carries(speed, lanes, gb_per_s):
    assert pcie.link_rate(speed, lanes) == pytest.approx(gb_per_s * 1e9, rel=2e-3)


@pytest.mark.parametrize(("speed", "lanes"), [("Unknown", "16"), (None, None), ("16.0 GT/s PCIe", "0")])
def test_a_slot_that_does_not_say(speed, lanes):
    assert pcie.link_rate(speed, lanes) is None


@pytest.mark.parametrize(
    ("rate", "bytes_per_s"), [("400 Gb/sec (4X NDR)", 50e9), ("2.5 Gb/sec (1X SDR)", 312.5e6), ("", None), (None, None)]
)
def test_what_a_port_has_negotiated(rate, bytes_per_s):
    assert networks.port_rate(rate) == bytes_per_s


def test_lists_of_the_kernel():
    assert processors.number_list("0-3,8,10-11") == (0, 1, 2, 3, 8, 10, 11)
    assert processors.number_list("") == ()


def test_nccl_knows_switches_by_their_class():
    through, direct = wires.parse_nccl(trees.nccl_xml(True)), wires.parse_nccl(trees.nccl_xml(False))
    assert (through.kind, dict(through.pairs)) == ("nvswitch", {(0, 1): "NV18"})
    assert (direct.kind, dict(direct.pairs)) == ("nvlink", {(0, 1): "NV4"})
    assert wires.parse_nccl("<system") is None


def topology(rows):
    header = "\t" + "\t".join(f"GPU{n}" for n in range(len(rows)))
    return header + "\n" + "\n".join(f"GPU{n}\t" + "\t".join(row) for n, row in enumerate(rows))


@pytest.mark.parametrize(
    ("rows", "links", "kind"),
    [
        # HGX A100 of four: 12 links shared out among three peers, no switch
        (
            [["X", *["NV4"] * 3], ["NV4", "X", "NV4", "NV4"], ["NV4", "NV4", "X", "NV4"], [*["NV4"] * 3, "X"]],
            12,
            "nvlink",
        ),
        # the same links through switches: all of them to each peer
        ([["X" if a == b else "NV12" for b in range(4)] for a in range(4)], 12, "nvswitch"),
        ([["X" if a == b else "NV12" for b in range(4)] for a in range(4)], 0, "nvswitch"),
        # a bridge over two cards
        ([["X", "NV4"], ["NV4", "X"]], 4, "nvlink"),
        # DGX-1: pairs without links between them
        ([["X", "NV2", "SYS"], ["NV2", "X", "NV1"], ["SYS", "NV1", "X"]], 6, "nvlink"),
        ([["X", "PHB"], ["PHB", "X"]], 0, "pcie"),
    ],
)
def test_what_joins_gpus(rows, links, kind):
    told = "".join(f"\t Link {n}: 25 GB/s\n" for n in range(links))
    found, notes = wires.read_wires(smi("", topology(rows), told))
    assert (found.kind, notes) == (kind, [])


def test_nvidia_smi_without_a_driver_is_a_note():
    def failing(command):
        raise subprocess.CalledProcessError(9, command, "NVIDIA-SMI has failed because it couldn't communicate\n")

    found, notes = gpus.read_gpus(failing)
    assert found == ()
    assert notes[0]["why"].startswith("nvidia-smi failed: NVIDIA-SMI has failed")
    assert gpus.read_gpus(nobody) == ((), [])


class FakeNvml:
    """The functions of nvidia-ml-py that are called, with the units of NVML."""

    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_NOT_SUPPORTED = 3

    class NVMLError(Exception):
        value = 3

    def __init__(self, failing=""):
        self.failing = failing
        self.closed = 0

    def nvmlInit(self):
        if self.failing == "init":
            error = self.NVMLError("no such library")
            error.value = 12
            raise error

    def nvmlShutdown(self):
        self.closed += 1

    def nvmlSystemGetDriverVersion(self):
        return b"550.90.07"

    def nvmlDeviceGetCount(self):
        if self.failing == "count":
            raise self.NVMLError("Insufficient Permissions")
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, _):
        return "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, _):
        return SimpleNamespace(total=150_754_820_096)

    def nvmlDeviceGetPciInfo(self, _):
        return SimpleNamespace(busId=b"00000000:1B:00.0")

    def nvmlDeviceGetPowerManagementDefaultLimit(self, _):
        if self.failing == "power":
            error = self.NVMLError("Insufficient Permissions")
            error.value = 4
            raise error
        return 700_000

    def nvmlDeviceGetUtilizationRates(self, _):
        raise self.NVMLError("Not Supported")  # as in MIG mode


def test_nvml_is_asked_first(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    found, notes = gpus.read_gpus(nobody)
    assert found == (gpus.Gpu("NVIDIA H200", 150_754_820_096.0, "0000:1b:00.0", "550.90.07", 700.0, None),)
    assert (notes, fake.closed) == ([], 1)


def test_a_counter_without_permission_is_noted_and_the_rest_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("power"))
    (gpu,), notes = gpus.read_gpus(nobody)
    assert (gpu.name, gpu.power_w) == ("NVIDIA H200", None)
    why = "nvmlDeviceGetPowerManagementDefaultLimit: Insufficient Permissions"
    assert notes == [{"part": "detect", "what": "NVML", "why": why}]
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("count"))
    row = "NVIDIA H100, 81559, 00000000:1B:00.0, 550.90.07, [Insufficient Permissions], 0"
    found, notes = gpus.read_gpus(smi(f"{row}\n{row}"))
    assert [each.power_w for each in found] == [None, None]
    assert [each["why"] for each in notes] == ["Insufficient Permissions", "no permission to read power.default_limit"]


def test_gpus_of_which_nobody_tells_are_noted(monkeypatch, tmp_path):
    bare = machine.read_machine(Tree(tmp_path), nobody)
    monkeypatch.setattr(machine, "read_machine", lambda nccl: bare)
    whats = {}
    for kind in ("cpu", "cuda"):
        setting = SimpleNamespace(local_rank=0, folder=tmp_path, device=SimpleNamespace(type=kind))
        whats[kind] = [note["what"] for note in machine.measure(setting)["notes"]]
    assert whats["cuda"] == [*whats["cpu"], "GPUs"]


def test_where_nvml_fails_nvidia_smi_answers(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("count"))
    found, notes = gpus.read_gpus(smi(trees.BOX_QUERY))
    assert len(found) == 4
    assert notes == [{"part": "detect", "what": "NVML", "why": "Insufficient Permissions"}]
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("init"))
    assert gpus.read_gpus(nobody) == ((), [])


def test_who_uses_the_machine_already_is_named(box):
    told = {note["what"]: note["why"] for note in busy_notes(0.83, box.gpus)}
    assert told.keys() == {"processors", "GPU 1"}
    assert "83%" in told["processors"]
    assert "97%" in told["GPU 1"]
    assert list(busy_notes(None, ())) == []


def test_time_in_use_is_what_is_not_idle(tmp_path):
    assert ticks("cpu  100 5 45 800 50 0 10 40 99 0\ncpu0 1 2 3") == (850, 1050)
    assert ticks("") is None
    assert processors_used(Tree(tmp_path), 0.0) is None
    assert 0 <= processors_used(sample_s=0.05) <= 1
