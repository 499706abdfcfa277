"""`place` of the package is the function, in whichever order modules are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("first", ["", "import meshwright.planner.experts.place", "import meshwright.planner.search"])
def test_place_is_the_call(first: str) -> None:
    code = f"{first}\nfrom meshwright.planner.experts import place\nfrom meshwright.planner import experts\n"
    code += "from meshwright.planner.experts.place import measure\nassert callable(place) and experts.place is place"
    subprocess.run([sys.executable, "-c", code], check=True)
