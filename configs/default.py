"""The default recipe: ResNet18 on ImageNet with the values of the paper.

`rfquant_jax/config/schema.py` declares every field with default, meaning and range; `--help` prints
them.
"""

from rfquant_jax.config import default_config as get_config

__all__ = ["get_config"]
