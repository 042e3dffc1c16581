"""Evaluations on ImageNet: full-precision weights, searched configurations."""
