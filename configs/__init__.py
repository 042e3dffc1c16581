"""Recipes: `default.py` has the default of every field, the others override some of them."""
