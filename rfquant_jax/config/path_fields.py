"""The fields and flags that hold paths: `~` and environment variables in them are replaced.

Shells expand `~` only at the start of a word, so not in `--config.checkpoint=~/runs/mine`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from rfquant_jax.config.fields import flat
from rfquant_jax.config.schema import FIELDS
from rfquant_jax.runtime.paths import expanded

PATH_FIELDS = tuple(name for name, field in FIELDS.items() if field.path)
PATH_FLAGS = ("config", "workdir")


def expand_paths(config: ConfigDict) -> ConfigDict:
    """The config with expanded paths: itself if there is nothing to expand, else a copy.

    Args:
      config: a config whose fields have the right types.
    """
    given = {name: value for name, value in flat(config) if name in PATH_FIELDS}
    changed = {n: expanded(v) for n, v in given.items() if expanded(v) != v}
    if not changed:
        return config
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(changed)
    return config


def expand_flags(arguments: Sequence[str]) -> list[str]:
    """A command line with expanded paths in its flags `--config` and `--workdir`."""
    names = "|".join(PATH_FLAGS)
    found, is_value = [], False
    for argument in arguments:
        match = re.fullmatch(rf"(--?(?:{names})=)(.*)", argument, re.DOTALL)
        if match:
            argument = match[1] + expanded(match[2])
        elif is_value:
            argument = expanded(argument)
        is_value = re.fullmatch(rf"--?(?:{names})", argument) is not None
        found.append(argument)
    return found
