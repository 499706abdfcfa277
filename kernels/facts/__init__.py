"""Declarations of kernels, without torch."""
