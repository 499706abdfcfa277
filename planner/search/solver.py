"""Solver: who solves an integer program: HiGHS, and where that cannot be loaded CBC, which PuLP brings along."""

from __future__ import annotations

import warnings
from typing import Any

SOLVERS = ("HiGHS", "PULP_CBC_CMD")
"""PuLP's names; the first that is there is taken. Both prove an optimum, CBC in more time."""


def solve_to_proof(problem: Any, time_limit_s: float) -> bool:
    """Solve a PuLP problem in place, on one thread; whether an optimum is found and proven.

    Raises ModuleNotFoundError where there is no solver.
    """
    import pulp

    with warnings.catch_warnings():  # PuLP 4 will no longer carry CBC; we ask for one below 4
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*CBC.*")
        for name in SOLVERS:
            solver = pulp.getSolver(name, msg=False, timeLimit=time_limit_s, threads=1)
            if solver.available():
                problem.solve(solver)
                # `status` says Optimal at the time limit too
                return bool(problem.sol_status == pulp.LpSolutionOptimal)
    raise ModuleNotFoundError("no solver for integer programs can be loaded: pip install highspy")
