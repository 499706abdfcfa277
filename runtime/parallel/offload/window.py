"""A window of layers on the device, the others on the host (Superpipeline; ZeRO-Infinity, arXiv:2104.07857).

Weights, gradients and optimizer states of all layers live on the host. A layer's weights are copied in while the layers
before it compute, forward and backward, and their place is given back as soon as the layer is done; its gradients are
copied out while the next one goes backward. For layers that no data-parallel rank shares; `shards.py` has the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import compat
from ...shards import held, views
from .link import Link


class Swapped:
    """One parameter: on the host for whoever asks, on the device while its layer computes."""

    def __init__(self, owner: nn.Module, key: str, link: Link, device: torch.device, dtype: torch.dtype):
        self.owner, self.key = owner, key
        whole = owner._parameters[key]
        assert whole is not None
        weight = held(whole)
        self.weight = link.buffer(weight.numel()).view_as(weight).copy_(weight)
        self.gradient = torch.zeros_like(self.weight)
        self.host = nn.Parameter(compat.like_sharded(self.weight, whole), whole.requires_grad)
        self.device = nn.Parameter(torch.empty_like(weight, dtype=dtype, device=device), whole.requires_grad)
        self._bytes = self.device.untyped_storage().nbytes()

    def allocate(self) -> None:
        """Room for the weights; whatever autograd saved of them finds them there again."""
        self.device.untyped_storage().resize_(self._bytes)

    def show(self) -> None:
        """Let the layer compute with what is on the device."""
        self.owner._parameters[self.key] = self.device

    def leave(self) -> None:
        """Give the room back; the layer shows what is on the host."""
        self.device.untyped_storage().resize_(0)
        self.owner._parameters[self.key] = self.host

    def add(self, gradient: Tensor) -> None:
        """To those of this step."""
        if self.host.grad is None:
            self.host.grad = compat.like_sharded(self.gradient.copy_(gradient), self.host)
        else:
            self.gradient += gradient


class Window:
    """Swaps layers, given in the order in which they compute."""

    def __init__(self, layers: Sequence[nn.Module], size: int, device: torch.device, dtype: torch.dtype):
        self._size, self._link = size, Link(device)
        self.resident: dict[int, Any] = {}  # layers on the device, by index, with what to wait for before their use
        self._layers = [self._swap(layer, device, dtype) for layer in layers]
        self._awaited = [0] * len(layers)  # gradients of a layer that are still to be made
        self._leaving: tuple[int, Any] | None = None  # the layer whose gradients are on their way to the host
        self._arrivals = self._link.buffer(max(sum(each.weight.numel() for each in layer) for layer in self._layers))
        for index, layer in enumerate(layers):
            self._hook(index, layer)

    def _swap(self, layer: nn.Module, device: torch.device, dtype: torch.dtype) -> list[Swapped]:
        owners = [(owner, key) for owner in layer.modules() for key, _ in owner.named_parameters(recurse=False)]
        return [Swapped(owner, key, self._link, device, dtype) for owner, key in owners]

    def _hook(self, index: int, layer: nn.Module) -> None:
        for each in self._layers[index]:
            each.leave()
            made: Any = each.device.register_post_accumulate_grad_hook
            made(lambda _: self._gradient_made(index))
        layer.register_forward_pre_hook(lambda _, __: self._enter(index, 1), prepend=True)
        layer.register_forward_hook(lambda _, __, output: self._forward_done(index, output))

    def _bring(self, index: int) -> None:
        """Begin to copy a layer's weights in."""
        if index not in self.resident:
            for each in self._layers[index]:
                each.allocate()
            self._link.follow()
            # `data`: for autograd the weights are what they were when it saved them.
            self.resident[index] = self._link.copy([(each.device.data, each.weight) for each in self._layers[index]])

    def _enter(self, index: int, step: int) -> None:
        """A layer is about to compute: the next ones in this direction may come, as far as there is room."""
        self._bring(index)
        for ahead in range(index + step, index + step * self._size, step):
            if 0 <= ahead < len(self._layers) and len(self.resident) < self._size:
                self._bring(ahead)
        self._link.order(self.resident[index])
        for each in self._layers[index]:
            each.show()

    def _leave(self, index: int) -> None:
        del self.resident[index]
        for each in self._layers[index]:
            each.leave()

    def _forward_done(self, index: int, output: Tensor) -> None:
        """The last layers of a forward pass stay: they are the first to go backward."""
        if output.requires_grad:
            self._awaited[index] = len(self._layers[index])
            output.register_hook(lambda _: self._enter(index, -1))  # type: ignore[no-untyped-call]
        if not output.requires_grad or index < len(self._layers) - self._size:
            self._leave(index)

    def _gradient_made(self, index: int) -> None:
        """With its last gradient a layer is done: whatever its weights were needed for has been computed."""
        self._awaited[index] -= 1
        if self._awaited[index] == 0:
            self._leave(index)
            self._arrive()
            self._depart(index)
            if index == 0:
                self._arrive()

    def _depart(self, index: int) -> None:
        """Begin to copy a layer's gradients out."""
        self._link.follow()
        gradients = [each.device.grad for each in self._layers[index]]
        pairs = zip(self._landing(index), gradients, strict=True)
        copied = self._link.copy([(place, gradient) for place, gradient in pairs if gradient is not None])
        self._leaving = index, copied
        for each in self._layers[index]:
            each.device.grad = None

    def _arrive(self) -> None:
        """Add the gradients that are on their way to those of this step."""
        if self._leaving is not None:
            index, copied = self._leaving
            self._link.wait(copied)
            for each, gradient in zip(self._layers[index], self._landing(index), strict=True):
                each.add(gradient)
            self._leaving = None

    def _landing(self, index: int) -> list[Tensor]:
        return views(self._arrivals, [each.weight.shape for each in self._layers[index]])
