"""What ranks have imported when they are forked: the fork server of harness.py imports this module once.

Its objects are kept apart from what ranks make: to look through them for garbage took a third of a second each time.
"""

# ruff: noqa: F401
import gc

import torch._inductor.compile_fx  # for compiled rows, whatever their backend
import torch.distributed._functional_collectives
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.pipelining
import torch.distributed.tensor

import meshwright.runtime.build
import meshwright.runtime.checkpoint
import meshwright.runtime.optimizer

gc.collect()
gc.freeze()
