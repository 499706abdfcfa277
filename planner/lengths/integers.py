"""Integers: whole numbers of 64 bits, as NumPy has them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
