"""Runs that teach a cluster: what their recipes ask for has to be what their plans were priced with."""

from __future__ import annotations

import json

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.errors import InputError
from meshwright.planner.attention import S2
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.search.choose import choose
from meshwright.planner.search.request import Request
from meshwright.profiler.from_run import from_run, unpriced
from meshwright.runtime.recipe import Recipe


@pytest.fixture(scope="module")
def plan():
    pins = parse_pins(["tp=1", "pp=1", "dp=8", "zero=1"])
    job = Job(seq_len=512, global_batch=32)
    return choose(Request(model=load_model("byte-llama"), cluster=load_cluster("dgx-h100:1"), job=job, pins=pins))


def run(path, plan, **asked):
    path.mkdir()
    plan.save(path / "plan.yaml")
    Recipe(steps=12, **asked).save(path / "recipe.yaml")
    (path / "metrics.jsonl").write_text("".join(json.dumps({"step_time_s": 0.1}) + "\n" for _ in range(12)))
    return path


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, ""),
        ({"lr": 1e-4, "dropout": False, "kernels": "auto", "compress": "none", "experts": {"aux_loss": 0.1}}, ""),
        ({"compile": True}, "compile: true"),
        ({"kernels": "reference"}, "kernels: reference (priced: auto)"),
        ({"compress": "int8"}, "compress: int8 (priced: none)"),
        (
            {"attention": "s2", "s2": {"block": 64}, "separate_documents": True},
            "attention: s2:block=64,local_blocks=8,stride=4,dense_heads=0,dense_every=0 (priced: dense), "
            "separate_documents: true",
        ),
        ({"experts": {"capacity_factor": 1.25}}, "experts.capacity_factor: 1.25"),
    ],
)
def test_what_no_price_has(plan, tmp_path, asked, said):
    assert plan.job.kernels == "auto"
    whole = f"was trained with {said} in its recipe, which the price of its plan does not have" if said else ""
    assert unpriced(run(tmp_path / "run", plan, **asked), plan) == whole


def test_shards_are_those_that_were_priced(plan, tmp_path):
    job = plan.job.model_copy(update={"attention": "s2", "s2": S2.model_validate({"stride": 2})})
    sharded = plan.model_copy(update={"job": job})
    assert job.sharded == S2.model_validate({"stride": 2})
    assert unpriced(run(tmp_path / "same", sharded), sharded) == ""
    assert unpriced(run(tmp_path / "named", sharded, attention="s2"), sharded) == ""
    for asked, said in (({"attention": "dense"}, "dense (priced: s2"), ({"attention": "s2", "s2": {}}, "stride=4")):
        assert said in unpriced(run(tmp_path / said[:5], sharded, **asked), sharded)


def test_such_runs_teach_nothing(plan, tmp_path):
    compiled, plain = run(tmp_path / "a", plan, compile=True), run(tmp_path / "b", plan)
    assert list(from_run([compiled, plain]).refused) == [str(compiled)]
    with pytest.raises(InputError, match="compile: true"):
        from_run([compiled])
    (plain / "recipe.yaml").write_text("steps: none")
    with pytest.raises(InputError, match="steps"):
        from_run([plain])
