"""Network cards of the host: those that a training job would use, and why others are left out."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

from .pcie import Slot, slot
from .tree import Note, Tree, note

_EFA_VENDOR = 0x1D0F  # Amazon
_SLINGSHOT_DRIVERS = ("cxi_ss1", "cxi_core", "cxi_eth", "cxi_ss1eth")


@dataclass(frozen=True, slots=True)
class Card:
    """One port of a card. `kind` as in a cluster file; `rate` is what the port has negotiated."""

    name: str
    kind: str
    rate_bytes_per_s: float
    slot: Slot | None


def read_cards(tree: Tree) -> tuple[tuple[Card, ...], list[Note]]:
    """Ports that are up, RDMA first; a port of Ethernet that RDMA uses counts once."""
    cards, notes = _rdma(tree)
    taken = {name for card in cards for name in tree.names(f"sys/class/infiniband/{card.name}/device/net")}
    others, more = _ethernet(tree, taken)
    return (*cards, *others), [*notes, *more]


def _rdma(tree: Tree) -> tuple[list[Card], list[Note]]:
    cards, notes = list[Card](), list[Note]()
    for name in tree.names("sys/class/infiniband"):
        for port in tree.names(f"sys/class/infiniband/{name}/ports"):
            here = f"sys/class/infiniband/{name}/ports/{port}"
            state = tree.text(f"{here}/state") or "unknown"
            rate = port_rate(tree.text(f"{here}/rate"))
            if "ACTIVE" not in state or rate is None:
                notes.append(note(f"card {name}", f"port {port} is not in use: {state}"))
                continue
            kind = _kind(tree, name, tree.text(f"{here}/link_layer") or "")
            cards.append(Card(name, kind, rate, slot(tree, f"sys/class/infiniband/{name}/device")))
    return cards, notes


def _kind(tree: Tree, name: str, layer: str) -> str:
    if tree.number(f"sys/class/infiniband/{name}/device/vendor") == _EFA_VENDOR:
        return "efa"
    return "roce" if layer == "Ethernet" else "infiniband"


def port_rate(text: str | None) -> float | None:
    """Bytes per second from `400 Gb/sec (4X NDR)`; the kernel means bits."""
    found = re.match(r"([\d.]+) Gb/sec", text or "")
    return float(found[1]) * 1e9 / 8 if found and float(found[1]) > 0 else None


def _ethernet(tree: Tree, taken: set[str]) -> tuple[list[Card], list[Note]]:
    cards, notes = list[Card](), list[Note]()
    for name in tree.names("sys/class/net"):
        here = f"sys/class/net/{name}"
        if name in taken or not tree.exists(f"{here}/device") or tree.number(f"{here}/type") != 1:
            continue  # bridges, tunnels, loopback, IP over InfiniBand; 1 is ARPHRD_ETHER
        if tree.text(f"{here}/operstate") != "up":
            notes.append(note(f"card {name}", "it is down"))
            continue
        speed = tree.number(f"{here}/speed")  # Mbit/s; -1 where the driver does not know, as in virtual machines
        if speed is None or speed <= 0:
            notes.append(note(f"card {name}", "its rate is not known: the driver does not say"))
            continue
        driver = PurePosixPath(tree.real(f"{here}/device/driver")).name
        kind = "slingshot" if driver in _SLINGSHOT_DRIVERS else "ethernet"
        cards.append(Card(name, kind, speed * 1e6 / 8, slot(tree, f"{here}/device")))
    return cards, notes


def chosen(cards: tuple[Card, ...]) -> tuple[tuple[Card, ...], list[Note]]:
    """Equal cards with the highest rate together: storage and management have others, fewer or slower."""
    if not cards:
        return (), [note("network cards", "none is up with a known rate")]
    alike: dict[tuple[str, float], list[Card]] = defaultdict(list)
    for card in cards:
        alike[card.kind, card.rate_bytes_per_s].append(card)
    best = max(alike.values(), key=lambda group: (sum(card.rate_bytes_per_s for card in group), len(group)))
    others = [card for card in cards if card not in best]
    why = f"left out beside {len(best)} {best[0].kind} cards with more bandwidth together"
    return tuple(best), [note(f"card {card.name}", why) for card in others]
