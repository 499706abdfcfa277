"""The parity table: every way to run a plan beside one process, in rows that anyone can read.

dimensions/   one file a dimension of parallelism: its values, which enter products, and rows of their own
products.py   rows that cover every legal pair of values
row.py        a row: a model and the options of its plan
ranks.py      what the ranks do: train 20 steps beside the reference, and one run for memory
outcome.py    what a row has shown, and the bars that it must hold
memory.py     measured and predicted peak
document.py   docs/parity.md
"""
