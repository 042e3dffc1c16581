"""The forms in which public functions accept a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from rfquant_jax.errors import UserError, one_line
from rfquant_jax.quant.space import Space


class HasConfiguration(Protocol):
    """Anything with a configuration int32[L, 2], such as a result of `search`."""

    @property
    def configuration(self) -> np.ndarray: ...


# "w4a4", the path of a JSON file, {layer: (weight bits, activation bits)}, int32[L, 2], a result.
Configuration = str | Mapping[str, Sequence[int]] | ArrayLike | HasConfiguration


def as_configuration(space: Space, given: Configuration) -> np.ndarray:
    """Converts a configuration in any accepted form to int32[L, 2].

    Args:
      space: the configurations of the network.
      given: "w4a4" or the path of a JSON file; {layer name: (weight bits, activation bits)};
        int[L, 2]; or an object with an attribute `configuration`.

    Raises:
      UserError: it is not a configuration of this network.
    """
    if isinstance(given, str):
        return space.parse(given)
    if isinstance(given, Mapping):
        layers = given if "layers" in given else {"layers": given}
        return space.from_json(layers)
    rows = np.asarray(getattr(given, "configuration", given))
    if rows.shape != (len(space), 2) or not np.issubdtype(rows.dtype, np.integer):
        raise UserError(
            f"configuration: must be integers of shape ({len(space)}, 2), a weight and an "
            f"activation bit-width for each searched layer, not {one_line(rows.dtype)} of shape "
            f"{rows.shape}"
        )
    return space.from_json({"layers": dict(zip(space.names, rows.tolist(), strict=True))})
