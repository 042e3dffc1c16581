"""Converts failures during a run into one-line errors with a remedy."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from rfquant_jax.config.schema import RESUMABLE
from rfquant_jax.config.search_algorithms import ON_PROFILE
from rfquant_jax.errors import Interrupted, RunFailure, UserError, one_line
from rfquant_jax.nn.precision import compute_type
from rfquant_jax.report.log import LOG_FILE, RunLog
from rfquant_jax.runtime.device_memory import Shortage, shortage
from rfquant_jax.tasks.context import Context

# File system errors and remedies.
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EISDIR: "move away what is in its place",
    errno.ENOTDIR: "move away what is in its place",
    errno.EIO: "see to the disk",
}
_INTACT = "checkpoints written before are intact"
_EXHAUSTED = ("resource_exhausted", "out of memory")
_OWN_SECTIONS = ("pretrain", "train", "search")  # tasks with their own batch size


@contextmanager
def explained(run: Context, task: str) -> Iterator[None]:
    """Converts failures of the machine and bugs into one-line errors.

    The traceback is written to the run's log file.

    Raises:
      RunFailure: a file cannot be written, memory is exhausted, or a bug.
    """
    try:
        yield
    except (UserError, Interrupted):
        raise
    except RunFailure as failure:
        _record(failure, str(failure), run.log)
        raise
    except Exception as error:
        line = explain(error, run, task)
        if line is not None:
            _record(error, line, run.log)
            raise RunFailure(line) from error
        raise unexpected(error, task, run.log, run.workdir) from error


def unexpected(error: Exception, doing: str, log: RunLog, workdir: Path) -> RunFailure:
    """The failure to raise for a bug, ours or one of a recipe or network of the user.

    Its traceback goes to the log file, or to the terminal if there is no log file.

    Args:
      doing: the start of the message.
    """
    reason = one_line((str(error).strip().splitlines() or [""])[0])
    line = f"{doing}: {type(error).__name__}: {reason}"
    if _record(error, line, log):
        return RunFailure(f"{line}; the traceback is in {workdir / LOG_FILE}")
    traceback.print_exception(error)
    return RunFailure(line)


def _record(error: Exception, line: str, log: RunLog) -> bool:
    """Writes a traceback to the log file; returns False if it cannot be written."""
    try:
        log.traceback(f"{line}\n{''.join(traceback.format_exception(error))}")
    except OSError:  # the log may be the file that cannot be written
        return False
    return True


def explain(error: Exception, run: Context, task: str) -> str | None:
    """The message for an error, or None if it is not a failure of the machine."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return _about_file(error, run.workdir)
    on_host = isinstance(error, MemoryError)
    text = str(error).lower()
    if on_host or (isinstance(error, JaxRuntimeError) and any(w in text for w in _EXHAUSTED)):
        found = None if on_host else shortage(error, run.mesh.local_devices)
        return _about_memory("the host" if on_host else "a device", found, run, task)
    return None


def _about_file(error: OSError, workdir: Path) -> str:
    path = Path(str(error.filename or workdir))
    inside = path.absolute().is_relative_to(workdir.absolute())
    verb = "written" if inside else "read or written"
    return (
        f"{path}: could not be {verb} ({error.strerror}); {_INTACT}: {_REMEDIES[error.errno]} and "
        "start the same command again"
    )


def _about_memory(where: str, found: Shortage | None, run: Context, task: str) -> str:
    now, proposals = _sizes(run.config, task, run.mesh.size, found.factor if found else 2)
    if compute_type(run.config.precision) != jnp.bfloat16:
        proposals.append(("precision", "bfloat16", ""))
    if found:
        asked, free = found.asked / 1e9, found.free / 1e9
        now += f" (a program asked for {asked:.1f} GB, {free:.1f} GB were free)"
    head = f"{task}: out of memory on {where} with {now}; {_INTACT}: "
    if not proposals:
        return f"{head}no smaller setting is left; use a smaller network or more devices"
    tries = [f"--config.{name}={value}{why}" for name, value, why in proposals]
    text = f"{head}try {' or '.join(tries)}"
    if any(name not in RESUMABLE for name, *_ in proposals):
        text += ", which makes another run: use a separate --workdir"
        if task != "pretrain":
            text += f", and --config.checkpoint={run.workdir} to reuse trained networks"
    return text


def _sizes(
    config: ConfigDict, task: str, devices: int, factor: int
) -> tuple[str, list[tuple[str, int, str]]]:
    """The setting that determines a task's memory, in words, and smaller settings to try.

    Args:
      factor: by how much a batch should shrink at least.

    Returns:
      proposals, each a field, a value and its consequence.
    """
    section = task if task in _OWN_SECTIONS else "evaluate"
    size = config[section].batch_size
    now = f"config.{section}.batch_size={size}"
    smaller = [(f"{section}.batch_size", max(size // factor, 1), "")] if size > 1 else []
    if task == "search" and config.search.algorithm != ON_PROFILE:
        starts = config.search.starts
        now += f" and config.search.starts={starts}"
        fewer = [("search.starts", starts // 2, " (slower, with the same result)")]
        return now, (fewer if starts > 1 else []) + smaller
    if section == "evaluate":
        return now, smaller
    parts = config[section].get("accumulate", 1)
    if "accumulate" in config[section]:
        now += f", config.{section}.accumulate={parts}"
    now += f" and {devices} device{'s' * (devices > 1)}"
    can_divide = "accumulate" in config[section]
    more = _more_parts(size, devices, parts, factor) if can_divide else None
    if more is not None:
        return now, [(f"{section}.accumulate", more, " (as many images an update as before)")]
    step = devices * parts
    smaller_size = size // factor // step * step
    return now, [(f"{section}.batch_size", smaller_size, "")] if smaller_size else []


def _more_parts(size: int, devices: int, parts: int, factor: int) -> int | None:
    """`factor` times as many micro-batches or more, of one size on every device, if possible."""
    most = size // devices
    return next((n for n in range(factor * parts, most + 1) if size % (devices * n) == 0), None)
