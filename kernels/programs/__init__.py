"""Triton programs; importing one imports Triton."""
