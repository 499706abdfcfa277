"""Prices of the built-in runtime on CUDA devices are those of the kernels' declarations; nobody else's move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.clusters import load_cluster
from meshwright.errors import InputError
from meshwright.kernels.registry import kernel
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.compute import layer_compute, module_s
from meshwright.planner.cost.data_parallel import rank_parameters
from meshwright.planner.cost.declared import Declared, adamw_bytes, layer_bytes, loss_bytes
from meshwright.planner.cost.footprint import footprint
from meshwright.planner.cost.projected import projected
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture, load_model
from meshwright.planner.frameworks.framework import framework
from meshwright.planner.job import Job
from meshwright.planner.legality.table import problems
from meshwright.planner.optimizer import GaLore, read_optimizer

LLAMA, MIXTRAL = (architecture(load_model(name)) for name in ("llama-3.1-8b", "mixtral-8x7b"))
TOKENS = 4096
CONFIGURATION = Configuration(mesh=Mesh(dp=8), stage_layers=(32,), microbatch=1, microbatches=4, zero=1)


def setting(model=LLAMA, cluster="dgx-h100:1", name="meshwright", **job) -> Setting:
    asked = Job(seq_len=TOKENS, global_batch=32, **job)
    return Setting(model, load_cluster(cluster), asked, framework=framework(name))


def test_a_layer_moves_what_its_kernels_declare() -> None:
    """Of Llama: a norm, a norm with the residual before it, queries and keys turned, SwiGLU."""
    sizes = {
        "rms_norm": {"rows": TOKENS, "width": 4096},
        "add_rms_norm": {"rows": TOKENS, "width": 4096},
        "rotary": {"batch": 1, "seq_len": TOKENS, "heads": 32, "kv_heads": 8, "width": 128, "turned": 128},
        "swiglu": {"rows": TOKENS, "width": 14336},
    }
    found = layer_bytes(LLAMA.layers[0], Sharding(), TOKENS, Declared("auto", "bf16"))
    assert found.forward == sum(kernel(name).forward(each, "bf16").moved_bytes for name, each in sizes.items())
    both = sum(kernel(name).trained(each, "bf16").moved_bytes for name, each in sizes.items())
    assert found.forward + found.backward == both
    plain = layer_bytes(LLAMA.layers[0], Sharding(), TOKENS, Declared("reference", "bf16"))
    every = sum(kernel(name).plain(each, "bf16").moved_bytes for name, each in sizes.items())
    assert plain.forward + plain.backward == pytest.approx(every)


@pytest.mark.parametrize("model", [LLAMA, MIXTRAL])
def test_references_take_longer_and_keep_more(model) -> None:
    layer = model.layers[0]
    auto, reference = (setting(model, kernels=choice) for choice in ("auto", "reference"))
    first, second = (layer_compute(layer, Sharding(), TOKENS, each.rates) for each in (auto, reference))
    assert first.forward_s < second.forward_s
    assert first.backward_s < second.backward_s
    for module in ("layernorm", "mlp", "moe"):
        one, two = (module_s(layer, Sharding(), TOKENS, each.rates, module) for each in (auto, reference))
        assert one < two or one == two == 0
    costs = [each.costs(replace(CONFIGURATION, stage_layers=(len(model.layers),))) for each in (auto, reference)]
    assert costs[0].kept["none"][1] < costs[1].kept["none"][1]


@pytest.mark.parametrize(("name", "cluster"), [("megatron-core", "dgx-h100:1"), ("torchtitan", "dgx-h100:1")])
def test_other_frameworks_do_not_ask(name: str, cluster: str) -> None:
    found = {
        price(setting(cluster=cluster, name=name, kernels=choice), CONFIGURATION) for choice in ("auto", "reference")
    }
    assert len(found) == 1
    assert setting(cluster=cluster, name=name).rates.declared is None


def test_a_cpu_runs_the_references_whatever_is_asked() -> None:
    cpu = load_cluster("dgx-h100:1")
    group = cpu.node_groups[0]
    device = group.device.model_copy(update={"kind": "cpu"})
    cpu = cpu.model_copy(update={"node_groups": (group.model_copy(update={"device": device}),)})
    job = Job(seq_len=TOKENS, global_batch=32)
    found = {
        price(Setting(LLAMA, cpu, job.model_copy(update={"kernels": choice})), CONFIGURATION)
        for choice in ("auto", "reference")
    }
    assert len(found) == 1


def test_a_step_of_adamw_moves_what_it_declares() -> None:
    """Norm 4, and parameter, moments both ways and the gradient; without the kernel gradients are clipped before."""
    assert adamw_bytes(Declared("auto", "bf16"), "fp32") == 4 + 28
    assert adamw_bytes(Declared("reference", "bf16"), "fp32") == 4 + 8 + 28
    assert adamw_bytes(Declared("auto", "bf16"), "bf16") == 4 + 20
    plain = kernel("adamw").plain({"elements": 1}, "fp32").moved_bytes
    assert adamw_bytes(Declared("reference", "bf16"), "fp32", galore=True) == 4 + plain + 24  # which torch's has not
    assert adamw_bytes(Declared("reference", "bf16"), "bf16") == 4 + plain + 24 - 8


@pytest.mark.parametrize("name", ["meshwright", "megatron-core"])
def test_states_in_bfloat16_are_half_of_the_moments(name: str) -> None:
    wide, narrow = (setting(name=name, optimizer_states=states) for states in ("fp32", "bf16"))
    (before,), (after,) = (footprint(each, CONFIGURATION) for each in (wide, narrow))
    owned = rank_parameters(wide.costs(CONFIGURATION), CONFIGURATION, 0, False).dense / 8
    assert before.optimizer - after.optimizer == round(4 * owned)
    first, second = (price(each, CONFIGURATION).breakdown_s.optimizer for each in (wide, narrow))
    assert second < first


def test_galore_holds_moments_in_its_space() -> None:
    """Of a matrix [m, n] two moments of rank x the longer side and a space of rank x the shorter, on every rank."""
    galore = GaLore(rank=512)
    found = projected(LLAMA.layers[0], galore)
    matrices = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), *((14336, 4096),) * 3]
    assert found.parameters == sum(m * n for m, n in matrices)
    assert found.moments == 512 * sum(max(pair) for pair in matrices)
    assert found.spaces == 512 * sum(min(pair) for pair in matrices)
    alone = replace(CONFIGURATION, mesh=Mesh(), zero=0, microbatches=32)
    (adamw,), (small,) = (footprint(each, alone) for each in (setting(), setting(optimizer="galore", galore=galore)))
    less = 8 * 32 * found.parameters - 32 * (8 * found.moments + 4 * found.spaces)
    assert adamw.optimizer - small.optimizer == less
    (sharded,) = footprint(setting(optimizer="galore", galore=galore), CONFIGURATION)
    assert sharded.optimizer > small.optimizer / 8  # what is projected is on every rank


@pytest.mark.parametrize(
    ("changed", "name", "field"),
    [
        ({"mesh": Mesh(tp=2, dp=4)}, "meshwright", "--pin tp"),
        ({"zero": 2}, "meshwright", "--pin zero"),
        ({"offload": 0.5}, "meshwright", "--pin offload"),
        ({}, "megatron-core", "--framework"),
    ],
)
def test_where_galore_is_refused(changed, name: str, field: str) -> None:
    asked = setting(name=name, optimizer="galore", galore=GaLore(rank=8))
    assert field in [each.field for each in problems(asked, replace(CONFIGURATION, **changed))]
    if name == "meshwright":
        assert problems(asked, CONFIGURATION) == []


def test_narrow_states_stay_on_the_device() -> None:
    asked = setting(optimizer_states="bf16")
    (problem,) = problems(asked, replace(CONFIGURATION, offload=1.0))
    assert (problem.field, problem.fix) == ("--pin offload", "offload=0")


def test_optimizers_are_read_with_their_parameters() -> None:
    assert read_optimizer("adamw") == {"optimizer": "adamw", "galore": None, "optimizer_states": "fp32"}
    found = read_optimizer("galore:rank=128,every=50,scale=0.5,states=bf16")
    assert found["galore"] == GaLore(rank=128, every=50, scale=0.5)
    assert found["optimizer_states"] == "bf16"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sgd", "--optimizer = 'sgd': must be adamw or galore"),
        ("galore", "rank: is required"),
        ("adamw:rank=3", "adamw takes states here"),
        ("galore:rank=8,states=fp8", "must be fp32 or bf16"),
        ("galore:rank=8,rank=9", "each once"),
    ],
)
def test_wrong_optimizers_are_refused(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        read_optimizer(text)
    assert told in str(caught.value)


def test_a_job_has_one_optimizer() -> None:
    with pytest.raises(ValueError, match="optimizer galore needs galore"):
        Job(seq_len=8, global_batch=1, optimizer="galore")
    with pytest.raises(ValueError, match="optimizer adamw has nothing to do with galore"):
        Job(seq_len=8, global_batch=1, galore=GaLore(rank=3))


def test_logits_become_their_gradient_where_they_stand() -> None:
    """Fullest at the loss: with the kernel 2 bytes a logit and both gradients beside them, plain 12. One chunk adds
    nothing up, so that the weight's gradient is in 16 bits; several do, in fp32, with a product beside it."""
    alone = replace(
        CONFIGURATION, mesh=Mesh(), stage_layers=(1,), zero=0, microbatch=4, microbatches=8, recompute=("full",)
    )
    found = {}
    for choice, chunks in (("auto", 1), ("auto", 2), ("reference", 1)):
        asked = setting(kernels=choice, precision="bf16")
        small = replace(asked, architecture=replace(asked.architecture, layers=asked.architecture.layers[:1]))
        (found[choice, chunks],) = footprint(small, replace(alone, logits_chunks=chunks))
    logits, hidden, weight = 4 * TOKENS * LLAMA.vocab, 4 * TOKENS * LLAMA.hidden, LLAMA.vocab * LLAMA.hidden
    plain, one, two = found["reference", 1], found["auto", 1], found["auto", 2]
    assert (plain.logits, one.logits, two.logits) == (12 * logits, 2 * logits, 2 * logits / 2)
    assert one.buffers - plain.buffers == 2 * hidden + 2 * weight
    assert two.buffers - plain.buffers == 2 * hidden + 4 * weight + 2 * weight


def test_shares_of_a_vocabulary_are_read_twice() -> None:
    """By kernel: for what ranks exchange, and for the gradient, which takes their place; of a spread vocabulary the
    second is the backward. What was made ahead is scaled in the backward of all others."""
    tokens, columns, hidden = 4096, 32064, 4096
    logits, made = 2 * tokens * columns, 2 * 2 * (tokens + columns) * hidden
    of_token = 8 + 3 * 4 + 8 + 4  # targets twice, numbers and a loss
    auto = Declared("auto", "bf16")
    assert loss_bytes(tokens, columns, hidden, Sharding(), auto) == (2 * logits + tokens * (8 + 4), made)
    assert loss_bytes(tokens, columns, hidden, Sharding(tp=4), auto) == (3 * logits + tokens * of_token, made)
    first, second = loss_bytes(tokens, columns, hidden, Sharding(tp=2, spread=2), auto)
    assert (first, second) == (logits + tokens * (8 + 12), 2 * logits + tokens * (8 + 4))
    plain = Declared("reference", "bf16")
    assert sum(loss_bytes(tokens, columns, hidden, Sharding(tp=4), plain)) > 10 * logits
    shared, apart = (
        sum(loss_bytes(tokens, columns, hidden, each, plain)) for each in (Sharding(tp=4), Sharding(tp=2, spread=2))
    )
    assert apart - shared == (2 + 2 * 4 + 3 * 4) * tokens * columns
