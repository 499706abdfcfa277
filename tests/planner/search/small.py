"""Spaces small enough to list: random clusters, models and jobs, and everything below a branch of the tree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import strategies as st

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import Configuration
from meshwright.planner.cost.footprint import fits_host, peaks
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import step_s
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import is_legal
from meshwright.planner.pins import Pins
from meshwright.planner.plan import ModelSpec
from meshwright.planner.search.request import Request
from meshwright.planner.search.space import recipes, recomputations, reliefs
from meshwright.planner.search.tree import Tree

MODELS = ("llama-3.2-1b", "llama-3.1-8b", "gpt2-xl", "olmoe-1b-7b", "deepseek-v2-lite", "gemma-2-9b")
CLUSTERS = ("dgx-a100-40g:1", "dgx-h100:1", "rtx4090-ethernet:1")


def shorter(name: str, layers: int) -> ModelSpec:
    """A bundled model with so many layers."""
    spec = load_model(name)
    config = {**spec.config}
    key = next(each for each in ("num_hidden_layers", "n_layer") if each in config)
    return spec.model_copy(update={"config": {**config, key: layers}})


@st.composite
def requests(draw: st.DrawFn, layers: int = 5) -> Request:
    """A short model on one node whose memory may be scarce."""
    cluster = load_cluster(draw(st.sampled_from(CLUSTERS)))
    group = cluster.node_groups[0]
    devices = draw(st.sampled_from([2, 4]))
    memory = int(group.device.memory_bytes * draw(st.sampled_from([0.15, 0.3, 1.0])))
    device = group.device.model_copy(update={"memory_bytes": memory})
    small = group.model_copy(update={"devices_per_node": devices, "device": device})
    job = Job(seq_len=draw(st.sampled_from([512, 2048])), global_batch=draw(st.sampled_from([4, 8])))
    return Request(
        model=shorter(draw(st.sampled_from(MODELS)), draw(st.integers(3, layers))),
        cluster=cluster.model_copy(update={"node_groups": (small,)}),
        job=job,
        pins=Pins(sp=False, microbatch=draw(st.sampled_from([1, 2]))),
        gap=0.0,
        top=0,
    )


def requests_of(model: str, layers: int, devices: int, memory: float) -> Request:
    """A model of so many layers on so many H100, each with a part of its memory."""
    cluster = load_cluster("dgx-h100:1")
    group = cluster.node_groups[0]
    device = group.device.model_copy(update={"memory_bytes": int(memory * group.device.memory_bytes)})
    small = group.model_copy(update={"devices_per_node": devices, "device": device})
    clusters = cluster.model_copy(update={"node_groups": (small,)})
    return Request(model=shorter(model, layers), cluster=clusters, job=Job(seq_len=4096, global_batch=16))


def setting_of(request: Request) -> Setting:
    return Setting(architecture(request.model), request.cluster, request.job)


def below_share(tree: Tree, shared: Configuration) -> Iterator[Configuration]:
    """All recipes of a share, those that need less memory too where memory binds."""
    for recipe in recipes(tree.setting, tree.pins, shared):
        yield recipe
        if is_legal(tree.setting, recipe) and tree.binds(recipe):
            yield from reliefs(tree.setting, tree.pins, recipe)


def below_recipe(setting: Setting, pins: Pins, recipe: Configuration) -> Iterator[Configuration]:
    """All splits of layers, with all recomputation per rank."""
    layers, stages = len(setting.architecture.layers), len(recipe.placement)
    for cuts in itertools.combinations(range(1, layers), stages - 1):
        split = tuple(stop - start for start, stop in itertools.pairwise((0, *cuts, layers)))
        for choices in itertools.product(recomputations(pins), repeat=recipe.mesh.pp):
            yield replace(recipe, stage_layers=split, recompute=choices)


def seconds(setting: Setting, configuration: Configuration) -> float | None:
    """Of a step; None where it is illegal or does not fit."""
    if not is_legal(setting, configuration) or not fits_host(setting, configuration):
        return None
    return step_s(setting, configuration) if all(peak.fits for peak in peaks(setting, configuration)) else None
