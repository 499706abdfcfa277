"""Bytes against the published formulas and the model's own parameter count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.activations import Shape, layer_kept
from meshwright.planner.cost.footprint import footprint, in_flight
from meshwright.planner.cost.memory import RECIPES, layer_parameters
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.families import architecture, bundled_models, load_model
from meshwright.planner.frameworks.framework import Keeps, framework
from meshwright.planner.schedule import build

GIB = 2**30


@pytest.mark.parametrize("name", bundled_models())
def test_unsharded_parameters_are_the_models(name):
    for layer in set(architecture(load_model(name)).layers):
        assert layer_parameters(layer, Sharding()).total == layer.parameters


@pytest.mark.parametrize("name", bundled_models())
def test_sharding_never_loses_a_parameter(name):
    for layer in set(architecture(load_model(name)).layers):
        tp = 5 if layer.attention.heads % 2 else 2
        held = layer_parameters(layer, Sharding(tp=tp, ep=2, etp=2))
        assert layer.dense_parameters <= tp * held.dense <= tp * layer.dense_parameters
        assert held.expert == layer.expert_parameters / 4


def kept_bytes(layer, sharding, seq_len, keeps=None):
    return layer_kept(layer, Shape(sharding=sharding, seq_len=seq_len, element=2, keeps=keeps or Keeps())).total


@pytest.mark.parametrize(("tp", "sp"), [(1, False), (8, False), (8, True)])
def test_activations_of_a_gpt_layer_are_those_of_korthikanti(tp, sp):
    """arXiv:2205.05198, equations 1, 2 and 4: sbh(10 + 24/t + 5as/(ht)), with sequence parallelism the 10 by t too.
    Fused attention without dropout keeps sbh(8 + 24/t) and one fp32 number per token and head."""
    layer, seq_len, microbatch = architecture(load_model("gpt-3-175b")).layers[0], 2048, 2
    sbh, heads = seq_len * microbatch * layer.hidden, layer.attention.heads
    sharding = Sharding(tp=tp, sp=sp, microbatch=microbatch)
    fused = sbh * (32 / tp if sp else 8 + 24 / tp) + 4 * seq_len * microbatch * heads / tp
    assert kept_bytes(layer, sharding, seq_len) == pytest.approx(fused)
    scores = 5 * heads * seq_len / (layer.hidden * tp)
    wanted = sbh * ((34 / tp if sp else 10 + 24 / tp) + scores)
    assert kept_bytes(layer, sharding, seq_len, framework("megatron-lm").keeps) == pytest.approx(wanted)


def test_fragments_count_as_fitted_where_there_is_room(make_setting, configure):
    """Also where they are fewer than what a full device cannot give back."""
    for fragments in (0.01, 0.2):
        setting = make_setting("llama-3.1-8b", "dgx-h100:1")
        configuration = configure(setting, "tp=8")
        traits = setting.framework.model_copy(update={"keeps": Keeps(fragments=fragments)})
        (memory,) = footprint(replace(setting, framework=traits, _costs={}), configuration)
        assert memory.total < setting.memory_limit_bytes
        comes_and_goes = memory.activations + memory.logits + memory.buffers
        assert memory.reserve == pytest.approx(fragments * comes_and_goes, abs=2)


def test_eighteen_bytes_a_parameter_in_mixed_precision_and_sixteen_in_fp32():
    mixed, single = RECIPES["bf16"], RECIPES["fp32"]
    assert mixed.weight + mixed.gradient + mixed.states == 18
    assert single.weight + single.gradient + single.states == 16


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.integers(1, 8),
    groups=st.integers(1, 4),
    chunks=st.integers(1, 4),
    name=st.sampled_from(["gpipe", "1f1b", "interleaved"]),
)
def test_microbatches_in_flight_are_those_of_the_schedule(ranks, groups, chunks, name):
    vpp = chunks + 1 if name == "interleaved" else 1
    configuration = Configuration(
        mesh=Mesh(pp=ranks),
        stage_layers=(1,) * (ranks * vpp),
        microbatch=1,
        microbatches=groups * ranks,
        schedule=name,
        vpp=vpp,
    )
    schedule = build(configuration)
    assert [in_flight(configuration, r) for r in range(ranks)] == [schedule.in_flight(r) for r in range(ranks)]


def test_zero_shards_states_then_gradients_then_weights(make_setting, configure):
    setting = make_setting("llama-3.1-8b", "dgx-h100:2", 2048, 16)
    stages = [
        footprint(setting, configure(setting, f"tp=1 pp=1 zero={zero} microbatch=1 recompute=none"))[0]
        for zero in range(4)
    ]
    parameters = setting.architecture.parameters
    assert stages[0].optimizer == pytest.approx(12 * parameters, abs=1)
    assert stages[1].optimizer == pytest.approx(12 * parameters / 16, abs=1)
    assert stages[1].gradients == pytest.approx(4 * parameters, abs=1)
    assert stages[2].gradients == pytest.approx(4 * parameters / 16, abs=1)
    assert stages[2].weights == pytest.approx(2 * parameters, abs=1)
    assert stages[3].weights == pytest.approx(2 * parameters / 16, abs=1)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-3-175b", "mixtral-8x7b"])
def test_more_tensor_parallelism_never_takes_more_memory(name, make_setting, configure):
    setting = make_setting(name, "dgx-h100:8", 2048, 64)
    totals = [
        max(
            memory.total
            for memory in footprint(
                setting, configure(setting, f"tp={tp} pp=4 dp=1 microbatch=1 zero=0 schedule=1f1b recompute=none")
            )
        )
        for tp in (1, 2, 4, 8)
    ]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-3-175b", "deepseek-v2-lite"])
def test_recomputing_more_never_takes_more_memory(name, make_setting, configure):
    setting = make_setting(name, "dgx-h100:1", 2048, 64)
    split = configure(setting, "tp=1 pp=8 ep=1 etp=1 schedule=1f1b microbatch=1 recompute=none")
    none, selective, full = (
        footprint(setting, replace(split, recompute=(choice,) * 8)) for choice in ("none", "selective", "full")
    )
    for rank in range(7):  # the last rank holds one microbatch, of which full recomputation needs a layer too
        assert full[rank].activations < selective[rank].activations < none[rank].activations


def test_the_published_memory_of_175b_is_found(make_setting, configure):
    """Korthikanti et al. 2022, figure 1, 175B with sequence parallelism and selective recomputation: 57.9 GiB of
    parameters, states and activations at 16 bytes a parameter, where we count 18, buffers and a reserve."""
    ours = make_setting("gpt-3-175b", "dgx-a100-80g:8", 2048, 64)
    setting = replace(ours, framework=framework("megatron-core"))  # gathers inputs again, which ours keeps
    first = footprint(
        setting, configure(setting, "tp=8 pp=8 vpp=3 dp=1 microbatch=1 zero=0 sp=true recompute=selective")
    )[0]
    extra = (18 - 16) * first.weights / 2
    counted = first.weights + first.gradients + first.optimizer + first.activations - extra
    assert counted / GIB == pytest.approx(57.9, rel=0.1)


def test_chunks_of_the_loss_hold_a_part_of_the_logits_and_gradients_made_ahead(make_setting, configure):
    """In plain PyTorch: 12 bytes a logit of all at once, 6 of a chunk (`tests/kernels/test_loss_memory.py` measures
    both); by kernel the gradients are made ahead in one chunk too."""
    setting = make_setting("llama-3.2-1b", "dgx-h100:1", 8192, 8)
    setting = replace(setting, job=setting.job.model_copy(update={"kernels": "reference"}))
    pins = "tp=1 pp=1 zero=0 microbatch=1 recompute=full"
    vocab, hidden = setting.architecture.vocab, 2048
    whole, parts = (footprint(setting, configure(setting, f"{pins} logits_chunks={n}"))[0] for n in (1, 4))
    ahead = 4 * vocab * hidden + 2 * 8192 * hidden  # of the projection in fp32, of the hidden states
    assert whole.logits == 12 * 8192 * vocab
    assert (parts.logits, parts.buffers) == (6 * 8192 * vocab / 4, whole.buffers + ahead)
    assert parts.total < whole.total


def test_the_search_takes_the_chunks_that_bind(make_setting, configure):
    """12 bytes of 128256 logits a token: 12.6 GB of 8192 tokens are more than an eighth of 85 GB, 6.3 GB are not."""
    setting = make_setting("llama-3.2-1b", "dgx-h100:1", 8192, 8)
    for tp, chunks in ((1, 2), (2, 1)):
        assert configure(setting, f"tp={tp} pp=1 microbatch=1").logits_chunks == chunks


def test_logits_are_gone_before_a_layer_goes_backward(make_setting, configure):
    """A vocabulary so large that the loss is the fullest moment: what layers need for their backward is not beside it.
    A small one: the layer's backward is, and no logits are left. Either way a larger vocabulary never takes less."""
    setting = make_setting("llama-3.2-1b", "dgx-h100:1", 8192, 8)
    setting = replace(setting, job=setting.job.model_copy(update={"kernels": "reference"}))
    configuration = configure(setting, "tp=1 pp=1 zero=0 microbatch=1 recompute=full logits_chunks=1")
    logits = 8192 * setting.architecture.vocab * (4 + 4 + 4)  # log-softmax, its gradient, that of the logits
    inputs = (16 + 2) * 8192 * 2048 * 2  # of every layer, of the final norm and of the head
    memory = footprint(setting, configuration)[0]
    assert (memory.logits, memory.activations) == (logits, inputs)
    small = replace(setting, architecture=replace(setting.architecture, vocab=1024))
    layer = layer_kept(setting.architecture.layers[0], setting.shape(Sharding())).total
    memory = footprint(small, configuration)[0]
    assert (memory.logits, memory.activations) == (0, inputs + layer)


@pytest.mark.parametrize("schedule", ["looped-bfs", "interleaved", "zb-v"])
def test_a_rank_with_several_stages_holds_each_as_often_as_its_list_says(schedule, make_setting, configure):
    """Counted stage by stage in the list itself; breadth-first loops hold every microbatch of every stage."""
    setting = make_setting("llama-3.1-8b", "dgx-h100:1")
    pins = f"tp=4 pp=2 vpp=2 microbatch=1 recompute=none schedule={schedule} zero=0"
    configuration = replace(configure(setting, pins), stage_layers=(11, 8, 8, 5), microbatches=4)
    layer = setting.costs(configuration).kept["none"][1]
    charged = footprint(setting, configuration)[0].activations / layer
    exact = most_layers(build(configuration), 0, configuration.stage_layers)
    assert charged == pytest.approx(exact) if schedule == "looped-bfs" else charged >= 0.999 * exact
    assert charged <= 4 * (11 + 8)


def most_layers(schedule, rank, stage_layers):
    """Layers awaiting the whole backward on a rank, at most."""
    held = most = 0
    for kind, stage, _ in schedule.actions[rank]:
        held += stage_layers[stage] * ((kind == "F") - (kind in "BI"))
        most = max(most, held)
    return most
