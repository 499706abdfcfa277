"""Provenance: when, where and with what a cluster was measured, and what could not be."""

from __future__ import annotations

from pydantic import Field

from ..schema import Frozen


class Note(Frozen):
    """Something that was not measured."""

    part: str
    what: str = ""  # of the part; empty: all of it
    why: str


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
    notes: tuple[Note, ...] = ()
