"""Offloading that gains next to nothing is left out; what somebody asked for, or what is needed, stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.setting import Setting
from meshwright.planner.families import architecture, load_model
from meshwright.planner.frameworks.framework import framework
from meshwright.planner.job import Job
from meshwright.planner.pins import Pins
from meshwright.planner.search.objective import Measure, Priced, price_as
from meshwright.planner.search.plainer import WORTH, plainer
from meshwright.planner.search.space import candidates


def setting(model: str = "llama-3.2-1b", cluster: str = "dgx-h100:1", name: str = "meshwright") -> Setting:
    job = Job(seq_len=2048, global_batch=64)
    return Setting(architecture(load_model(model)), load_cluster(cluster), job, framework=framework(name))


def offloaded(of: Setting) -> Priced:
    layers = len(of.architecture.layers)
    configuration = Configuration(
        mesh=Mesh(dp=8), stage_layers=(layers,), microbatch=1, microbatches=8, zero=1, offload=1.0
    )
    return price_as(of, configuration, Measure(of, "time"))


def test_what_is_as_good_without_stays_on_the_device():
    of = setting()
    best = offloaded(of)
    found = plainer(of, Pins(), best, Measure(of, "time"))
    stays = price_as(of, replace(best.configuration, offload=0.0), Measure(of, "time"))
    assert stays.value <= best.value * (1 + WORTH), "the case is one in which offloading gains nothing"
    assert found == stays


@pytest.mark.parametrize("gained", [0.5 * WORTH, 2 * WORTH])
def test_the_border_is_what_it_says(gained: float):
    """A best value that is better by so much than that of the same without offloading."""
    of = setting()
    best, measure = offloaded(of), Measure(of, "time")
    stays = price_as(of, replace(best.configuration, offload=0.0), measure)
    best = replace(best, value=stays.value / (1 + gained))
    assert (plainer(of, Pins(), best, measure) is best) == (gained > WORTH)


def test_what_is_pinned_or_needed_stays_offloaded():
    of = setting()
    best = offloaded(of)
    assert plainer(of, Pins(offload=1.0), best, Measure(of, "time")) is best
    small = setting("llama-3.1-8b", "dgx-a100-40g:1")  # 8 B parameters do not fit whole beside their states
    best = offloaded(small)
    assert plainer(small, Pins(), best, Measure(small, "time")) is best


def test_a_framework_is_asked_for_the_stages_that_it_has():
    def stages(name: str) -> set[int]:
        return {each.zero for each in candidates(setting(name=name), Pins())}

    assert stages("meshwright") == {0, 1, 2, 3}
    assert stages("megatron-core") == {0, 1}
