"""Checkpoints hold stacked experts in the order of experts, each once, whatever the order of the slots.

So a run goes on under another placement, another number of replicas or another ep with the weights and optimizer
states of every expert. Chunks of one expert each are written from their slots and read to them: nothing is exchanged
between ranks. What has no order of slots is left to torch.distributed.checkpoint.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from . import compat
from .shards import held
from .slots import Order, Orders


class SlotSavePlanner(DefaultSavePlanner):
    """`orders` are those of tensors of a state, by their names in it. Replicas are equal: of their ranks one writes an
    expert, that which has least to write."""

    def __init__(self, orders: Orders) -> None:
        super().__init__()
        self._orders = orders

    def create_local_plan(self) -> SavePlan:
        everything = self.state_dict
        self.state_dict = {name: each for name, each in everything.items() if name not in self._orders}
        plan = super().create_local_plan()
        self.state_dict = everything
        stacked = {name: each for name, each in everything.items() if name in self._orders}
        items = [item for name, tensor in stacked.items() for item in _write_items(name, tensor, self._orders[name])]
        self.plan = dataclasses.replace(plan, items=[*plan.items, *items])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        if index.fqn not in self._orders:
            return super().lookup_object(index)
        return _matrix(self.state_dict[index.fqn], self._orders[index.fqn], index)


class SlotLoadPlanner(DefaultLoadPlanner):
    """The way back: every slot gets its expert. Names are flat, as a Checkpointer's are."""

    def __init__(self, orders: Orders) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._orders = orders

    def create_local_plan(self) -> LoadPlan:
        everything = self.state_dict
        self.state_dict = {name: each for name, each in everything.items() if name not in self._orders}
        items = list(super().create_local_plan().items)
        self.state_dict = everything
        assert self.metadata is not None
        for name, tensor in everything.items():
            if name in self._orders:
                saved, size = self.metadata.state_dict_metadata.get(name), _size(tensor, self._orders[name])
                if not isinstance(saved, TensorStorageMetadata) or saved.size != size:
                    raise ValueError(f"the checkpoint has no {name} of {list(size)}")
                items += create_read_items_for_chunk_list(name, saved, _chunks(tensor, self._orders[name]))
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        if index.fqn not in self._orders:
            return super().lookup_tensor(index)
        return _matrix(self.state_dict[index.fqn], self._orders[index.fqn], index)


def _size(tensor: Tensor, order: Order) -> torch.Size:
    """Of all experts: what a checkpoint holds of `tensor` [slots, ...]."""
    return torch.Size((len(set(order)), *tensor.shape[1:]))


def _chunks(tensor: Tensor, order: Order) -> list[ChunkStorageMetadata]:
    """Where the matrix of each slot here belongs among the experts."""
    (first, *begin), (count, *size) = compat.own_box(tensor)
    here = order[first : first + count]
    return [ChunkStorageMetadata(torch.Size((expert, *begin)), torch.Size((1, *size))) for expert in here]


def _write_items(name: str, tensor: Tensor, order: Order) -> list[WriteItem]:
    properties, size = TensorProperties.create_from_tensor(held(tensor)), _size(tensor, order)
    return [
        WriteItem(
            index=MetadataIndex(name, chunk.offsets),
            type=WriteItemType.SHARD,
            tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=size),
        )
        for chunk in _chunks(tensor, order)
    ]


def _matrix(tensor: Tensor, order: Order, index: MetadataIndex) -> Tensor:
    """[1, ...]: the memory of the slot here that has the expert of `index`."""
    (first, *_), (count, *_) = compat.own_box(tensor)
    assert index.offset is not None
    slot = order.index(index.offset[0], first, first + count) - first
    return held(tensor)[slot : slot + 1]
