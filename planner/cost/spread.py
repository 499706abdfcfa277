"""Spread: what embedding and output layer cost each rank where they are spread over all pipeline ranks
(vocabulary parallelism, arXiv:2411.05288).

Rows are split over pp x tp. Logits, their matmuls and losses are split with them; look-up and scatter touch as many
hidden states on every rank as they would on one. The final norm stays on the last stage, learned positions on the
first. The event interpreter plays the passes in their places (`schedule/passes.py`).
"""

from __future__ import annotations

from ..configuration import Configuration
from ..simulate.work import Passes
from .communication import all_gather_s, broadcast_s
from .compute import head_projection_s
from .exchange import EXCHANGED_BYTES
from .setting import Setting
from .sharding import sharding_of


def passes_of(setting: Setting, configuration: Configuration) -> Passes | None:
    """Seconds of one microbatch, or None where the vocabulary is not spread."""
    shares = setting.costs(configuration).shares
    if shares is None:
        return None
    embedding, head = shares
    model, mesh, sharding = setting.architecture, configuration.mesh, sharding_of(configuration)
    tokens = sharding.tokens(setting.job.seq_len)
    again = head_projection_s(model.hidden, model.vocab, sharding, setting.job.seq_len, setting.rates)
    over_pp = setting.group(mesh.dp * mesh.cp * mesh.tp, mesh.pp)
    sent = tokens / sharding.sequence_split * model.hidden * setting.element_bytes
    numbers = EXCHANGED_BYTES * tokens
    return Passes(
        embed_s=embedding.forward_s,
        logits_s=head.forward_s,
        gradients_s=head.backward_s("none") + (again if configuration.logits_chunks > 1 else 0.0),
        scatter_s=embedding.backward_s("none"),
        cast_s=broadcast_s(over_pp, sent),
        reduce_s=broadcast_s(over_pp, sent),
        exchange_s=all_gather_s(over_pp, mesh.pp * numbers)
        + all_gather_s(setting.group(1, mesh.tp), mesh.tp * mesh.pp * numbers),
    )
