"""Token homes: at which rank of its tensor-parallel group the tokens of an id had better be, as a plan holds it.

With sequence parallelism a rank may take any equal part of the tokens of a sequence to the experts; what stays on its
rank is not sent (speculative token shuffling, Speculative MoE, arXiv:2503.04398). `shuffle.py` finds homes in a trace.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator

from pydantic import Field, model_validator

from ...errors import Problem
from ...schema import Frozen
from ..configuration import Configuration, Mesh

ANYWHERE = 255
"""The home of ids of which nothing is known."""

MOST_IDS = 2**22
_PLAN_ANEW = "leave it out, or meshwright plan ... --routing trace.npz --shuffle-tokens"


class TokenHomes(Frozen):
    """`homes`: for each tp group of an ep group, in the order of ranks, one byte an id (zlib, base64): a member of the
    group, or ANYWHERE, as ids beyond the last are."""

    members: int = Field(ge=2, lt=ANYWHERE)
    homes: tuple[str, ...] = Field(min_length=1)
    saved: float = Field(ge=0, le=1)  # of the copies to other ranks, on tokens that were held out

    @model_validator(mode="after")
    def _legible(self) -> TokenHomes:
        legal = {*range(self.members), ANYWHERE}
        for group in range(len(self.homes)):
            if wrong := set(self.of_group(group)) - legal:
                raise ValueError(f"homes[{group}] names member {min(wrong)} of {self.members}")
        return self

    def of_group(self, group: int) -> bytes:
        """The home of each id. Raises ValueError where the text is no such table."""
        try:
            reader = zlib.decompressobj()
            found = reader.decompress(b64decode(self.homes[group], validate=True), MOST_IDS)
        except (ValueError, zlib.error):
            raise ValueError(f"homes[{group}] is not zlib in base64") from None
        if not reader.eof:
            raise ValueError(f"homes[{group}] is cut off, or has more than {MOST_IDS:,} ids")
        return found


def packed(homes: bytes) -> str:
    """One group's homes as a plan holds them."""
    return b64encode(zlib.compress(homes, 9)).decode()


def tp_groups(mesh: Mesh) -> list[range]:
    """Of each tp group of an ep group the ep ranks of its members; none where these are not whole tp groups."""
    if mesh.tp == 1 or mesh.etp > 1 or mesh.ep % mesh.tp:
        return []
    return [range(first, first + mesh.tp) for first in range(0, mesh.ep, mesh.tp)]


def problems(homes: TokenHomes, configuration: Configuration) -> Iterator[Problem]:
    """What keeps a configuration from shuffling tokens so."""
    mesh, groups = configuration.mesh, tp_groups(configuration.mesh)
    if not configuration.sp:
        yield Problem("token_homes", None, "tokens are shuffled where ranks have parts of a sequence", "sp: true")
    if not groups:
        rule = f"ep ({mesh.ep}) must be whole groups of tp ({mesh.tp}, above 1), and etp 1"
        yield Problem("token_homes", None, rule, _PLAN_ANEW)
    elif (homes.members, len(homes.homes)) != (mesh.tp, len(groups)):
        found = f"{len(homes.homes)} groups of {homes.members}"
        yield Problem("token_homes", found, f"the mesh has {len(groups)} groups of {mesh.tp} in ep", _PLAN_ANEW)
