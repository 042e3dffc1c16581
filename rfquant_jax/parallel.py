"""The one map over devices: `jax.shard_map` over a one-axis mesh, under `jax.jit`.

Code inside a `Compiled` function runs per device. Arrays are either replicated (parameters), split
along their first axis (batches), or hold one copy a device along a leading device axis (BatchNorm
statistics and gradients between two all-reduces).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rfquant_jax.errors import ConfigError

AXIS = "data"
REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(AXIS)


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh over the first `devices` devices, or all of them for 0.

    Raises:
      ConfigError: there are fewer.
    """
    available = jax.devices()
    if not 0 <= devices <= len(available):
        rule = f"must be 0 (all) or at most {len(available)}, the number of devices here"
        raise ConfigError("devices", devices, rule)
    return Mesh(np.asarray(available[: devices or len(available)]), (AXIS,))


class Compiled:
    """A per-device function, compiled for all devices of a mesh, that counts its own traces.

    Attributes:
      traces: how many times it was traced; more than once for the same shapes is a bug.
    """

    def __init__(self, function: Callable, mesh: Mesh, in_specs, out_specs, donate=()):
        self.traces = 0

        def counted(*args):
            self.traces += 1
            return function(*args)

        mapped = jax.shard_map(
            counted, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
        self.jitted = jax.jit(mapped, donate_argnums=donate)

    def __call__(self, *args):
        return self.jitted(*args)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of every array of `tree` on every device."""
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def split(tree: Any, mesh: Mesh) -> Any:
    """Spreads every array of `tree`, this process's part of a batch, over its first axis."""
    sharding = NamedSharding(mesh, SHARDED)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def per_device(tree: Any, mesh: Mesh) -> Any:
    """Gives each device a copy of its own: adds a leading device axis to every array."""
    sharding = NamedSharding(mesh, SHARDED)

    def spread(x):
        return jax.device_put(jnp.broadcast_to(x, (mesh.size, *jnp.shape(x))), sharding)

    return jax.tree.map(spread, tree)


def first_copy(tree: Any) -> Any:
    """The first device's copy of arrays with a leading device axis, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data[0]), tree)


def drop_axis(tree: Any) -> Any:
    """Inside a per-device function: removes the leading device axis, of length 1 there."""
    return jax.tree.map(lambda x: x[0], tree)


def add_axis(tree: Any) -> Any:
    """Inside a per-device function: puts the leading device axis back."""
    return jax.tree.map(lambda x: x[None], tree)
