"""Every rule refuses what it should, and says what would do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.setting import Setting
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import (
    RULES,
    RUNTIME_RULES,
    nearest_divisor,
    problems,
    runtime_problems,
)

LEGAL = Configuration(
    mesh=Mesh(pp=2, dp=2, tp=4),
    stage_layers=(16, 16),
    microbatch=1,
    microbatches=16,
    sp=True,
    zero=1,
    recompute=("none",) * 2,
)


def setting(model="llama-3.1-8b", seq_len=8192, global_batch=32, precision="bf16") -> Setting:
    job = Job(seq_len=seq_len, global_batch=global_batch, precision=precision)
    return Setting(architecture(load_model(model)), load_cluster("dgx-h100:2"), job)


def without_drives() -> Setting:
    whole = setting()
    groups = tuple(group.model_copy(update={"nvme": None}) for group in whole.cluster.node_groups)
    return replace(whole, cluster=whole.cluster.model_copy(update={"node_groups": groups}))


def mesh(**degrees) -> Configuration:
    return replace(LEGAL, mesh=replace(LEGAL.mesh, **degrees))


def test_the_base_of_these_tests_is_legal_and_runs():
    assert problems(setting(), LEGAL) == []
    assert runtime_problems(setting(), LEGAL) == []


FOUR = replace(LEGAL, mesh=Mesh(dp=4, tp=4), stage_layers=(32,), microbatches=8, recompute=("none",))


def test_states_go_to_a_drive_only_where_there_is_one():
    offloaded = replace(LEGAL, offload=1.0, offload_to="nvme")
    assert [problem.fix for problem in problems(without_drives(), offloaded)] == ["offload_to=cpu"]
    assert problems(setting(), offloaded) == []


@pytest.mark.parametrize(
    ("configuration", "field", "fix"),
    [
        (mesh(dp=4), "mesh", "dp=2"),
        (mesh(tp=3), "--pin tp", "tp=2"),
        (mesh(pp=64), "--pin pp", "pp=32"),
        (replace(LEGAL, stage_layers=(16, 15)), "stage_layers", ""),
        (replace(LEGAL, vpp=2, stage_layers=(8,) * 4), "--pin vpp", "schedule=interleaved"),
        (replace(LEGAL, schedule="interleaved"), "--pin schedule", "vpp=2"),
        (replace(mesh(pp=1, dp=4), schedule="interleaved", vpp=2, microbatches=8), "--pin schedule", "pp=2"),
        (replace(LEGAL, schedule="interleaved", vpp=2, stage_layers=(8,) * 4, microbatches=15), "--pin pp", "pp="),
        (mesh(dp=3), "--pin dp", "dp=2"),
        (replace(LEGAL, microbatch=3), "--pin microbatch", "microbatch=2"),
        (replace(LEGAL, microbatches=8), "microbatches", "16"),
        (replace(mesh(tp=1, dp=8), microbatches=4), "--pin sp", "tp=2"),
        (replace(LEGAL, zero=3), "--pin zero", "zero=1"),
        (replace(mesh(dp=1), microbatches=32), "--pin zero", "zero=0"),
        (replace(LEGAL, offload=1.5), "--pin offload", "between"),
        (replace(LEGAL, dp_replicate=3), "--pin dp_replicate", "dp_replicate=2"),
        (replace(LEGAL, dp_replicate=2), "--pin dp_replicate", "zero=0"),
        (replace(FOUR, dp_replicate=2, zero=0), "--pin dp_replicate", "zero=1"),
        (replace(FOUR, dp_replicate=2), "", ""),
        (replace(LEGAL, logits_chunks=8193), "--pin logits_chunks", "logits_chunks=8192"),
        (replace(LEGAL, offload_to="nvme"), "--pin offload_to", "offload=1"),
        (replace(LEGAL, recompute_operations=("mlp",)), "--pin recompute_operations", "recompute=selective"),
        (
            replace(LEGAL, recompute=("selective",) * 2, recompute_operations=("moe", "mla_up_proj")),
            "--pin recompute_operations",
            "core_attn",
        ),
        (replace(LEGAL, recompute=("selective",) * 2, recompute_operations=("moe", "mlp")), "", ""),
        (replace(FOUR, in_flight=(1,)), "--pin in_flight", "pp=2"),
        (replace(LEGAL, swap_layers=4), "--pin swap_layers", "pp=1"),
        (replace(FOUR, swap_layers=1, zero=3), "--pin swap_layers", "swap_layers=2"),
        (replace(FOUR, swap_layers=32, zero=3), "--pin swap_layers", "swap_layers=2"),
        (replace(FOUR, swap_layers=2), "--pin swap_layers", "zero=3"),
        (replace(FOUR, swap_layers=2, zero=3, offload=1.0), "--pin offload", "offload=0"),
        (replace(FOUR, swap_layers=2, zero=3), "", ""),
        (mesh(ep=2), "--pin ep", "ep=1"),
        (replace(mesh(cp=2, dp=1), cp_algorithm="ulysses", microbatches=32, zero=0), "", ""),
    ],
)
def test_a_broken_rule_names_the_field_and_a_fix(configuration, field, fix):
    found = problems(setting(), configuration)
    if not field:  # also: cp 2 x tp 4 divides 8 key-value heads
        assert found == []
        return
    assert any(problem.field == field and fix in problem.fix for problem in found), found


def test_an_uneven_sequence_is_refused():
    found = problems(setting(seq_len=8190), LEGAL)
    assert [problem.field for problem in found] == ["--pin sp"]
    assert found[0].fix == "--seq-len 8192"


def context(algorithm="ring", cp=2, ulysses=1) -> Configuration:
    """Context parallelism in the place of data parallelism; llama-3.1-8b has 32 heads, tp leaves 8 of them."""
    base = replace(mesh(cp=cp, dp=1, pp=4 // cp), stage_layers=(32 * cp // 4,) * (4 // cp), microbatches=32, zero=1)
    return replace(base, recompute=("none",) * (4 // cp), cp_algorithm=algorithm, cp_ulysses=ulysses)


@pytest.mark.parametrize("algorithm", ["ring", "ulysses", "token-ring", "allgather"])
def test_context_parallelism_pads_an_uneven_sequence_and_runs(algorithm):
    for seq_len in (8192, 8191):
        assert problems(setting(seq_len=seq_len), context(algorithm)) == []
        assert runtime_problems(setting(seq_len=seq_len), context(algorithm)) == []


def test_a_rank_of_padding_has_tokens():
    """3 tokens over 8 ranks: two each, most of them padding."""
    eight = replace(context(), mesh=Mesh(cp=8, tp=2), stage_layers=(32,), recompute=("none",))
    assert problems(setting(seq_len=3), eight) == []
    found = problems(setting(seq_len=3), replace(eight, logits_chunks=3))
    assert [problem.fix for problem in found] == ["logits_chunks=2"]


def test_padding_is_no_token_to_route():
    base = replace(context(), stage_layers=(16, 16))
    assert problems(setting("mixtral-8x7b"), base) == []
    found = problems(setting("mixtral-8x7b", seq_len=8191), base)
    assert [(problem.field, problem.fix) for problem in found] == [("--pin cp", "--seq-len 8192")]


@pytest.mark.parametrize(
    ("configuration", "field", "fix"),
    [
        (context("usp", cp=4, ulysses=2), "", ""),
        (context("usp", cp=4, ulysses=4), "", ""),
        (context("usp", cp=4, ulysses=3), "--pin cp_ulysses", "cp_ulysses=2"),
        (context("ring", cp=4, ulysses=2), "--pin cp_ulysses", "cp_algorithm=usp"),
        (context("usp", cp=4), "--pin cp_algorithm", "cp_algorithm=ring"),
        (replace(context("usp", cp=1), zero=0), "", ""),
        (context("ulysses", cp=4), "", ""),
    ],
)
def test_usp_is_a_product(configuration, field, fix):
    found = [(problem.field, problem.fix) for problem in problems(setting(), configuration)]
    assert found == ([(field, fix)] if field else [])


def test_all_to_all_needs_a_head_for_every_rank():
    one = replace(mesh(pp=1, dp=1, cp=2, tp=8), stage_layers=(12,), microbatches=32, zero=1, recompute=("none",))
    found = problems(setting("gpt2", seq_len=1024), replace(one, cp_algorithm="ulysses", mesh=Mesh(cp=8, tp=2)))
    assert ("--pin cp_algorithm", "cp_algorithm=ring") in {(problem.field, problem.fix) for problem in found}
    found = problems(
        setting("gpt2", seq_len=1024), replace(one, cp_algorithm="usp", cp_ulysses=4, mesh=Mesh(cp=8, tp=2))
    )
    assert ("--pin cp_ulysses", "cp_ulysses=2") in {(problem.field, problem.fix) for problem in found}


@pytest.mark.parametrize(
    ("degrees", "field"), [({"ep": 3}, "--pin ep"), ({"ep": 8, "etp": 4}, "--pin etp"), ({"etp": 3}, "--pin etp")]
)
def test_experts_have_rules_of_their_own(degrees, field):
    assert field in {problem.field for problem in problems(setting("mixtral-8x7b"), mesh(**degrees))}


def test_experts_with_tp_need_sp():
    assert problems(setting("mixtral-8x7b"), LEGAL) == []
    assert problems(setting("mixtral-8x7b"), replace(LEGAL, sp=False))[0].field == "--pin sp"


def test_a_step_of_too_many_microbatches_says_which_batch_can_be_played():
    endless = replace(LEGAL, microbatches=500_000_000)
    problem = problems(setting(global_batch=1_000_000_000), endless)[0]
    assert (problem.field, problem.fix) == ("--global-batch", "--global-batch 500000")
    most = replace(LEGAL, microbatches=250_000)
    assert problems(setting(global_batch=500_000), most) == []


def test_interleaved_schedules_run():
    interleaved = replace(LEGAL, schedule="interleaved", vpp=2, stage_layers=(8,) * 4)
    assert runtime_problems(setting(), interleaved) == []


def test_learned_positions_limit_the_sequence():
    base = replace(LEGAL, mesh=Mesh(pp=2, dp=8), stage_layers=(6, 6), microbatches=4, sp=False)
    assert problems(setting("gpt2", seq_len=1024), base) == []
    assert problems(setting("gpt2", seq_len=2048), base)[0].field == "--seq-len"


def test_what_the_runtime_lacks_is_said():
    halves = setting(precision="fp16")
    assert problems(halves, LEGAL) == []
    assert [problem.field for problem in runtime_problems(halves, LEGAL)] == ["--precision"]


def test_a_vocabulary_is_spread_over_a_pipeline():
    alone = replace(LEGAL, mesh=Mesh(dp=16), stage_layers=(32,), recompute=("none",), spread_vocabulary=True)
    found = {problem.field: problem for problem in problems(setting(), alone)}
    assert found["--pin spread_vocabulary"].fix == "pp=2"
    assert problems(setting(), replace(LEGAL, spread_vocabulary=True)) == []
    assert runtime_problems(setting(), replace(LEGAL, spread_vocabulary=True)) == []


def test_the_runtime_has_windows():
    assert runtime_problems(setting("mistral-7b"), LEGAL) == []


def test_the_runtime_has_no_loss_scaling():
    assert runtime_problems(setting(precision="fp16"), LEGAL)[0].field == "--precision"


def test_every_rule_has_a_name_and_a_reason():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert all(rule.reason for rule in (*RULES, *RUNTIME_RULES))


@pytest.mark.parametrize(("number", "wanted", "nearest"), [(64, 7, 8), (64, 3, 2), (12, 5, 4), (7, 3, 1)])
def test_the_nearest_divisor_is_near(number, wanted, nearest):
    assert nearest_divisor(number, wanted) == nearest
