"""The context of a run: config, workdir, log, devices, stop signal."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from rfquant_jax.config import checks
from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.config.path_fields import expand_paths
from rfquant_jax.nn import precision
from rfquant_jax.report.log import RunLog
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.compilation_cache import keep_compiled
from rfquant_jax.runtime.json_files import write_json
from rfquant_jax.runtime.locks import WorkdirLock
from rfquant_jax.runtime.signals import StopSignal
from rfquant_jax.tasks.workdir import COMMAND_FILE, claim


class Context:
    """What a run needs before it builds anything.

    The first context of a process determines the folder of the compilation cache.

    Args:
      config: see `config/schema.py`; validated here.
      workdir: where results go.
      stop: asked between pieces of work whether to stop; by default nothing stops the run.
      arguments: the command line, `launch.py` first, where there is one; for reports.
      log, mesh: those of another run, to share them.

    Raises:
      ConfigError: a field breaks a rule.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path | str,
        stop: StopSignal | None = None,
        arguments: Sequence[str] | None = None,
        *,
        log: RunLog | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ):
        checks.validate(config)
        config = expand_paths(config)
        self.arguments = arguments
        self.config, self.workdir = config, Path(workdir)
        self.stop = stop or StopSignal()
        self.stop.agree = devices.any_process
        if config.deterministic:
            devices.compute_deterministically()
        self._log, self._mesh = log, mesh
        self._cache_remark = keep_compiled(config.compilation_cache)
        self._said: set[str] = set()
        self._lock: WorkdirLock | None = None

    @property
    def compute_type(self) -> DTypeLike:
        """The compute dtype, see `nn.precision`."""
        return precision.compute_type(self.config.precision)

    # Built when first read: they start JAX, which a run of several processes must join first.

    @cached_property
    def log(self) -> RunLog:
        """Messages and metrics."""
        return self._log or RunLog(self.workdir, silent=not devices.is_first_process())

    @cached_property
    @in_field_names()
    def mesh(self) -> jax.sharding.Mesh:
        """The devices.

        Raises:
          ConfigError: there are fewer.
        """
        return self._mesh or devices.make_mesh(self.config.devices)

    def log_by_process(self, message: str) -> None:
        """Logs a message of any process; only process 0 has a log."""
        if devices.is_first_process():
            self.log.info(message)
        else:
            print(f"process {jax.process_index()}: {message}", file=sys.stderr)

    def log_once(self, message: str) -> None:
        """Logs a message once; several tasks may find the same damaged checkpoint."""
        if message not in self._said:
            self._said.add(message)
            self.log.info(message)

    @in_field_names()
    def claim(self) -> None:
        """Claims the workdir for this run until `close`; called first by every task that writes.

        Raises:
          UserError: the folder cannot be written, is in use by another process, or belongs to a run
            with another config.
        """
        written = copy.deepcopy(self.config)
        # So that a run started on GPU does not resume with another dtype elsewhere.
        written.precision = jnp.dtype(self.compute_type).name
        claim(self.workdir, written, self._take_lock)
        if self.arguments and devices.is_first_process():
            write_json(self.workdir / COMMAND_FILE, {"arguments": list(self.arguments)})
        if self._cache_remark:
            self.log_once(f"{self._cache_remark}; see config.compilation_cache")

    def _take_lock(self, path: Path) -> None:
        # The processes of one run share its folder; process 0 holds the lock.
        if self._lock is None and devices.is_first_process():
            self._lock = WorkdirLock(path, self.log.info)

    def close(self) -> None:
        """Closes the log and lets other processes use the workdir."""
        self.log.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
