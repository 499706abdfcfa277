"""Provenance: when, where and with what a cluster was measured, and what could not be."""

from __future__ import annotations

from pydantic import Field

from ..schema import Frozen


class Note(Frozen):
    """Something that was not measured, or not as it should be."""

    part: str
    what: str = ""  # of the part; empty: all of it
    why: str

    def __str__(self) -> str:
        return f"{', '.join(text for text in (self.part, self.what) if text)}: {self.why}"


class Provenance(Frozen):
    """What `meshwright profile` ran on. Versions by name: meshwright, python, torch, cuda, nccl, driver, kernel."""

    date: str
    host: str
    devices: tuple[str, ...] = Field((), description="names of the devices that measured")
    versions: dict[str, str] = Field({})
    nodes: int = Field(1, ge=1)
    workers: int = Field(ge=1)
    threads: int = Field(ge=1, description="of each worker")
    budget_s: float = Field(gt=0)
    model: str = Field("", description="whose layers were measured, with sequence length and global batch")
    spread: dict[str, float] = Field(
        {}, description="of figures over the workers: half of largest over smallest, less 1"
    )
    notes: tuple[Note, ...] = ()
