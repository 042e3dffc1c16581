"""Searches for budgets with the networks of `configs/training`."""
