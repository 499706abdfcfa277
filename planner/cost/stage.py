"""The stage: seconds of one microbatch through every virtual stage of a pipeline, and from one stage to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from ...clusters.topology import Path
from ..configuration import Configuration, Recompute
from ..simulate.work import Work
from .balance import counts_s
from .blocks import Block, ModelCosts
from .communication import ALONE, pipeline_transfer_s
from .setting import Setting
from .sharding import sharding_of
from .spread import passes_of

RING_WAITS = 5
"""Tensor-parallel collectives of a layer, the mean of both directions: two regions of an all-gather and a
reduce-scatter, and in the backward the inputs gathered once more."""


def stage_times(setting: Setting, configuration: Configuration) -> Work:
    """The pipeline alone: one microbatch through every virtual stage, exposed communication inside a layer included."""
    stages, (pace, wake_s) = list(_stages_s(setting, configuration)), shared_cores(setting, configuration)
    forward, backward, inputs, weights = zip(*stages, strict=True)
    work = Work(
        forward,
        backward,
        transfer_s(setting, configuration),
        borders=borders(setting, configuration),
        input_s=inputs,
        weight_s=weights,
        passes=passes_of(setting, configuration),
        pace=pace,
        wake_s=wake_s,
    )
    return _waking_with_messages(work) if wake_s and configuration.spread_vocabulary else work


def _waking_with_messages(work: Work) -> Work:
    """With a spread vocabulary all ranks that share cores are taken to be busy: waking up is a part of a message."""
    wake_s, passes = work.wake_s[-1], work.passes
    assert passes is not None
    sent = {name: getattr(passes, name) + wake_s for name in ("cast_s", "reduce_s", "exchange_s")}
    return replace(work, wake_s=(), transfer_s=work.transfer_s + wake_s, passes=replace(passes, **sent))


def shared_cores(setting: Setting, configuration: Configuration) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """By number of pipeline ranks that compute, each of them all its workers, their pace and the seconds until one is
    awake; () where that makes no difference."""
    mesh = configuration.mesh
    if setting.measured is None or mesh.pp == 1:
        return (), ()
    counts = [mesh.world // mesh.pp * ranks for ranks in range(1, mesh.pp + 1)]
    pace = tuple(setting.measured.pace(workers, mesh.world) for workers in counts)
    wake_s = tuple(setting.measured.wake_s(workers, mesh.world) for workers in counts)
    return (pace, wake_s) if any(each != 1 for each in pace) or any(wake_s) else ((), ())


def _stages_s(setting: Setting, configuration: Configuration) -> Iterator[tuple[float, float, float, float]]:
    """Forward, backward, and the halves of the latter, of every virtual stage."""
    known: dict[tuple[Setting, Recompute, bool, bool], StageSeconds] = {}
    last, start = len(configuration.stage_layers) - 1, 0
    for stage, (rank, count) in enumerate(zip(configuration.placement, configuration.stage_layers, strict=True)):
        seen, choice = setting.at(configuration, rank), configuration.recompute[rank]
        key = seen, choice, stage == 0, stage == last
        if key not in known:
            ends = ends_of(seen.costs(configuration), stage, last + 1)
            known[key] = StageSeconds(seen, configuration, choice, ends)
        yield known[key].of(start, start + count)
        start += count


class StageSeconds:
    """Seconds of one microbatch through a stage with some end blocks, for any range of layers. The host issues all but
    the products of weight gradients with the first half."""

    def __init__(self, setting: Setting, configuration: Configuration, choice: Recompute, ends: list[Block]):
        costs = setting.costs(configuration)
        self._sums = (
            costs.forward,
            costs.backward[choice],
            costs.exposed_forward,
            costs.exposed_backward[choice],
            costs.weight,
            costs.split,
        )
        self._forward_s = sum(block.forward_s for block in ends)
        self._chunks_s = chunks_s(setting, configuration) if costs.head in ends and costs.shares is None else 0.0
        self._backward_s = sum(block.backward_s("none") for block in ends)
        self._waits_s = sum(block.exchange.forward_s for block in ends)
        self._waits_back_s = sum(block.exchange.backward_s for block in ends)
        self._setting, self._configuration = setting, configuration
        self._host, (self._rings, self._latency_s) = _Host.of(setting), _rings(setting, configuration)
        self._again = 2 if choice == "full" else 1  # the host issues the forward once more
        routes = (layer.moe is not None for layer in setting.architecture.layers)
        self._routed = list(accumulate(routes, initial=0)) if setting.has_experts else None

    def of(self, start: int, stop: int) -> tuple[float, float, float, float]:
        """Forward, backward, and the halves of the latter, of layers start..stop-1."""
        return next(self.growing(start, stop))

    def growing(self, start: int, first: int, halves: bool = True) -> Iterator[tuple[float, float, float, float]]:
        """The same of layers start..first-1, then of one more, and so on to the last layer. The first half only where
        `halves` are asked for."""
        forwards, backwards, exposed, exposed_back, weights, splits = self._sums
        again, rings, latency_s, routed = self._again, self._rings, self._latency_s, self._routed
        ends_s, chunks_s, ends_back_s = self._forward_s, self._chunks_s, self._backward_s
        host, alone_s, counted_s, input_s = self._host, 0.0, 0.0, 0.0
        for stop in range(first, len(forwards)):
            host_s = (stop - start) * host.graphs * host.layer_s + host.microbatch_s
            if routed:
                with_experts = routed[stop] - routed[start]
                host_s, alone_s = host.with_experts_s(stop - start, with_experts), with_experts * host.waits_s
                counted_s = self._counted_s(start, stop)
            rings_s = (stop - start) * rings * latency_s
            forward_s = forwards[stop] - forwards[start] + ends_s + chunks_s + counted_s
            backward_s = backwards[stop] - backwards[start] + ends_back_s
            waits_s = counted_s + exposed[stop] - exposed[start] + self._waits_s
            back_s = exposed_back[stop] - exposed_back[start] + self._waits_back_s
            weight_s, extra_s = weights[stop] - weights[start], (again - 1) * alone_s
            host_back_s, rings_back_s = again * host_s, again * rings_s
            if halves:
                own_s = backward_s - weight_s + splits[stop] - splits[start]
                input_s = _issued(own_s, back_s, host_back_s, rings_back_s) + extra_s
            yield (
                _issued(forward_s, waits_s, host_s, rings_s) + alone_s,
                _issued(backward_s, back_s, host_back_s, rings_back_s) + extra_s,
                input_s,
                weight_s,
            )

    def _counted_s(self, start: int, stop: int) -> float:
        """Until ranks have told each other what their routers chose."""
        layers = self._setting.architecture.layers[start:stop] if self._setting.has_experts else ()
        return counts_s(self._setting, self._configuration, layers) if layers else 0.0


def _issued(device_s: float, waits_s: float, host_s: float, rings_s: float) -> float:
    """Seconds of one direction: its compute, or the host's time to issue it where that is longer, and the
    communication that nothing hides."""
    busy_s = device_s - waits_s
    busy_s = (host_s if host_s > busy_s else busy_s) + waits_s
    return max(busy_s, host_s + rings_s)


@dataclass(frozen=True, slots=True)
class _Host:
    """What the host takes to issue one direction of a microbatch: of a layer, where graphs leave this share of it, and
    of the whole stage; `experts_s` more of a layer with experts. In each of these the device has nothing to do for
    `waits_s` because the host waited for it, forward, in repeated ones too."""

    graphs: float
    layer_s: float
    microbatch_s: float
    expert_graphs: float
    experts_s: float
    waits_s: float

    @classmethod
    def of(cls, setting: Setting) -> _Host:
        costs, graphs = setting.execution, setting.framework.graphs
        waits_s = graphs.moe * costs.host_moe_s if setting.framework.experts.synchronises else 0.0
        own = graphs.layer, costs.host_layer_s, costs.host_microbatch_s
        return cls(*own, graphs.moe, costs.host_moe_s, waits_s)

    def with_experts_s(self, layers: int, with_experts: int) -> float:
        """To issue one direction of a stage."""
        layers_s = layers * self.graphs * self.layer_s
        return layers_s + with_experts * self.expert_graphs * self.experts_s + self.microbatch_s


def _rings(setting: Setting, configuration: Configuration) -> tuple[int, float]:
    """How often the tensor-parallel rings of a layer wait for the network in one direction, and how long, for the
    frameworks that do."""
    mesh = configuration.mesh
    if mesh.pp == 1 or not setting.framework.waits_for_rings:
        return 0, 0.0
    path = setting.hop(mesh.dp * mesh.cp * mesh.tp, mesh.pp)
    return (RING_WAITS * (mesh.tp - 1), path.latency_s) if path.is_network else (0, 0.0)


def chunks_s(setting: Setting, configuration: Configuration) -> float:
    """Every chunk of the loss adds its gradient of the output projection to an fp32 sum."""
    if configuration.logits_chunks == 1:
        return 0.0
    projection = setting.architecture.vocab * setting.architecture.hidden / configuration.mesh.tp
    moved = (8 + 2 * setting.element_bytes) * projection
    return configuration.logits_chunks * moved / setting.rates.elementwise_bytes_per_s


def ends_of(costs: ModelCosts, stage: int, stages: int) -> list[Block]:
    """Embedding and head, where this virtual stage holds them; neither is recomputed."""
    found = [costs.embedding] if stage == 0 else []
    return [*found, costs.head] if stage == stages - 1 else found


def transfer_s(setting: Setting, configuration: Configuration) -> float:
    """One microbatch's activations from a stage to the next, over the fastest border."""
    return min(_transfers_s(setting, configuration), default=0.0)


def borders(setting: Setting, configuration: Configuration) -> tuple[float, ...]:
    """How many times longer they take over each border, the last that from the last rank to the first; () where all are
    alike."""
    each_s = _transfers_s(setting, configuration)
    return tuple(each / min(each_s) for each in each_s) if len(set(each_s)) > 1 else ()


def _transfers_s(setting: Setting, configuration: Configuration) -> list[float]:
    mesh = configuration.mesh
    if mesh.pp == 1:
        return []
    paths = setting.borders(mesh.dp * mesh.cp * mesh.tp, mesh.pp)
    return [border_s(setting, configuration, path) for path in paths]


def border_s(setting: Setting, configuration: Configuration, path: Path) -> float:
    """One microbatch's activations over the path of a border."""
    mesh, sharding = configuration.mesh, sharding_of(configuration)
    inner = ALONE if configuration.sp else setting.group(1, mesh.tp)
    tokens, hidden = sharding.tokens(setting.job.seq_len), setting.architecture.hidden
    return pipeline_transfer_s(path, tokens, hidden, setting.element_bytes, mesh.tp, inner)
