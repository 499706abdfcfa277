"""Launchers of Triton programs as PyTorch operators; importing one imports Triton."""
