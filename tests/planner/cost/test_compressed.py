"""Compressed gradients as priced: bytes on the wire and in memory by hand, what is legal, what a plan says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.kernels.registry import KERNELS
from meshwright.planner.compression import FORMATS, extra_bytes, passes_bytes
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.compressed import after_s, beside_s, replicated, residual_bytes
from meshwright.planner.cost.data_parallel import rank_parameters, with_data_parallelism
from meshwright.planner.cost.rates import PLAIN
from meshwright.planner.cost.step import price
from meshwright.planner.job import Job, job_of_options
from meshwright.planner.legality import problems
from meshwright.planner.pins import Pins
from meshwright.planner.schedule import build
from meshwright.planner.search.space import candidates
from meshwright.planner.simulate.engine import step_time
from meshwright.planner.simulate.work import Work

ONE = Configuration(
    mesh=Mesh(dp=16), stage_layers=(32,), microbatch=1, microbatches=8, zero=0, recompute=("none",)
)  # fmt: skip


def compressed(setting, compress):
    return replace(setting, job=setting.job.model_copy(update={"compress": compress}))


def exposed_s(setting):
    """Nothing to hide behind: all of the communication."""
    work = with_data_parallelism(setting, ONE, Work((0.0,), (0.0,)))
    return step_time(build(ONE), work).exposed_s


def test_a_byte_of_each_parameter_goes_to_its_rank_and_back(make_setting):
    """Two nodes of eight: the all-to-all by the slower of its links, the gather over two rings; 65/64 bytes each, the
    latency of every layer, and the passes that make and read the messages: of these the last two are beside what goes
    out to all, but for one layer's."""
    setting = replace(compressed(make_setting("llama-3.1-8b", "dgx-h100:2", 4096, 128), "int8"), framework=PLAIN)
    network, fabric = setting.cluster.node_groups[0].nics, setting.cluster.node_groups[0].fabric
    bytes_, parameters = setting.architecture.parameters * 65 / 64, setting.architecture.parameters
    card_bytes_per_s = network.rate_bytes_per_s * network.efficiency
    inside_bytes_per_s = fabric.bandwidth_bytes_per_s * fabric.efficiency
    to_all = 8 / 16 * bytes_ / card_bytes_per_s + 32 * 8 * network.latency_s
    back = bytes_ / 2 / 8 / card_bytes_per_s + 7 / 8 * bytes_ / inside_bytes_per_s
    latency = 32 * (network.latency_s + 7 * fabric.latency_s)
    made, added, read = (
        parameters * each / setting.rates.elementwise_bytes_per_s + 32 * setting.rates.launch_s
        for each in passes_bytes(16)
    )
    assert back + latency > added + read
    assert exposed_s(setting) == pytest.approx(to_all + made + back + latency + (added + read) / 32, rel=1e-6)


def test_what_follows_the_backward_does_not_hide_behind_it(make_setting):
    """However long the last backward takes, sums, their way to all ranks and reading are after it; the first way is
    beside it."""
    setting = replace(compressed(make_setting("llama-3.1-8b", "dgx-h100:2", 4096, 128), "int8"), framework=PLAIN)
    short, long = (
        step_time(build(ONE), with_data_parallelism(setting, ONE, Work((0.0,), (seconds,)))).exposed_s
        for seconds in (0.0, 100.0)
    )
    held = rank_parameters(setting.costs(ONE), ONE, 0, False)
    beside, after = (each(setting, ONE, held, 32) for each in (beside_s, after_s))
    assert short == pytest.approx(beside + after)
    assert long == pytest.approx(after + beside / 32)  # the last layer's


def test_experts_are_added_up_by_the_ranks_that_have_them(make_setting):
    """Of Mixtral on 16 ranks, ep 8: experts over two ranks, all else over 16; residuals and passes by these."""
    setting = compressed(make_setting("mixtral-8x7b", "dgx-h100:2", 4096, 128), "int8")
    mixtral = replace(ONE, mesh=Mesh(dp=16, ep=8))
    held = rank_parameters(setting.costs(mixtral), mixtral, 0, False)
    found = list(replicated(mixtral, held))
    assert [(each.parameters, each.ranks) for each in found] == [(held.dense, 16), (held.expert, 2)]
    both = extra_bytes(round(4 * held.dense), 16) + extra_bytes(round(4 * held.expert), 2)
    assert residual_bytes(mixtral, held) == both
    alone = replace(mixtral, mesh=Mesh(dp=8, ep=8))
    assert [each.ranks for each in replicated(alone, held)] == [8]  # of experts there is one
    whole = replace(mixtral, mesh=Mesh(dp=8, tp=2))
    assert [(each.parameters, each.ranks) for each in replicated(whole, held)] == [(held.total, 8)]


@pytest.mark.parametrize("compress", ["int8", "fp8"])
def test_passes_move_what_the_kernels_declare(compress):
    """Each rank quantises all, adds up and quantises its part, and reads all."""
    ranks, share = 8, 1 << 20
    name = FORMATS[compress]
    sizes = {"parts": ranks, "elements": share}
    kernels = [KERNELS[f"{job}_{name}"] for job in ("quantise_feedback", "requantise", "dequantise")]
    declared = sum(kernel.forward(sizes, "fp32").moved_bytes for kernel in kernels)
    assert sum(passes_bytes(ranks)) * ranks * share == pytest.approx(declared, rel=1e-9)


def test_residuals_and_messages_are_in_the_memory(make_setting):
    setting = make_setting("llama-3.2-1b", "dgx-h100:2", 4096, 128)
    one = replace(ONE, stage_layers=(16,))
    plain, asked = (price(compressed(setting, each), one).memory[0] for each in ("none", "int8"))
    parameters = setting.architecture.parameters
    assert asked.buffers - plain.buffers == pytest.approx(extra_bytes(4 * parameters, 16), abs=64)
    assert extra_bytes(4 * parameters, 16) == pytest.approx(parameters * (4 + 4 / 16 + 2 * 65 / 64), rel=1e-6)
    alone = replace(one, mesh=Mesh(tp=16 // 2, dp=1, pp=2), stage_layers=(8, 8), recompute=("none",) * 2)
    assert price(compressed(setting, "int8"), alone) == price(setting, alone)


def test_shards_are_refused_and_never_searched(make_setting):
    setting = compressed(make_setting("llama-3.1-8b", "dgx-h100:2", 4096, 128), "fp8")
    assert problems(setting, ONE) == []
    [wrong] = problems(setting, replace(ONE, zero=1))
    assert (wrong.field, wrong.value, wrong.fix) == ("--pin zero", 1, "zero=0, or --compress none")
    assert {each.zero for each in candidates(setting, Pins())} == {0}
    [wrong] = problems(replace(setting, framework=setting.framework.model_copy(update={"name": "megatron"})), ONE)
    assert (wrong.field, wrong.fix) == ("--compress", "none, or --framework meshwright")


def test_a_job_says_so():
    job = job_of_options({"seq_len": 8, "global_batch": 8, "compress": "int8"})
    assert job.stepped == "adamw, gradients in int8"
    assert Job(seq_len=8, global_batch=8).compress == "none"
