"""Tier: what this machine lets a testbed do. It is printed, always; nothing is skipped without a word.

- `root`: network namespaces, a bridge, token buckets, real-time scheduling for the ranks;
- `user namespaces`: the same inside one user namespace (`unshare -Urnm`), without real-time scheduling;
- `none`: every rank on the loopback of this machine. The network is emulated: collectives and messages are real but
  tiny, and end when a formula (`emulated.py`) says that such a network would have carried the real bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Literal, get_args

from .shaping import TCP

Tier = Literal["root", "user namespaces", "none"]
TIERS: tuple[Tier, ...] = get_args(Tier)
_INSIDE = "MESHWRIGHT_TESTBED_INSIDE"
_UNSHARE = ("unshare", "-Urnm")
_TRIAL = (
    "set -e; ip netns add {0}; trap 'ip netns del {0}' EXIT; ip -n {0} link add v0 type veth peer name v1;"
    " ip netns exec {0} tc qdisc add dev v0 root tbf rate 100mbit burst 20k latency 400ms;"
    f" ip netns exec {{0}} {TCP}"
)
_OWN_RUN = "mount -t tmpfs tmpfs /run && mkdir -p /run/netns && "


def best_tier() -> Tier:
    """The best that works here, by trying it out."""
    if _INSIDE in os.environ:
        return "user namespaces"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "none"
    trial = _TRIAL.format(f"mwtry{os.getpid()}")
    if os.geteuid() == 0 and _works(["sh", "-c", trial]):
        return "root"
    return "user namespaces" if _works([*_UNSHARE, "sh", "-c", _OWN_RUN + trial]) else "none"


def enter(tier: Tier, arguments: list[str]) -> None:
    """Begin again inside a user namespace where that is the tier; returns where there is nothing to enter."""
    if tier == "user namespaces" and _INSIDE not in os.environ:
        command = [*_UNSHARE, "sh", "-c", _OWN_RUN + 'exec "$@"', "sh", sys.executable, *arguments]
        sys.stdout.flush()
        os.execvpe(command[0], command, os.environ | {_INSIDE: "1"})


def says(tier: Tier) -> str:
    """For people."""
    what = {
        "root": "namespaces, bridge and token buckets in the kernel, real gloo traffic, real-time scheduling",
        "user namespaces": "namespaces, bridge and token buckets inside one user namespace, real gloo traffic",
        "none": "no privileges: tiny gloo calls over loopback, the network's time is a formula",
    }
    return f"testbed tier: {tier} ({what[tier]}; compute is emulated by sleep)"


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
