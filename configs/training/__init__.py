"""Coupled training on ImageNet, one recipe a published run."""
