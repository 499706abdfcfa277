"""What a layer keeps and what a step holds, against PyTorch's own accounts on fake tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from meshwright.clusters.catalogue import load_cluster
from meshwright.kernels.cross_entropy import cross_entropy
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.activations import Shape, layer_kept, worst_routing_bytes
from meshwright.planner.cost.footprint import rank_memory
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.families import architecture, load_model
from meshwright.planner.frameworks.framework import Keeps, framework
from meshwright.planner.job import Job
from meshwright.runtime.blocks.positions import Positions
from meshwright.runtime.blocks.rotary import Rotary
from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.blocks.transformer import Layer, Transformer

SEQ_LEN = 8192
USES = {"Activation", "Temp", "Gradient"}


@pytest.fixture
def bfloat16():
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


def saved_bytes(name: str) -> int:
    """Storages that autograd keeps of one layer of the built-in runtime, without parameters and rotary tables."""
    shape = read_shape(dict(load_model(name).config))
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode():
        assert shape.rope is not None
        positions = Positions()
        rotary = Rotary(shape.rope, positions)
        layer, x = Layer(shape, 0, rotary, positions), torch.empty(1, SEQ_LEN, shape.hidden, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = layer(x)
        tables = [table for pair in rotary._tables.values() for table in pair]
        for tensor in [*layer.parameters(), *tables]:
            storages.pop(tensor.untyped_storage()._cdata, None)
        assert output.shape == x.shape
    return sum(storages.values())


@pytest.mark.parametrize("name", ["llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b", "qwen2.5-7b"])
def test_a_layer_of_the_runtime_keeps_what_autograd_saves(name, bfloat16):
    layer = architecture(load_model(name)).layers[0]
    shape = Shape(sharding=Sharding(), seq_len=SEQ_LEN, element=2, keeps=framework("meshwright").keeps)
    assert layer_kept(layer, shape).total == pytest.approx(saved_bytes(name), rel=1e-3)


def tracked_bytes(name: str, layers: int) -> int:
    """Peak of a forward and backward under MemTracker, without the parameters."""
    shape = read_shape(dict(load_model(name).config))
    with FakeTensorMode():
        model = Transformer(shape, range(layers), first=True, last=True, dtype=torch.bfloat16)
        tokens = torch.zeros(1, SEQ_LEN, dtype=torch.int64)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            logits = model(tokens)
            loss = cross_entropy(logits, tokens) / SEQ_LEN
            del logits
            loss.backward()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
    return sum(bytes_ for use, bytes_ in peak.items() if getattr(use, "value", use) in USES)


@pytest.mark.parametrize(("layers", "over"), [(2, 0.02), (16, 0.06)])
def test_the_fullest_moment_is_that_of_pytorchs_tracker(layers, over, bfloat16):
    """With few layers the loss is the fullest moment, with many it is the first layer's backward. Never less than
    tracked by more than 2 %, and not much more."""
    model = architecture(load_model("llama-3.2-1b"))
    model = replace(model, layers=model.layers[:layers])
    job = Job(seq_len=SEQ_LEN, global_batch=1, kernels="reference")  # what runs where the tracker looks on
    setting = Setting(model, load_cluster("dgx-h100:1"), job)
    configuration = Configuration(mesh=Mesh(), stage_layers=(layers,), microbatch=1, microbatches=1, zero=0)
    memory = rank_memory(setting, configuration, 0)
    predicted = memory.activations + memory.logits + memory.buffers
    assert 0.98 <= predicted / tracked_bytes("llama-3.2-1b", layers) <= 1 + over


def test_recomputing_a_module_saves_what_it_keeps():
    """Megatron-Core's lists: recomputing the experts leaves their input's norm; latent attention gives up its
    up-projections; a module that a layer lacks saves nothing."""
    dense = architecture(load_model("llama-3.1-8b")).layers[0]
    routed = architecture(load_model("deepseek-v2-lite")).layers[-1]
    shape = Shape(sharding=Sharding(), seq_len=4096, element=2, keeps=Keeps())
    kept = layer_kept(routed, shape)
    assert kept.given_up(["moe"]) == kept.given_up(["moe", "moe_act"]) > kept.given_up(["moe_act"]) > 0
    assert kept.given_up(["mla_up_proj"]) == 2 * 4096 * routed.attention.heads * (192 + 192 + 128)
    assert layer_kept(dense, shape).given_up(["moe", "mla_up_proj"]) == 0
    assert layer_kept(dense, shape).given_up(["mlp"]) == 3 * 2 * 4096 * 14336


def test_the_worst_routing_fills_one_rank_with_every_token():
    """8 ranks of 8 experts each, 6 visited: all of a group's choices fall on one rank, 8 times its share."""
    layer = architecture(load_model("deepseek-v2-lite")).layers[-1]
    shape = Shape(sharding=Sharding(ep=8), seq_len=4096, element=2, keeps=Keeps())
    kept = layer_kept(layer, shape)
    inside = kept.routed_inputs + kept.expert_hidden + kept.expert_activated
    assert inside == 2 * 4096 * 6 * (2048 + 3 * 1408)
    assert worst_routing_bytes(layer, shape) == 7 * inside
    alone = Shape(sharding=Sharding(), seq_len=4096, element=2, keeps=Keeps())
    assert worst_routing_bytes(layer, alone) == 0


def test_fp8_keeps_inputs_of_products_in_a_byte():
    layer = architecture(load_model("llama-3.1-8b")).layers[0]
    wide = layer_kept(layer, Shape(sharding=Sharding(), seq_len=4096, element=2, keeps=Keeps()))
    narrow = layer_kept(layer, Shape(sharding=Sharding(), seq_len=4096, element=2, keeps=Keeps(), fp8=True))
    assert narrow.norm_outputs == wide.norm_outputs / 2
    assert narrow.mlp == 4096 * 14336 * (2 * 2 + 1)
    assert narrow.residual == wide.residual
