"""Machines as /proc, /sys and nvidia-smi describe them, written from the public formats: the kernel's ABI documents of
sysfs, NVIDIA's manual of nvidia-smi, and what users post of a DGX H100, a box of RTX 4090s and an EC2 p5."""

from __future__ import annotations

from pathlib import Path

DGX_TOPO = """\
{header}
{rows}

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

{legend}
"""
DGX_CARDS = (0, 3, 4, 5, 6, 9, 10, 11)  # mlx5_N of the eight compute ports; 1 and 7 carry storage
DGX_PORTS = (0, 1, 3, 4, 5, 6, 7, 9, 10, 11)


def dgx_topology() -> str:
    """`nvidia-smi topo -m` of a DGX H100: every GPU has 18 links to all, and a card behind its own switch."""
    rows = []
    for gpu in range(8):
        gpus = [" X " if other == gpu else "NV18" for other in range(8)]
        nics = ["PXB" if port == DGX_CARDS[gpu] else "SYS" if (port > 6) != (gpu > 3) else "NODE" for port in DGX_PORTS]
        cores = "0-55,112-167\t0\t\tN/A" if gpu < 4 else "56-111,168-223\t1\t\tN/A"
        rows.append("\t".join([f"GPU{gpu}", *gpus, *nics, cores]))
    for index, port in enumerate(DGX_PORTS):
        gpus = ["PXB" if port == DGX_CARDS[gpu] else "SYS" for gpu in range(8)]
        rows.append("\t".join([f"NIC{index}", *gpus, *([" X "] * 10)]))
    legend = "\n".join(f"  NIC{index}: mlx5_{port}" for index, port in enumerate(DGX_PORTS))
    columns = [f"GPU{gpu}" for gpu in range(8)] + [f"NIC{nic}" for nic in range(10)]
    header = "\t".join(["", "\x1b[4mGPU0", *columns[1:], "CPU Affinity", "NUMA Affinity", "GPU NUMA ID\x1b[0m"])
    return DGX_TOPO.format(header=header, rows="\n".join(rows), legend=legend)


DGX_LINKS = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\n" + "".join(f"\t Link {n}: 26.562 GB/s\n" for n in range(18))
DGX_QUERY = "".join(
    f"NVIDIA H100 80GB HBM3, 81559, 00000000:{bus}:00.0, 550.90.07, 700.00, 0\n"
    for bus in ("1B", "43", "52", "61", "9D", "C3", "D1", "DF")
)
BOX_TOPO = """\
        GPU0    GPU1    GPU2    GPU3    CPU Affinity    NUMA Affinity   GPU NUMA ID
GPU0     X      PHB     SYS     SYS     0-31            0               N/A
GPU1    PHB      X      SYS     SYS     0-31            0               N/A
GPU2    SYS     SYS      X      PHB     32-63           1               N/A
GPU3    SYS     SYS     PHB      X      32-63           1               N/A
"""
BOX_QUERY = "".join(
    f"NVIDIA GeForce RTX 4090, 24564, 00000000:{bus}:00.0, 560.35.03, 450.00, {used}\n"
    for bus, used in (("01", "0"), ("41", "97"), ("81", "[N/A]"), ("C1", "0"))
)


class Writer:
    """Files and links of a recorded machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def link(self, path: str, target: str) -> None:
        """As /sys has it: class/net/eth0 leads to where the device hangs."""
        here = self.root / path
        here.parent.mkdir(parents=True, exist_ok=True)
        (self.root / target).mkdir(parents=True, exist_ok=True)
        here.symlink_to(self.root / target)

    def card(self, path: str, speed: str, lanes: int, numa: int = 0, most: int | None = None) -> str:
        """A PCI device below the bridges of `path`; it is found under bus/pci/devices as well."""
        here = f"sys/devices/{path}"
        for name, value in (
            ("current_link_speed", speed),
            ("current_link_width", lanes),
            ("max_link_width", most or lanes),
            ("numa_node", numa),
        ):
            self.write(f"{here}/{name}", value)
        self.link(f"sys/bus/pci/devices/{path.rpartition('/')[2]}", here)
        return here

    def processors(self, sockets: int, cores: int, model: str, memory_kib: int) -> None:
        """Two threads a core, numbered as Linux does: first all cores, then their second threads."""
        lines, total = [], sockets * cores
        for thread in range(2 * total):
            core = thread % total
            here = f"sys/devices/system/cpu/cpu{thread}/topology"
            self.write(f"{here}/physical_package_id", core // cores)
            self.write(f"{here}/thread_siblings_list", f"{core},{core + total}")
            lines += [f"processor\t: {thread}", "vendor_id\t: GenuineIntel", f"model name\t: {model}", ""]
        self.write("proc/cpuinfo", "\n".join(lines))
        self.write("proc/meminfo", f"MemTotal:       {memory_kib} kB\nMemFree:        1 kB")
        for socket in range(sockets):
            first = socket * cores
            ranges = f"{first}-{first + cores - 1},{first + total}-{first + cores - 1 + total}"
            self.write(f"sys/devices/system/node/node{socket}/cpulist", ranges)

    def infiniband(
        self, name: str, device: str, rate: str, layer: str, state: str = "4: ACTIVE", net: str = ""
    ) -> None:
        here = f"{device}/infiniband/{name}"
        self.write(f"{here}/ports/1/rate", rate)
        self.write(f"{here}/ports/1/link_layer", layer)
        self.write(f"{here}/ports/1/state", state)
        self.link(f"{here}/device", device)
        self.link(f"sys/class/infiniband/{name}", here)
        if net:
            self.ethernet(net, device, 200000)

    def ethernet(self, name: str, device: str, speed: int, state: str = "up", kind: int = 1) -> None:
        here = f"{device}/net/{name}"
        for file, value in (("speed", speed), ("operstate", state), ("type", kind)):
            self.write(f"{here}/{file}", value)
        if device:
            self.link(f"{here}/device", device)
        self.link(f"sys/class/net/{name}", here)

    def drive(self, name: str, device: str, sectors: int, model: str) -> None:
        here = f"{device}/nvme/{name[:5]}/{name}"
        self.write(f"{here}/size", sectors)
        self.write(f"{here}/device/model", model)
        self.link(f"sys/block/{name}", here)


def dgx_h100(root: Path) -> None:
    """Eight compute ports of 400 Gbit/s, two of storage, 2 TB, eight U.2 drives of 3.84 TB."""
    writer = Writer(root)
    writer.processors(2, 56, "Intel(R) Xeon(R) Platinum 8480C", 2113463552)
    buses = ("1b", "43", "52", "61", "9d", "c3", "d1", "df")
    for gpu, (bus, port) in enumerate(zip(buses, DGX_CARDS, strict=True)):
        bridge = f"pci0000:{int(bus, 16) - 6:02x}/0000:{int(bus, 16) - 6:02x}:01.0/0000:{int(bus, 16) - 5:02x}:00.0"
        below = int(bus, 16) - 4
        numa = 0 if gpu < 4 else 1
        writer.card(f"{bridge}/0000:{below:02x}:00.0/0000:{bus}:00.0", "32.0 GT/s PCIe", 16, numa)
        card = writer.card(f"{bridge}/0000:{below:02x}:02.0/0000:{below + 1:02x}:00.0", "32.0 GT/s PCIe", 16, numa)
        writer.write(f"{card}/vendor", "0x15b3")
        writer.infiniband(f"mlx5_{port}", card, "400 Gb/sec (4X NDR)", "InfiniBand")
    for number, port in enumerate((1, 7)):
        card = writer.card(f"pci0000:0{number}/0000:0{number}:01.0/0000:0{number + 2}:00.0", "32.0 GT/s PCIe", 16)
        writer.write(f"{card}/vendor", "0x15b3")
        writer.infiniband(f"mlx5_{port}", card, "200 Gb/sec (4X HDR)", "Ethernet", net=f"enp{number}")
    writer.infiniband("mlx5_2", "sys/devices/down", "40 Gb/sec (4X QDR)", "InfiniBand", state="1: DOWN")
    for number in range(8):
        card = writer.card(f"pci0000:a{number}/0000:a{number}:01.0/0000:b{number}:00.0", "16.0 GT/s PCIe", 4)
        writer.drive(f"nvme{number}n1", card, 7501476528, "KCM6DRUL3T84")


def box_4090(root: Path) -> None:
    """Four RTX 4090 on PCIe 4.0, one of them in a slot of eight lanes; a card of 25 Gbit/s, one down, a bridge."""
    writer = Writer(root)
    writer.processors(2, 16, "AMD EPYC 7302 16-Core Processor", 263856280)
    for gpu, bus in enumerate(("01", "41", "81", "c1")):
        root_bus = f"{int(bus, 16) - 1:02x}"
        path = f"pci0000:{root_bus}/0000:{root_bus}:01.1/0000:{bus}:00.0"
        writer.card(path, "16.0 GT/s PCIe", 8 if gpu == 2 else 16, gpu // 2, most=16)
    up = writer.card("pci0000:a0/0000:a0:03.1/0000:a1:00.0", "8.0 GT/s PCIe", 8)
    writer.ethernet("enp161s0f0", up, 25000)
    down = writer.card("pci0000:a0/0000:a0:03.2/0000:a2:00.0", "8.0 GT/s PCIe", 8)
    writer.ethernet("enp162s0f0", down, -1, state="down")
    writer.ethernet("docker0", "", 10000)
    writer.ethernet("lo", "", 10000, kind=772)
    drive = writer.card("pci0000:e0/0000:e0:01.0/0000:e1:00.0", "16.0 GT/s PCIe", 4)
    writer.drive("nvme0n1", drive, 3907029168, "Samsung SSD 980 PRO 2TB")
    writer.write("sys/block/sda/size", 1000)


def ec2_p5(root: Path) -> None:
    """Thirty-two EFA cards of 100 Gbit/s, whose link layer the kernel does not name, and the instance's Ethernet."""
    writer = Writer(root)
    writer.processors(2, 48, "AMD EPYC 7R13 Processor", 2097152000)
    for number in range(32):
        bus = 0x4F + number
        path = f"pci0000:{bus - 1:02x}/0000:{bus - 1:02x}:01.0/0000:{bus:02x}:00.0"
        card = writer.card(path, "16.0 GT/s PCIe", 8, number // 16)
        writer.write(f"{card}/vendor", "0x1d0f")
        writer.infiniband(f"rdmap{bus}s0", card, "100 Gb/sec (4X EDR)", "Unknown")
    own = writer.card("pci0000:20/0000:20:05.0", "Unknown", 0)
    writer.ethernet("ens32", own, -1)


def nccl_xml(switched: bool) -> str:
    """Two GPUs as NCCL dumps them: behind two switches of nine links each, or joined by four links of their own."""
    peers = {"0000:1b:00.0": "0000:43:00.0", "0000:43:00.0": "0000:1b:00.0"}
    cards = []
    for dev, (bus, peer) in enumerate(peers.items()):
        links = (
            [("0000:07:00.0", "0x068000", 9), ("0000:08:00.0", "0x068000", 9)] if switched else [(peer, "0x030200", 4)]
        )
        wires = "".join(f'<nvlink target="{to}" count="{count}" tclass="{kind}"/>' for to, kind, count in links)
        cards.append(
            f'<pci busid="{bus}" class="0x030200" vendor="0x10de" device="0x2330" link_speed="32.0 GT/s PCIe" '
            f'link_width="16"><gpu dev="{dev}" sm="90" rank="{dev}" gdr="1">{wires}</gpu></pci>'
        )
    return f'<system version="1"><cpu numaid="0" arch="x86_64" vendor="GenuineIntel">{"".join(cards)}</cpu></system>'
