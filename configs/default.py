"""The default recipe: ResNet18 on ImageNet with the values of the paper.

`python launch.py --config=configs/default.py --help` prints every field with value, meaning and
range; the files in `rfquant_jax/config/sections/` declare them.
"""

from rfquant_jax.config import default_config as get_config

__all__ = ["get_config"]
