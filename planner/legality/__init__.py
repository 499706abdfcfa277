"""What makes a configuration legal: one table of rules, and one of what the built-in runtime cannot run yet.

Every rule looks at the shape of a configuration (degrees, batch, schedule), never at its price, and answers with a
Problem whose `fix` is the nearest legal value. Rules stand in one file a subject, each with the table of its subject at
the end; `table` joins them.
"""

from .dispatch import expert_problems as expert_problems
from .dispatch import placement_problems as placement_problems
from .rule import Rule as Rule
from .rule import nearest_divisor as nearest_divisor
from .table import RULES as RULES
from .table import RUNTIME_RULES as RUNTIME_RULES
from .table import is_legal as is_legal
from .table import problems as problems
from .table import runtime_problems as runtime_problems
