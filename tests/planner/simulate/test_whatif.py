"""Settings: every spelling reaches its field, what follows is kept consistent, and mistakes are told together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshwright.clusters.schema import Cluster
from meshwright.errors import InputError
from meshwright.planner.plan import Plan, load_plan
from meshwright.planner.simulate.draft import MACHINES
from meshwright.planner.simulate.fields import SHORT_NAMES
from meshwright.planner.simulate.scenario import Scenario
from meshwright.planner.simulate.simulation import simulate
from meshwright.planner.simulate.whatif import apply_settings

from .conftest import node_group


def _at(scenario: Scenario, path: str) -> Any:
    value: Any = scenario
    for name in path.split("."):
        value = value[int(name)] if name.isdigit() else value[name] if isinstance(value, dict) else getattr(value, name)
    return value


GROUP = "cluster.node_groups.0."


@pytest.mark.parametrize(
    ("setting", "path", "expected"),
    [
        ("cluster.network.bandwidth=0.5x", GROUP + "nics.rate_bytes_per_s", 12.5e9),
        ("cluster.network.bandwidth=400 Gbit/s", GROUP + "nics.rate_bytes_per_s", 50e9),
        ("cluster.network.latency=2x", GROUP + "nics.latency_s", 10e-6),
        ("cluster.node_groups[0].nics.rate=100 Gbit/s", GROUP + "nics.rate_bytes_per_s", 12.5e9),
        ("cluster.node_groups[east].nics.rate=100 Gbit/s", GROUP + "nics.rate_bytes_per_s", 12.5e9),
        ("cluster.node_groups[*].nodes=4", GROUP + "nodes", 4),
        ("cluster.nodes=2x", GROUP + "nodes", 4),
        ("cluster.fabric.bandwidth=900 GB/s", GROUP + "fabric.bandwidth_bytes_per_s", 900e9),
        ("cluster.device.memory=96 GiB", GROUP + "device.memory_bytes", 96 * 2**30),
        ("cluster.device.peak_flops.bf16=2x", GROUP + "device.peak_flops.bf16", 600e12),
        ("cluster.device.peak_flops.fp8=1 PFLOP/s", GROUP + "device.peak_flops.fp8", 1e15),
        ("cluster.price=1.5", GROUP + "price_per_device_hour", 1.5),
        ("job.seq_len=8192", "job.seq_len", 8192),
        ("job.global_batch=1e3", "configuration.microbatches", 500),
        ("job.seq_len=2x", "job.seq_len", 8192),
        ("job.precision=fp32", "job.precision", "fp32"),
        ("zero=0", "configuration.zero", 0),
        ("mesh.tp=4", "configuration.zero", 0),
        ("recompute=full", "configuration.recompute", ("full", "full")),
        ("model.config.num_hidden_layers=12", "configuration.stage_layers", (6, 6)),
        ("mesh.tp=4", "configuration.mesh.dp", 1),
        ("mesh.pp=4", "configuration.stage_layers", (2, 2, 2, 2)),
        ("mesh.pp=4", "configuration.recompute", ("none",) * 4),
        ("cluster.nodes=4", "configuration.mesh.dp", 4),
        ("job.global_batch=64", "configuration.microbatches", 32),
        ("microbatch=2", "configuration.microbatches", 8),
        ("schedule.microbatches=8", "configuration.microbatch", 2),
        ("mesh.tp=1", "configuration.sp", False),
        ("network=2x", GROUP + "nics.rate_bytes_per_s", 50e9),
        ("price=2.5", GROUP + "price_per_device_hour", 2.5),
        ("seq_len=8192", "job.seq_len", 8192),
        ("global_batch=64", "configuration.microbatches", 32),
        ("precision=fp32", "job.precision", "fp32"),
        ("nodes=4", "configuration.mesh.dp", 4),
        ("devices=16", GROUP + "nodes", 4),
        ("devices=2x", "configuration.mesh.dp", 4),
        ("devices=4", "configuration.mesh.world", 4),
        ("device=h200", GROUP + "device.name", "h200-sxm-141gb"),
        ("cluster.device=b200", GROUP + "device.name", "b200-sxm-180gb"),
        ("node=dgx-h100", GROUP + "devices_per_node", 8),
        ("node=dgx-h100", GROUP + "nodes", 1),
        ("node=dgx-h100", GROUP + "name", "east"),
        ("node=dgx-h100", GROUP + "price_per_device_hour", 2.95),
    ],
)
def test_one_setting(plan: Plan, setting: str, path: str, expected: object) -> None:
    assert _at(apply_settings(plan, [setting]), path) == expected


def test_no_settings_change_nothing(plan: Plan) -> None:
    assert apply_settings(plan, []) == Scenario.of(plan)


def test_restating_a_field_changes_nothing(plan: Plan) -> None:
    same = ["job.seq_len=4096", "mesh.tp=2", "cluster.network.bandwidth=1x", "cluster.device.memory=40 GiB"]
    assert apply_settings(plan, same) == Scenario.of(plan)


def test_later_settings_see_earlier_ones(plan: Plan) -> None:
    assert apply_settings(plan, ["job.seq_len=1024", "job.seq_len=2x"]).job.seq_len == 2048


def test_short_names_reach_every_group(plan: Plan) -> None:
    slow = node_group(name="west", nics={"kind": "roce", "count": 1, "rate": "100 Gbit/s", "latency": "9 us"})
    line = {"between": ["east", "west"], "kind": "ethernet", "bandwidth": "10 GB/s", "latency": "1 ms"}
    two = Cluster.model_validate({"name": "two-sites", "node_groups": [node_group(), slow], "links": [line]})
    data = plan.model_dump(mode="json", by_alias=True)
    data |= {"cluster": two.model_dump(mode="json", by_alias=True), "mesh": {"pp": 2, "dp": 4, "tp": 2}}
    both = Plan.model_validate(data | {"schedule": {"microbatches": 8}})
    found = apply_settings(both, ["cluster.network.bandwidth=0.5x"]).cluster
    assert [group.nics.rate_bytes_per_s for group in found.node_groups if group.nics] == [12.5e9, 6.25e9]
    assert found.links[0].bandwidth_bytes_per_s == 5e9
    west = apply_settings(both, ["cluster.node_groups[west].nics.rate=2x"]).cluster
    assert [group.nics.rate_bytes_per_s for group in west.node_groups if group.nics] == [25e9, 25e9]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("job.seqlen=1", "job.seqlen = '1': unknown field seqlen; did you mean 'seq_len'?"),
        ("cluster.network.bandwith=0.5x", "did you mean 'cluster.network.bandwidth'"),
        ("clutser.nodes=1", "did you mean 'cluster'"),
        ("predicted.step_time_s=1", "unknown field"),
        ("cluster.node_groups[9].nodes=1", "nothing is numbered or named 9. Try: one of east"),
        ("cluster.device=1", "must be the name of a bundled device"),
        ("cluster.device=0.5x", "holds a section, which cannot be scaled"),
        ("cluster.device=h200sxm", "is not a bundled device; did you mean 'h200-sxm-141gb'"),
        ("device=a100", "is the start of several bundled devices. Try: one of a100-sxm-40gb, a100-sxm-80gb"),
        ("device=2x", "holds a section, which cannot be scaled"),
        ("devices=13", "must make whole nodes of 4 devices. Try: devices=12"),
        ("devices=15", "must make whole nodes of 4 devices. Try: devices=16"),
        ("devices=3", "must make whole nodes of 4 devices. Try: devices=4"),
        ("devices=some", "must be a number of devices. Try: devices=8"),
        ("devices=0", "must be a whole number of devices above 0"),
        ("devices=0.3x", "must be a whole number of devices above 0"),
        ("devices=infx", "must be a whole number of devices above 0"),
        ("devices=2", "pp x cp x tp must divide the 2 devices in use"),
        ("node=dgx-h10", "is not a bundled cluster; did you mean 'dgx-h100'"),
        ("node=two-site", "has several kinds of nodes"),
        ("precision=bf17", "precision = 'bf17': should be 'bf16', 'fp16', 'fp32' or 'fp8'"),
        ("seq_len=0", "seq_len = 0: should be greater than or equal to 1. Try: 1"),
        ("price=-1", "price = -1: should be greater than or equal to 0"),
        ("network=fast", "network = 'fast': must be a rate"),
        ("seqlen=1", "unknown field; did you mean 'seq_len'"),
        ("tp=4", "unknown field; did you mean 'mesh.tp'"),
        ("vpp=2", "unknown field; did you mean 'schedule.vpp'"),
        ("cluster.host=big", "is a section. Try: one of its fields: cores"),
        ("job.seq_len", "must be field=value"),
        ("job.precision=0.5x", "holds 'bf16', which cannot be scaled"),
        ("cluster.device.memory=lots", "cluster.device.memory = 'lots'"),
        ("cluster.device.memory=96 Gigs", "unknown unit 'Gigs'"),
        ("job.seq_len=0", "greater than or equal to 1. Try: 1"),
        ("job.precision=fp8", "job.precision = 'fp8': made-up has no fp8 rate"),
        ("job.global_batch=33", "must be a multiple of dp x microbatch = 2 x 1. Try: job.global_batch=32"),
        ("job.global_batch=20000000", "more than are worth playing one by one. Try: job.global_batch=500000"),
        ("recompute=[]", "must hold one word for each of 2 pipeline ranks"),
        ("cluster.node_groups=[]", "cluster.node_groups = []: "),
        ("cluster.price=.inf", "cluster.price = inf: should be a finite number"),
        ("model.config.num_hidden_layers=0", "model.config.num_hidden_layers = 0"),
        ("mesh.tp=3", "pp x cp x tp must divide the 8 devices in use. Try: a product of 4 or 8"),
        ("mesh.dp=8", "32 devices, the cluster has 8. Try: mesh.dp=2"),
        ("zero=3", "zero = 3: a pipeline holds"),
        (
            "schedule.vpp=2",
            "can have 2 virtual stages a rank, not 1f1b. Try: schedule.name=interleaved",
        ),
        ("links[0].bandwidth=1", "unknown field"),
        ("cluster.links[0].bandwidth=1", "nothing is numbered or named 0"),
        ("job..seq_len=1", "is not the name of a field"),
    ],
)
def test_mistakes(plan: Plan, setting: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        apply_settings(plan, [setting])
    assert told in str(caught.value)


def test_all_mistakes_are_told_together(plan: Plan) -> None:
    with pytest.raises(InputError) as caught:
        apply_settings(plan, ["job.seqlen=1", "mesh.tq=2", "job.precision=2x"])
    assert [problem.field for problem in caught.value.problems] == ["job.seqlen", "mesh.tq", "job.precision"]
    with pytest.raises(InputError) as caught:
        apply_settings(plan, ["job.seq_len=-1", "zero=7", "cluster.device.memory=none"])
    assert {problem.field for problem in caught.value.problems} == {"job.seq_len", "zero", "cluster.device.memory"}
    with pytest.raises(InputError) as caught:  # of the first kind and of the second
        apply_settings(plan, ["price=-3", "precision=fp4", "framework=megtron", "devices=13"])
    assert {problem.field for problem in caught.value.problems} == {"price", "precision", "framework", "devices"}


def test_recompute_that_differs_by_rank_needs_saying_when_ranks_change(plan: Plan) -> None:
    with pytest.raises(InputError, match="one word for each of 4 pipeline ranks"):
        apply_settings(plan, ["recompute=[full, none]", "mesh.pp=4"])


def test_no_network_cannot_be_changed(plan: Plan) -> None:
    alone = Cluster.model_validate({"name": "one", "node_groups": [node_group(nodes=1, nics=None)]})
    with pytest.raises(InputError, match="the plan has nothing there"):
        apply_settings(plan.model_copy(update={"cluster": alone}), ["cluster.network.bandwidth=2x"])


def test_a_plan_on_part_of_its_cluster_keeps_that_part(plan: Plan) -> None:
    """As the objective `cost` may choose: four devices of eight."""
    part = plan.model_copy(update={"mesh": plan.mesh.model_copy(update={"dp": 1}), "zero": 0})
    part = part.model_copy(update={"schedule": plan.schedule.model_copy(update={"microbatches": 32})})
    assert apply_settings(part, ["mesh.tp=1"]).configuration.mesh.dp == 2
    assert apply_settings(part, ["cluster.nodes=4"]).configuration.mesh.world == 4


def test_devices_of_less_than_a_node_share_it(plan: Plan) -> None:
    group = apply_settings(plan, ["devices=2", "mesh.pp=1"]).cluster.node_groups[0]
    assert (group.nodes, group.devices_per_node) == (1, 2)


def test_several_groups_keep_their_proportion(plan: Plan) -> None:
    west = node_group(name="west", nodes=4)
    line = {"between": ["east", "west"], "kind": "ethernet", "bandwidth": "10 GB/s", "latency": "1 ms"}
    two = Cluster.model_validate({"name": "two", "node_groups": [node_group(), west], "links": [line]})
    both = plan.model_copy(update={"cluster": two, "mesh": plan.mesh.model_copy(update={"dp": 6})})
    wide = ["job.global_batch=48"]
    assert [group.nodes for group in apply_settings(both, ["devices=48", *wide]).cluster.node_groups] == [4, 8]
    with pytest.raises(InputError, match=r"shares of 12 devices over the node groups\. Try: devices=36"):
        apply_settings(both, ["devices=40", *wide])


def test_devices_of_a_node_that_do_not_fill_another(plan: Plan) -> None:
    three = Cluster.model_validate({"name": "three-nodes", "node_groups": [node_group(nodes=3)]})
    with pytest.raises(InputError, match="has nodes of 8 devices, which do not make the 12 of east"):
        apply_settings(plan.model_copy(update={"cluster": three}), ["node=dgx-h100"])


def test_the_page_lists_every_short_name() -> None:
    page = (Path(__file__).parents[3] / "docs" / "simulate.md").read_text()
    listed = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert listed == [*MACHINES, *SHORT_NAMES]


def test_a_plan_file_edited_by_hand_is_checked(plan: Plan) -> None:
    with pytest.raises(InputError, match="recompute"):
        apply_settings(plan.model_copy(update={"recompute": ("none",)}), [])
    with pytest.raises(InputError, match="stage_layers"):
        apply_settings(plan.model_copy(update={"stage_layers": (4, 3)}), [])


def test_a_device_is_swapped_by_its_name(plan: Plan) -> None:
    found = apply_settings(plan, ["cluster.device=h200-sxm-141gb"]).cluster.node_groups
    assert {group.device.name for group in found} == {"h200-sxm-141gb"}


def test_a_framework_is_a_setting_with_a_price_of_its_own(plan: Plan) -> None:
    """Megatron-LM before fused attention writes its scores: slower, and fuller memory, than the built-in runtime."""
    assert plan.framework == Scenario.of(plan).framework == "meshwright"
    old = simulate(plan, ["framework=megatron-lm"])
    assert old.scenario.framework == old.to_json()["framework"] == "megatron-lm"
    assert old.prediction.memory[0].activations > simulate(plan).prediction.memory[0].activations
    with pytest.raises(InputError, match="framework = 'megatron-ln': must be a bundled framework; did you mean"):
        apply_settings(plan, ["framework=megatron-ln"])


def test_a_framework_prices_the_run_but_does_not_change_it(plan: Plan, tmp_path: Path) -> None:
    other = plan.model_copy(update={"framework": "nanotron"})
    assert other.fingerprint == plan.fingerprint
    other.save(tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml").framework == "nanotron"
