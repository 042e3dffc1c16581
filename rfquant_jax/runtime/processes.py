"""Multi-process runs: start-up and shutdown after failures.

Communication between processes is in `devices`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import jax
import numpy as np

from rfquant_jax.errors import ArgumentError, Interrupted, RunFailure, UserError
from rfquant_jax.runtime import devices, native_errors

# Environment variables of batch systems supported by JAX: number of processes, total and per host.
_COUNTS = {
    "SLURM_PROCID": ("SLURM_NTASKS", "SLURM_STEP_TASKS_PER_NODE"),
    "OMPI_COMM_WORLD_RANK": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}
# Messages of JAX's libraries about a process that does not respond.
_LOST_SIGNS = ("Gloo", "NCCL", "heartbeat", "Barrier", "barrier", "Connection closed by peer")
# Seconds that process 0 waits before it exits, so that other processes can report the same failure;
# its exit terminates them.
_LAST_WORDS = 5  # seconds


class ProcessSettings(Protocol):
    """How the processes of a run find each other; the section `distributed` of a config.

    Attributes:
      detect: whether to join the cluster that JAX detects, such as SLURM or Open MPI.
      coordinator: HOST:PORT of process 0; "": none is given.
      processes: number of processes, with a coordinator.
      process: index of this process, with a coordinator.
      start_timeout_seconds: time for all processes to connect.
      heartbeat_timeout_seconds: time without a heartbeat after which a process counts as lost.
    """

    detect: bool
    coordinator: str
    processes: int
    process: int
    start_timeout_seconds: int
    heartbeat_timeout_seconds: int


@contextmanager
def processes(settings: ProcessSettings) -> Iterator[None]:
    """Context of a multi-process run: connects the processes, and terminates all of them on
    failure.

    Raises:
      ArgumentError: not all processes connected.
      UserError: the connection between the processes was lost.
    """
    start(settings)
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        if _may_be_a_loss(error):
            _await_verdict(error, settings.heartbeat_timeout_seconds)
        if jax.process_count() > 1 and not isinstance(error, RunFailure):
            traceback.print_exc()
            leave(1)
        raise


def start(settings: ProcessSettings) -> None:
    """Connects the processes of this run, if there are several; call it before any computation.

    Raises:
      ArgumentError: the coordinator cannot be reached, or not all processes connected in time.
    """
    if settings.coordinator:
        where = {
            "coordinator_address": settings.coordinator,
            "num_processes": settings.processes,
            "process_id": settings.process,
            "local_device_ids": [],  # none are hidden
        }
        if settings.processes > 1:
            if settings.process == 0:
                _check_port(settings.coordinator)
            _join(where, settings, certain=True)
    elif settings.detect and (count := _detected_count()) != 1:
        where = {"local_device_ids": [] if _has_host_to_itself() else None}
        _join(where, settings, certain=count is not None)


def _join(where: dict, settings: ProcessSettings, *, certain: bool) -> None:
    """Starts `jax.distributed`, and the filter of its output.

    Args:
      where: arguments that identify this process.
      certain: whether there are known to be several processes; otherwise JAX detects it.
    """
    # JAX's signal handler would replace ours, which stops all processes after the same step.
    jax.config.update("jax_enable_preemption_service", False)
    timeout = settings.heartbeat_timeout_seconds
    filtered = native_errors.Filter(timeout) if certain else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing clusters
            jax.distributed.initialize(
                **where,
                initialization_timeout=settings.start_timeout_seconds,
                heartbeat_timeout_seconds=timeout,
            )
    except (ValueError, RuntimeError) as error:
        if filtered is not None:
            filtered.stop()
        if not settings.coordinator and isinstance(error, ValueError):
            return  # no cluster or job step: a single process
        reason = (str(error).splitlines() or [""])[0]
        rule = f"the processes of this run did not connect ({reason})"
        raise ArgumentError("coordinator", settings.coordinator, rule) from error
    filtered = filtered or native_errors.Filter(timeout)
    filtered.name_peers(_host_names())


def _check_port(coordinator: str) -> None:
    """Checks that the coordinator's port is free.

    Raises:
      ArgumentError: the port is in use, which would crash JAX.
    """
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", int(coordinator.rpartition(":")[2])))
        except OSError as error:
            rule = f"its port cannot be used here ({error.strerror}): is another run using it?"
            raise ArgumentError("coordinator", coordinator, rule) from error


def _detected_count() -> int | None:
    """Number of processes of the batch system's job step; None if unknown."""
    for mark, (total, _) in _COUNTS.items():
        if mark in os.environ and os.environ.get(total, "").isdecimal():
            return int(os.environ[total])
    return None


def _has_host_to_itself() -> bool:
    """Whether all visible devices belong to this process; otherwise JAX assigns one of them."""
    if len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")) == 1:
        return True  # assigned by the batch system
    for mark, (_, here) in _COUNTS.items():
        if mark in os.environ:
            return os.environ.get(here, "").partition("(")[0] == "1"
    return False


def _host_names(longest: int = 64) -> list[str]:
    name = socket.gethostname().encode()[:longest].ljust(longest)
    rows = devices.gather(np.frombuffer(name, np.uint8)[None])
    return [bytes(row).decode(errors="replace").strip() for row in rows]


def _may_be_a_loss(error: BaseException | None) -> bool:
    """Whether an error or one of its causes may mean that another process was lost."""
    if jax.process_count() == 1:
        return False
    while error is not None:
        if any(sign in str(error) for sign in _LOST_SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _await_verdict(error: Exception, timeout: float) -> None:
    """Waits until JAX detects the lost process and terminates this one; see `native_errors`.

    Raises:
      UserError: nothing happened within the timeout, so there was another cause.
    """
    time.sleep(2 * timeout + 5)
    reason = (str(error).splitlines() or [""])[0]
    raise UserError(f"the processes of this run cannot reach each other: {reason}") from error


def leave(code: int) -> None:
    """Exits this process immediately after a failure.

    A normal exit would wait for threads of libraries and for other processes, which wait for this
    one in the middle of their work. After an immediate exit they notice the failure. With several
    processes, process 0 exits a few seconds later.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    if code == 1 or (several and code not in (0, 75)):
        sys.stdout.flush()
        sys.stderr.flush()
        if several and jax.process_index() == 0:
            time.sleep(_LAST_WORDS)
        os._exit(code)
