"""The testbed in whatever tier this machine allows: it says which, finds what was built, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from . import hosts
from .launcher import RankError, run_ranks
from .scenario import SCENARIOS
from .tier import TIERS, best_tier, says

COMMAND = [sys.executable, "-m", "meshwright.tests.benchmarks.testbed"]


def run(*arguments, limit_s=300):
    """The experiment, as people run it; what it prints."""
    path = os.pathsep.join(part for part in sys.path if part)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=limit_s, env=environment, check=False
    )
    return done.stdout + done.stderr


def namespaces():
    """Of testbeds."""
    place = hosts.NAMESPACES
    return sorted(each.name for each in place.glob("mw*")) if place.exists() else []


def is_running(pid):
    """Whether a process is there that is more than what is left of one that has ended."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_the_slow_host_is_found_and_planned_around_in_the_tier_of_this_machine(tmp_path, capsys):
    before, tier = namespaces(), best_tier()
    quick = ("--rounds", "1", "--budget", "1", "--faster", "3")
    out = run("--scenario", "one slow host", *quick, "--json", str(tmp_path / "found.json"))
    with capsys.disabled():
        sys.stdout.write(f"\n{says(tier)}\n")
    assert out.startswith(says(tier)), out
    found = json.loads((tmp_path / "found.json").read_text())["scenarios"][0]
    assert found["tier"] == tier
    assert [slow["hosts"] for slow in found["slow_hosts"]] == [[1]], out
    assert found["planned"]["rank_map"].index(1) in (0, 3)  # at an end of the pipeline: one border instead of two
    assert found["planned"]["predicted_s"] < found["naive"]["predicted_s"]
    assert found["notes"] == []
    assert namespaces() == before


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS[TIERS.index(best_tier()) :])
def test_all_scenarios_in_every_tier_there_is(tier):
    out = run("--tier", tier, limit_s=580)
    wrong = [line for line in out.splitlines() if line.startswith("FAILED") and "found" in line]  # not how long it took
    assert not wrong, out
    assert out.count("| planned |") == len(SCENARIOS), out


def test_a_rank_that_fails_or_hangs_is_named_and_ended():
    with pytest.raises(RankError, match=r"ranks \[1\] failed"):
        run_ranks(lambda rank: rank if rank == 0 else 1 // 0, [None, None], 30)
    with pytest.raises(RankError, match=r"ranks \[0\] failed or were not done in 0.5 s"):
        run_ranks(lambda rank: time.sleep(60) if rank == 0 else rank, [None, None], 0.5)


def test_ranks_end_with_whoever_started_them(tmp_path):
    def start():
        run_ranks(lambda rank: (tmp_path / str(rank)).write_text(str(os.getpid())) and time.sleep(60), [None, None], 60)

    pid = os.fork()
    if not pid:
        start()
        os._exit(0)
    while not all((tmp_path / str(rank)).exists() and (tmp_path / str(rank)).read_text() for rank in range(2)):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ranks = [int((tmp_path / str(rank)).read_text()) for rank in range(2)]
    while any(is_running(rank) for rank in ranks):  # for ever, where they are not ended
        time.sleep(0.01)


def test_a_network_that_cannot_be_built_is_torn_down_and_one_left_behind_is_swept(monkeypatch, tmp_path):
    """In any tier: the commands are told to nobody."""
    ended = 2**22 + 1  # beyond the largest number of a process
    for name in (f"mw{ended}h0", f"mwtry{ended}", f"mw{os.getpid()}h0", "mwelse"):
        (tmp_path / name).touch()
    asked = []

    def told(words, check, **_):
        asked.append(" ".join(words))
        if check and "bridge" in words:
            raise subprocess.CalledProcessError(1, words)

    monkeypatch.setattr(hosts, "NAMESPACES", tmp_path)
    monkeypatch.setattr(hosts.subprocess, "run", told)
    with pytest.raises(subprocess.CalledProcessError), hosts.network(SCENARIOS[0]):
        pytest.fail("there is no network")
    prefix = f"mw{os.getpid()}"
    removed = {line.removeprefix("ip netns del ") for line in asked if "netns del" in line}
    assert removed == {f"mw{ended}h0", f"mwtry{ended}", *(f"{prefix}h{host}" for host in range(4)), f"{prefix}s"}
