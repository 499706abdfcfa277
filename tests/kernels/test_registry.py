"""The registry: readable without torch, and of kernels that exist."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meshwright.kernels import switch
from meshwright.kernels.kernel import Size, find
from meshwright.kernels.registry import KERNELS, kernel
from meshwright.kernels.table import table


def test_declarations_need_neither_torch_nor_triton() -> None:
    code = (
        "import sys; from meshwright.kernels.registry import KERNELS; "
        "[k.forward(s, 'bf16').moved_bytes for k in KERNELS.values() for s in k.typical]; "
        "sys.exit(bool({'torch', 'triton', 'numpy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.mark.parametrize("name", KERNELS)
def test_references_and_examples_exist(name: str) -> None:
    assert callable(find(KERNELS[name].reference))
    assert callable(find(KERNELS[name].example))


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match="no kernel 'merg'; there are merge"):
        kernel("merg")


def test_what_a_size_may_be() -> None:
    assert Size(2, 8, 2).problem(4) is None
    assert Size(2, 8, 2).problem(10) == "from 2 to 8"
    assert Size(1).problem(0) == "from 1 on"
    assert Size(2, 8, 2).problem(5) == "a multiple of 2"


def test_the_switch() -> None:
    x = torch.zeros(2)
    assert switch.chosen_kernels() == "auto"
    with switch.kernels("reference"):
        assert switch.chosen_kernels() == "reference"
        assert switch.described() == "reference"
    assert switch.chosen_kernels() == "auto"
    with pytest.raises(ValueError, match="kernels is 'fast', expected auto or reference"):
        switch.use_kernels("fast")  # type: ignore[arg-type]
    assert not switch.runs_fast("merge", x, batch=1, heads=1, rows=1, width=1)


def test_auto_runs_what_a_kernel_takes_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "INTERPRETED", True)
    monkeypatch.setattr(switch, "HAS_TRITON", True)
    sizes = {"batch": 1, "heads": 1, "rows": 1, "width": 64}
    assert switch.runs_fast("merge", torch.zeros(2), **sizes)
    assert not switch.runs_fast("merge", torch.zeros(2, dtype=torch.float64), **sizes)
    assert not switch.runs_fast("merge", torch.zeros(2), **{**sizes, "width": 4096})
    with switch.kernels("reference"):
        assert not switch.runs_fast("merge", torch.zeros(2), **sizes)
    monkeypatch.setattr(switch, "HAS_TRITON", False)
    assert not switch.runs_fast("merge", torch.zeros(2), **sizes)


def test_the_table_of_the_documentation_is_that_of_the_declarations() -> None:
    assert table() in (Path(__file__).parents[2] / "docs/kernels.md").read_text()
