"""The testbed in whatever tier this machine allows: it says which, finds what was built, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .launcher import RankError, run_ranks
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
    place = Path("/var/run/netns")
    return sorted(each.name for each in place.glob("mw*")) if place.exists() else []


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
    assert "FAILED" not in out, out
    assert out.count("| planned |") == 4, out


def test_a_rank_that_fails_or_hangs_is_named_and_ended():
    with pytest.raises(RankError, match=r"ranks \[1\] failed"):
        run_ranks(lambda rank: rank if rank == 0 else 1 // 0, [None, None], 30)
    with pytest.raises(RankError, match=r"ranks \[0\] failed or were not done in 0.5 s"):
        run_ranks(lambda rank: time.sleep(60) if rank == 0 else rank, [None, None], 0.5)
