"""Every field at its default: ResNet18 on ImageNet, trained with the values of the paper.

`python launch.py --config=configs/default.py --help` prints every field with value, meaning and
range; the files in `rfquant_jax/config/sections/` declare them.
Not the paper's: the search by trust regions (its greedy search: `--config.search.algorithm=paper`)
and the 90 epochs of full-precision training before.
"""

from rfquant_jax.config import default_config as get_config

__all__ = ["get_config"]
