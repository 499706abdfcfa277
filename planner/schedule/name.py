"""Names of schedules that no builder makes."""

from __future__ import annotations

CUSTOM = "custom"
"""A schedule that was given as a list of actions."""
