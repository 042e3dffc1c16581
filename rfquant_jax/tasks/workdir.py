"""The folder of a run's results, and the check that it belongs to this run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from rfquant_jax.config.checks import to_plain
from rfquant_jax.config.fields import flat
from rfquant_jax.config.schema import RESUMABLE
from rfquant_jax.errors import UserError, listed
from rfquant_jax.runtime.json_files import read_json, write_json

CONFIG_FILE, RESULTS_FILE, TRACE_FILE = "config.json", "results.json", "trace.jsonl"
COMMAND_FILE = "command.json"
CONFIRMED_FILE, LOCK_FILE = "confirmed.jsonl", "lock"
PROFILE_FILE, SNAPSHOT_FILE, SURROGATE_FILE = "profile.jsonl", "snapshot.json", "surrogate.json"
SEARCH_FOLDER, EVALUATION_FOLDER = "search", "evaluations"
FRONTIER_FILE, SENSITIVITY_FILE = "frontier.json", "sensitivity.json"
PREDICTIONS_FILE, STATISTICS_FOLDER = "predictions.csv", "statistics"
EXPORT_FOLDER, EXPORT_FILE = "export", "export.json"


def claim(workdir: Path, config: ConfigDict, lock: Callable[[Path], object] | None = None) -> None:
    """Claims `workdir`: writes the resolved config, or compares it with the existing one.

    Args:
      lock: called with the path of the lock file before anything is written, so that only one of
        two simultaneous runs gets the folder.

    Raises:
      UserError: the folder cannot be written or belongs to a run with another config; or an error
        of `lock`.
    """
    wanted = to_plain(config)
    path = workdir / CONFIG_FILE
    if os.path.exists(path):
        _compare(read_json(path), wanted, workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if lock is not None:
            lock(workdir / LOCK_FILE)
        if os.path.exists(path):
            _compare(read_json(path), wanted, workdir)  # it may have been written in the meantime
        else:
            write_json(path, wanted)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error


def _compare(found: object, wanted: Mapping, workdir: Path) -> None:
    old = dict(flat(found)) if isinstance(found, dict) else {}
    new = dict(flat(wanted))
    differing = [
        f"config.{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if name not in RESUMABLE and old.get(name) != new.get(name)
    ]
    if differing:
        raise UserError(
            f"--workdir={workdir} belongs to another run: {listed(differing, 3, '; ')}; "
            "use a separate --workdir for this run"
        )
