"""The one map over devices: `jax.shard_map` over a one-axis mesh, under `jax.jit`.

Code inside a `Compiled` function runs per device. Arrays are either replicated (parameters), split
along their first axis (batches), or hold one copy a device along a leading device axis (BatchNorm
statistics and gradients between two all-reduces).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rfquant_jax.errors import ConfigError

AXIS = "data"
REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(AXIS)


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh over `devices` devices, as many of each process, or over all of them for 0.

    Raises:
      ConfigError: there are fewer, or the processes cannot have equal shares.
    """
    available, processes = jax.devices(), jax.process_count()
    if not 0 <= devices <= len(available):
        rule = f"must be 0 (all) or at most {len(available)}, the number of devices here"
        raise ConfigError("devices", devices, rule)
    own = [[d for d in available if d.process_index == p] for p in range(processes)]
    each, left = divmod(devices or len(available), processes)
    if left or any(len(group) < each for group in own):
        found = ", ".join(str(len(group)) for group in own)
        rule = f"must be so many of each of the {processes} processes, which have {found} devices"
        raise ConfigError("devices", devices, rule)
    # Process by process: the places of one are neighbours, and so are its images in a batch.
    return Mesh(np.asarray([d for group in own for d in group[:each]]), (AXIS,))


def compute_deterministically() -> None:
    """Lets GPUs repeat a computation bit for bit; before anything is computed."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"


def is_first_process() -> bool:
    """Whether this process is the one that writes logs and results."""
    return jax.process_index() == 0


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
    """Puts a copy of every array of `tree`, the same in every process, on every device."""
    return _put(tree, NamedSharding(mesh, REPLICATED))


def split(tree: Any, mesh: Mesh) -> Any:
    """Spreads every array of `tree`, this process's part of a batch, over its first axis."""
    sharding = NamedSharding(mesh, SHARDED)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def spread(tree: Any, mesh: Mesh) -> Any:
    """The same for arrays that every process has as a whole."""
    return _put(tree, NamedSharding(mesh, SHARDED))


def per_device(tree: Any, mesh: Mesh) -> Any:
    """Gives each device a copy of its own: adds a leading device axis to every array."""
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (mesh.size, *jnp.shape(x))), tree)
    return spread(copies, mesh)


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    # `device_put` would compare the processes' values each time.
    def put(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def fetch(tree: Any) -> Any:
    """Whole arrays, wherever their parts are, as NumPy arrays; the same in every process.

    Every process has to call it.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def gather(own: np.ndarray) -> np.ndarray:
    """The processes' arrays of one shape, one behind the other; every process has to call it."""
    if jax.process_count() == 1:
        return own
    return multihost_utils.process_allgather(own, tiled=True)


def in_all_processes(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arrays that every process has as ones of all processes together.

    Whoever writes them can then share the work; of one process alone they stay what they are.
    """
    if jax.process_count() == 1:
        return arrays
    firsts = {d.process_index: d for d in reversed(jax.devices())}
    mesh = Mesh(np.asarray([firsts[p] for p in sorted(firsts)]), (AXIS,))
    return replicate(arrays, mesh)


def barrier(name: str) -> None:
    """Returns once every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(wish: bool) -> bool:
    """Whether any process wishes it: the same answer everywhere; every process has to call it."""
    return bool(gather(np.asarray([wish])).any())


class Vote:
    """Wishes that are granted in all processes at once, where no time is lost to asking.

    The answer is to what was asked some calls ago: nobody waits for devices that work on the
    present step. Processes that make the same calls get the same answers.

    Args:
      delay: calls between a wish and its answer, where there are several processes.

    Attributes:
      delay: the one in use; 0 where nobody need be waited for.
    """

    def __init__(self, mesh: Mesh, delay: int = 2):
        self._mesh = mesh
        # Processor devices wait for each other after every step in any case.
        self.delay = delay if jax.process_count() > 1 and jax.default_backend() != "cpu" else 0
        self._asked: deque[jax.Array] = deque()
        self._count = Compiled(_maximum, mesh, SHARDED, REPLICATED)

    def __call__(self, *wishes: bool) -> tuple[bool, ...]:
        """Whether any process had each of these wishes."""
        if jax.process_count() == 1:
            return wishes
        own = np.tile(np.asarray(wishes, np.int32), (self._mesh.local_mesh.size, 1))
        self._asked.append(self._count(split(own, self._mesh)))
        if len(self._asked) <= self.delay:
            return (False,) * len(wishes)
        return tuple(bool(answer) for answer in np.asarray(self._asked.popleft()))


def _maximum(wishes: jax.Array) -> jax.Array:
    return jax.lax.pmax(wishes[0], AXIS)


def first_copy(tree: Any) -> Any:
    """The first device's copy of arrays with a leading device axis, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data[0]), tree)


def drop_axis(tree: Any) -> Any:
    """Inside a per-device function: removes the leading device axis, of length 1 there."""
    return jax.tree.map(lambda x: x[0], tree)


def add_axis(tree: Any) -> Any:
    """Inside a per-device function: puts the leading device axis back."""
    return jax.tree.map(lambda x: x[None], tree)
