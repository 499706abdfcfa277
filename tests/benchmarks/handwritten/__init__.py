"""What one writes by hand in plain PyTorch for the same training. Nothing of Meshwright is imported here."""
