"""A draft of a plan: its mapping while settings are put into it, and which field each of them named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...errors import InputError, Problem, did_you_mean
from ...schema import parse
from ..configuration import LEVERS
from ..plan import Plan
from .fields import SHORT_NAMES, changed, places
from .machines import SettingError, device_count, device_named, in_nodes_of, of_remaining, resized

# What a setting may change: the input of a plan, not its outcome.
SECTIONS = (
    "model", "cluster", "job", "framework", "mesh", "schedule", "stage_layers", "microbatch", *LEVERS,
)  # fmt: skip

MACHINES = ("devices", "node")
"""Settings of whole machines: several fields at once."""

_FIRST_PARTS = {*SECTIONS, *MACHINES, *(name.split(".")[0] for name in SHORT_NAMES)}


class Draft:
    """A plan's mapping while settings are put into it."""

    def __init__(self, plan: Plan):
        self.data: dict[str, Any] = plan.model_dump(mode="json", by_alias=True)
        self.named: dict[str, str] = {}  # path in the plan -> field as the user wrote it
        self.problems: list[Problem] = []

    @property
    def counts_devices(self) -> bool:
        """Whether a setting said how many devices the job has."""
        return "devices" in self.named.values()

    def set(self, setting: str) -> None:
        """Put one `field=value` in; what is wrong with it joins `problems`."""
        field, equals, text = (part.strip() for part in setting.partition("="))
        if not (field and equals and text):
            self.problems.append(Problem("--set", setting, "must be field=value", "job.seq_len=32768"))
        elif field.split(".")[0].split("[")[0] not in _FIRST_PARTS:
            self.problems.append(Problem(field, text, "unknown field", self._nearest(field.split(".")[0])))
        else:
            self._put(field, text)

    def _nearest(self, word: str) -> str:
        """The field that `tp` or `vpp` alone means: a part of a section of the configuration; else the nearest word."""
        parts = [f"{name}.{word}" for name in ("mesh", "schedule") if word in self.data[name]]
        return f"did you mean {parts[0]!r}" if parts else did_you_mean(word, _FIRST_PARTS)

    def _put(self, field: str, text: str) -> None:
        try:
            if field in MACHINES:
                self._put_machines(field, text)
                return
            for place in places(self.data, field):
                value = changed(place, text)
                place.container[place.key] = device_named(value) if place.path.endswith("].device") else value
                self.named[place.path] = field
        except SettingError as error:
            self.problems.append(Problem(field, text, str(error), error.fix))
        except ValueError as error:
            self.problems.append(Problem(field, text, str(error), f"{field}=VALUE"))

    def _put_machines(self, field: str, text: str) -> None:
        cluster = self.data["cluster"]
        groups = cluster["node_groups"]
        if field == "node":
            cluster["node_groups"] = in_nodes_of(groups, text)
        else:
            cluster["node_groups"] = resized(groups, device_count(groups, text))
        cluster["exceptions"] = of_remaining(cluster["exceptions"], cluster["node_groups"])
        self.named |= {f"cluster.node_groups[{index}].nodes": field for index in range(len(groups))}

    def parsed(self) -> Plan:
        """The mapping as a plan whose prediction is out of date.

        Raises InputError with every problem, of settings that could not be put in and of what the others hold, and
        names fields as the user wrote them.
        """
        if isinstance(self.data["recompute"], str):
            self.data["recompute"] = [self.data["recompute"]]
        try:
            plan = parse(Plan, self.data, "settings")
        except InputError as error:
            renamed = {str(problem): problem for problem in map(self._renamed, error.problems)}
            raise InputError("settings", [*self.problems, *renamed.values()]) from None
        if self.problems:
            raise InputError("settings", self.problems)
        return plan

    def _renamed(self, problem: Problem) -> Problem:
        return replace(problem, field=self.named.get(problem.field, problem.field))
