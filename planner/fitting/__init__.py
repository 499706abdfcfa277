"""Fitting: a few physical factors of a cluster, from the step times of runs (`clusters/adjustment.py`)."""
