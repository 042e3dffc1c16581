"""Recipes. `default.py` has every field there is; the others override it and nothing else."""
