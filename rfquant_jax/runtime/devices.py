"""Data parallelism: `jax.shard_map` over a one-axis mesh, under `jax.jit`.

Code inside a `Compiled` function runs per device. Arrays are replicated (parameters), sharded along
the first axis (batches), or hold one copy per device along a leading device axis (BatchNorm
statistics, and gradients before the all-reduce).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rfquant_jax.errors import ArgumentError
from rfquant_jax.runtime.backend import backend

AXIS = "data"
REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(AXIS)


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh over `devices` devices, equally many per process; 0: all devices.

    Raises:
      ArgumentError: not enough devices, or not divisible by the number of processes.
    """
    available, processes = jax.devices(), jax.process_count()
    if not 0 <= devices <= len(available):
        rule = f"must be 0 (all) or at most {len(available)}, the number of devices here"
        raise ArgumentError("devices", devices, rule)
    own = [[d for d in available if d.process_index == p] for p in range(processes)]
    each, left = divmod(devices or len(available), processes)
    if left or any(len(group) < each for group in own):
        found = ", ".join(str(len(group)) for group in own)
        rule = f"must be so many of each of the {processes} processes, which have {found} devices"
        raise ArgumentError("devices", devices, rule)
    # Ordered by process, so that the shard of a process is contiguous in a batch.
    return Mesh(np.asarray([d for group in own for d in group[:each]]), (AXIS,))


# Options of every program that is compiled from now on, see `compute_deterministically`.
_compiler_options: dict[str, bool] = {}


def compute_deterministically() -> None:
    """Makes the GPU computations of every `Compiled` made from now on deterministic.

    An option of the compiler, because XLA_FLAGS have no effect once JAX has started its backends.
    Computations on CPU are deterministic without it.
    """
    _compiler_options["xla_gpu_deterministic_ops"] = True


def is_first_process() -> bool:
    """Whether this is the process that writes logs and results."""
    return jax.process_index() == 0


class Compiled:
    """A per-device function, compiled for all devices of a mesh, that counts its traces.

    Attributes:
      traces: number of traces; more than one for the same shapes is a bug.
    """

    def __init__(self, function: Callable, mesh: Mesh, in_specs, out_specs, donate=()):
        self.traces = 0
        self._mesh, self._in_specs = mesh, in_specs

        def counted(*args):
            self.traces += 1
            return function(*args)

        mapped = jax.shard_map(
            counted, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
        options = dict(_compiler_options)
        self.jitted = jax.jit(mapped, donate_argnums=donate, compiler_options=options)

    def __call__(self, *args):
        return self.jitted(*args)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """The lowered program for arguments of these shapes, to see what XLA makes of it.

        Args:
          args: arrays, or shapes and dtypes alone. Where they are does not matter: the program is
            lowered for the mesh, whose devices need not exist (`backend.compiling_for`).
        """

        def placed(spec, tree):
            sharding = NamedSharding(self._mesh, spec)
            return jax.tree.map(lambda x: _abstract(x, sharding), tree)

        specs = self._in_specs
        abstract = jax.tree.map(placed, specs, args, is_leaf=lambda x: isinstance(x, PartitionSpec))
        return self.jitted.lower(*abstract)


# name -> a compiled function and its arguments, some of them shapes and dtypes alone
Programs = dict[str, tuple[Compiled, tuple]]


def _abstract(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    dtype = x.dtype if hasattr(x, "dtype") else np.result_type(x)
    return jax.ShapeDtypeStruct(np.shape(x), dtype, sharding=sharding)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicates every array of `tree`, equal in every process, to every device."""
    return _put(tree, NamedSharding(mesh, REPLICATED))


def split(tree: Any, mesh: Mesh) -> Any:
    """Shards every array of `tree`, this process's part of a batch, along the first axis."""
    sharding = NamedSharding(mesh, SHARDED)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def spread(tree: Any, mesh: Mesh) -> Any:
    """The same for arrays that every process holds completely."""
    return _put(tree, NamedSharding(mesh, SHARDED))


def per_device(tree: Any, mesh: Mesh) -> Any:
    """One copy per device: adds a leading device axis to every array."""
    # NumPy arrays, because `jnp.broadcast_to` compiles a program for every shape; copies, because
    # the result may be donated.
    copies = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], mesh.size, axis=0), tree)
    return spread(copies, mesh)


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    # `device_put` would compare the values of all processes in every call.
    def put(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def fetch(tree: Any) -> Any:
    """Sharded arrays as complete NumPy arrays, equal in every process; a collective call."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def gather(own: np.ndarray) -> np.ndarray:
    """Concatenates arrays of equal shape over processes; a collective call."""
    if jax.process_count() == 1:
        return own
    return multihost_utils.process_allgather(own, tiled=True)


def in_all_processes(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Converts arrays that every process holds into global arrays.

    Writing them is then shared among processes; in a single process they are returned unchanged.
    """
    if jax.process_count() == 1:
        return arrays
    firsts = {d.process_index: d for d in reversed(jax.devices())}
    mesh = Mesh(np.asarray([firsts[p] for p in sorted(firsts)]), (AXIS,))
    return replicate(arrays, mesh)


def prefer_host_loop() -> bool:
    """Whether a step of several passes should be a loop on the host instead of one program.

    On CPU, XLA does not use its fast convolutions inside a scan (benchmarks/train_step.py). On GPU,
    one program has fewer kernels and moves fewer bytes than the loop, in about the same
    memory; compiled for an H100, not run (benchmarks/gpu_compile.py).
    """
    return backend() == "cpu"


def settle_step(result: Any, mesh: Mesh) -> Any:
    """Waits for a step's result where asynchronous dispatch is unsafe.

    Several CPU devices can deadlock in the all-reduce of the next step.
    """
    unsafe = mesh.size > 1 and backend() == "cpu"
    return jax.block_until_ready(result) if unsafe else result


def settle_pass(result: Any, mesh: Mesh) -> Any:
    """Waits for the result of a pass on a single CPU device, to limit peak memory.

    JAX allocates the temporary memory of a pass when the pass is queued; waiting keeps a second
    pass from being queued. With several devices there is no wait: it would make all devices enter
    the update at the same time. If a process is then lost, its unfinished all-reduce overlaps the
    next one, and Gloo aborts the remaining processes.
    """
    alone = mesh.size == 1 and backend() == "cpu"
    return jax.block_until_ready(result) if alone else result


def barrier(name: str) -> None:
    """Waits until all processes have called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(wish: bool) -> bool:
    """Whether the flag is set in any process; a collective call."""
    return bool(gather(np.asarray([wish])).any())


class Vote:
    """Asynchronous agreement of all processes on flags.

    A call returns the result of an earlier call, so that no process waits for devices that work on
    the current step. Processes that make the same calls get the same results.

    Args:
      delay: number of calls between a vote and its result, with several processes.

    Attributes:
      delay: the delay in use; 0 if there is nothing to wait for.
    """

    def __init__(self, mesh: Mesh, delay: int = 2):
        self._mesh = mesh
        # CPU devices synchronize after every step anyway.
        self.delay = delay if jax.process_count() > 1 and backend() != "cpu" else 0
        self._asked: deque[jax.Array] = deque()
        self._count = Compiled(_maximum, mesh, SHARDED, REPLICATED)

    def __call__(self, *wishes: bool) -> tuple[bool, ...]:
        """For each flag, whether any process had set it `delay` calls ago."""
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
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)


def local_copy(x: jax.Array | np.ndarray) -> jax.Array:
    """A copy of a replicated array on this process's first device alone."""
    return jnp.array(x.addressable_data(0) if isinstance(x, jax.Array) else x, copy=True)


def copied(tree: Any) -> Any:
    """Copies of arrays, for a caller that donates them.

    `jnp.array(copy=True)` compiles a program for every shape, but is the only way for an array that
    spans several processes.
    """

    def copy(x):
        is_here = isinstance(x, jax.Array) and x.is_fully_addressable
        return jax.device_put(x, may_alias=False) if is_here else jnp.array(x, copy=True)

    return jax.tree.map(copy, tree)


def drop_axis(tree: Any) -> Any:
    """Inside a per-device function: removes the leading device axis, of length 1 there."""
    return jax.tree.map(lambda x: x[0], tree)


def add_axis(tree: Any) -> Any:
    """Inside a per-device function: puts the leading device axis back."""
    return jax.tree.map(lambda x: x[None], tree)
