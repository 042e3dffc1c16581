"""One run in several processes: joining them, and leaving when something went wrong.

Everything that travels between processes goes through `parallel`; this is about being there.
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

import jax
import numpy as np
from ml_collections import ConfigDict

from rfquant_jax.errors import ConfigError, Interrupted, RunFailure, UserError
from rfquant_jax.runtime import devices, native_errors

# Of the batch systems whose environment JAX reads: how many processes there are, and on this host.
_COUNTS = {
    "SLURM_PROCID": ("SLURM_NTASKS", "SLURM_STEP_TASKS_PER_NODE"),
    "OMPI_COMM_WORLD_RANK": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}
# What the libraries beneath JAX say when a process does not answer any more.
_LOST_SIGNS = ("Gloo", "NCCL", "heartbeat", "Barrier", "barrier", "Connection closed by peer")
# Process 0 takes all others along: those that fail for the same reason can say so before.
_LAST_WORDS = 5  # seconds


@contextmanager
def processes(config: ConfigDict) -> Iterator[None]:
    """Joins the processes of this run, if there are several, and sees to it that none is left over.

    Args:
      config: the config's section `distributed`.

    Raises:
      ConfigError: not all processes came together.
      UserError: the processes cannot reach each other any more.
    """
    start(config)
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        if _may_be_a_loss(error):
            _await_verdict(error, config.heartbeat_timeout_seconds)
        if jax.process_count() > 1 and not isinstance(error, RunFailure):
            traceback.print_exc()
            leave(1)
        raise


def start(config: ConfigDict) -> None:
    """Joins the processes of this run, if there are several; before anything is computed.

    Args:
      config: the config's section `distributed`.

    Raises:
      ConfigError: the coordinator cannot be reached, or not all processes came in time.
    """
    if config.coordinator:
        where = {
            "coordinator_address": config.coordinator,
            "num_processes": config.processes,
            "process_id": config.process,
            "local_device_ids": [],  # none are hidden
        }
        if config.processes > 1:
            if config.process == 0:
                _check_port(config.coordinator)
            _join(where, config, certain=True)
    elif config.detect and (count := _detected_count()) != 1:
        where = {"local_device_ids": [] if _has_host_to_itself() else None}
        _join(where, config, certain=count is not None)


def _join(where: dict, config: ConfigDict, *, certain: bool) -> None:
    """Starts `jax.distributed`, and the program between its libraries and the terminal.

    Args:
      where: arguments that say who and where this process is.
      certain: whether there are several processes, or JAX is yet to find out.
    """
    # Our own handler stops all processes after the same step; JAX's would take its place.
    jax.config.update("jax_enable_preemption_service", False)
    timeout = config.heartbeat_timeout_seconds
    filtered = native_errors.Filter(timeout) if certain else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about clusters that are not there
            jax.distributed.initialize(
                **where,
                initialization_timeout=config.start_timeout_seconds,
                heartbeat_timeout_seconds=timeout,
            )
    except (ValueError, RuntimeError) as error:
        if filtered is not None:
            filtered.stop()
        if not config.coordinator and isinstance(error, ValueError):
            return  # there is no cluster, or no job step: this process is all there is
        reason = (str(error).splitlines() or [""])[0]
        rule = f"the processes of this run did not connect ({reason})"
        raise ConfigError("distributed.coordinator", config.coordinator, rule) from error
    filtered = filtered or native_errors.Filter(timeout)
    filtered.name_peers(_host_names())


def _check_port(coordinator: str) -> None:
    """Makes sure that nobody listens where the others will look for this process.

    Raises:
      ConfigError: somebody does; JAX would crash.
    """
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", int(coordinator.rpartition(":")[2])))
        except OSError as error:
            rule = f"its port cannot be used here ({error.strerror}): is another run using it?"
            raise ConfigError("distributed.coordinator", coordinator, rule) from error


def _detected_count() -> int | None:
    """Processes of the batch system's job step; None where it does not say."""
    for mark, (total, _) in _COUNTS.items():
        if mark in os.environ and os.environ.get(total, "").isdecimal():
            return int(os.environ[total])
    return None


def _has_host_to_itself() -> bool:
    """Whether all devices that this process sees are its own; else JAX gives it one of them."""
    if len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")) == 1:
        return True  # the batch system has given it one
    for mark, (_, here) in _COUNTS.items():
        if mark in os.environ:
            return os.environ.get(here, "").partition("(")[0] == "1"
    return False


def _host_names(longest: int = 64) -> list[str]:
    name = socket.gethostname().encode()[:longest].ljust(longest)
    rows = devices.gather(np.frombuffer(name, np.uint8)[None])
    return [bytes(row).decode(errors="replace").strip() for row in rows]


def _may_be_a_loss(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, may mean that another process is gone."""
    if jax.process_count() == 1:
        return False
    while error is not None:
        if any(sign in str(error) for sign in _LOST_SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _await_verdict(error: Exception, timeout: float) -> None:
    """Lets JAX find out which process is gone, and end this one; see `native_errors`.

    Raises:
      UserError: nothing happened for as long as that takes: it was something else.
    """
    time.sleep(2 * timeout + 5)
    reason = (str(error).splitlines() or [""])[0]
    raise UserError(f"the processes of this run cannot reach each other: {reason}") from error


def leave(code: int) -> None:
    """Ends this process at once after a failure, whoever waits for what.

    On a usual way out the threads of libraries would wait for what failed, and one of several
    processes for the others, which wait for it in the middle of their work: now they notice. Of
    several, process 0 ends a few seconds later than it could.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    if code == 1 or (several and code not in (0, 75)):
        sys.stdout.flush()
        sys.stderr.flush()
        if several and jax.process_index() == 0:
            time.sleep(_LAST_WORDS)
        os._exit(code)
