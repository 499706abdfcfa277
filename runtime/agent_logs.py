"""Logs of the elastic agent: its own go to a file, those of its workers are remembered."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, Std

from ..errors import RunError
from .failures import own_error, unrecoverable

_AGENT = "torch.distributed.elastic"
_LAUNCHER = "torch.distributed.launcher"


class WorkerLogs(DefaultLogsSpecs):
    """Standard output and error of every worker in files; knows those of the newest attempt, by local rank.

    Refuses an attempt that would end as the one before did: after an error that no attempt survives, and after the
    second attempt in a row that ended with the same error of a worker's own.
    """

    def __init__(self, folder: Path):
        super().__init__(log_dir=str(folder), redirects=Std.ALL)
        self.error_files: dict[int, str] = {}
        self._error = ""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        if (error := unrecoverable(self.error_files)) is not None:  # called before each attempt
            raise error
        before, self._error = self._error, own_error(self.error_files)
        if self._error and self._error == before:
            logs = Path(next(iter(self.error_files.values()))).parents[2]
            raise RunError(f"{self._error}\n  in two attempts in a row: it is not tried again; their logs: {logs}")
        destination = super().reify(envs)
        self.error_files = destination.error_files
        return destination


@contextmanager
def agent_log(path: Path) -> Iterator[None]:
    """Send all loggers of torch's elastic agent to `path` instead of standard error: what matters is raised."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if _is_agent(name)]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()


def _is_agent(name: str) -> bool:
    return name.startswith((_AGENT, _LAUNCHER))
