"""Recipes and their fields: `default_config` is where every recipe starts."""

from rfquant_jax.config.schema import default_config

__all__ = ["default_config"]
