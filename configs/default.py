"""The default recipe: ResNet18 on ImageNet with the values of the paper.

`rfquant_jax/config/schema.py` holds every field with its unit and meaning; `--help` prints them.
"""

from rfquant_jax.config import default_config as get_config

__all__ = ["get_config"]
