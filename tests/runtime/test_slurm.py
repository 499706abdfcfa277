"""The sbatch script: as people expect to read it, valid for bash, and handed in or kept."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from plans import LLAMA, make_plan

from meshwright.errors import InputError, RunError
from meshwright.planner.plan import Plan
from meshwright.runtime.slurm import SlurmOptions, sbatch_script, write_and_submit

GOLDEN = """\
#!/bin/bash
#SBATCH --job-name=seven-b
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --partition=gpu
#SBATCH --time=4:00:00
#SBATCH --output='/runs/my run/logs/%x-%j.log'
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --constraint=h100
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Slurm signals this shell, not the job step: hand it on, let the step checkpoint, and queue the job again.
again=
trap 'again=yes; kill -USR1 "$step" 2>/dev/null || true' USR1

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun stopped inheriting it in Slurm 22.05
srun --kill-on-bad-exit=1 python -m meshwright launch '/runs/my run' --nnodes 2 \
--rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:29500" &
step=$!
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do code=0; wait "$step" || code=$?; done  # a signal ends wait early
if [ -n "$again" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def gpu_plan(**options: Any) -> Plan:
    plan = make_plan({**LLAMA, "num_hidden_layers": 8}, **options)
    data = plan.model_dump(mode="json", by_alias=True)
    group, world = data["cluster"]["node_groups"][0], plan.configuration.mesh.world
    group["device"]["kind"] = "cuda"
    group |= {"devices_per_node": min(8, world), "nodes": max(1, world // 8)}
    return Plan.model_validate(data)


def test_the_script_is_the_golden_one() -> None:
    options = SlurmOptions(partition="gpu", time="4:00:00", job_name="seven-b", extra=("--constraint=h100",))
    script = sbatch_script(gpu_plan(dp=2, pp=8), Path("/runs/my run"), options)
    assert script == GOLDEN


def test_a_cpu_plan_asks_for_no_gpus() -> None:
    script = sbatch_script(make_plan(LLAMA, dp=2), Path("/runs/a"), SlurmOptions())
    assert "--gpus-per-node" not in script
    assert "--nodes=1\n" in script
    assert "--job-name=a\n" in script


def test_every_wrong_option_is_named() -> None:
    wrong = SlurmOptions(time="soon", port=80, extra=("constraint=h100",))
    with pytest.raises(InputError) as caught:
        sbatch_script(gpu_plan(), Path("/runs/a"), wrong)
    assert [problem.field for problem in caught.value.problems] == ["--time", "--port", "--slurm"]


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands as far as the script uses them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    fake(folder, "scontrol", f'[ "$1" = show ] && echo node-7 || echo "$@" >> {tmp_path}/scontrol.log')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node-[7-8]")
    return folder


def test_the_signal_reaches_the_step_and_the_job_is_queued_again(slurm: Path, tmp_path: Path) -> None:
    """The step takes half a second to checkpoint after the signal; the script waits for it."""
    log = tmp_path / "srun.log"
    checkpoint = f"trap 'sleep 0.5; echo saved >> {log}; exit 0' USR1"
    fake(slurm, "srun", f'echo "$@" > {log}\n{checkpoint}\ntouch {tmp_path}/ready\nwhile :; do sleep 0.1; done')
    job = tmp_path / "job.sh"
    job.write_text(sbatch_script(gpu_plan(dp=2), tmp_path, SlurmOptions()))
    process = subprocess.Popen(["bash", str(job)])
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(10)  # SIGUSR1
    assert process.wait(timeout=20) == 0
    arguments, saved = log.read_text().splitlines()
    assert arguments.endswith("--rdzv-id 42 --rdzv-endpoint node-7:29500")
    assert saved == "saved"
    assert (tmp_path / "scontrol.log").read_text() == "requeue 42\n"


def test_a_failing_step_fails_the_job_and_is_not_queued_again(slurm: Path, tmp_path: Path) -> None:
    fake(slurm, "srun", "exit 3")
    job = tmp_path / "job.sh"
    job.write_text(sbatch_script(gpu_plan(dp=2), tmp_path, SlurmOptions()))
    assert subprocess.run(["bash", str(job)], check=False).returncode == 3
    assert not (tmp_path / "scontrol.log").exists()


def test_handing_in(slurm: Path, tmp_path: Path) -> None:
    script, path = sbatch_script(gpu_plan(dp=2), tmp_path, SlurmOptions()), tmp_path / "job.sbatch"
    with pytest.raises(InputError, match="sbatch is not installed"):
        write_and_submit(script, path)
    assert path.read_text() == script
    fake(slurm, "sbatch", 'echo "Submitted batch job 43"')
    assert write_and_submit(script, path) == "Submitted batch job 43"
    fake(slurm, "sbatch", "echo invalid partition >&2; exit 1")
    with pytest.raises(RunError, match="invalid partition"):
        write_and_submit(script, path)
