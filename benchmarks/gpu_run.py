"""Everything to measure on a GPU, in at most 15 minutes on one.

    python -m benchmarks.gpu_run --folder=runs/gpu

Runs the benchmarks of gpu_parts.py one after the other, most important first, each in a process of
its own. A part prints when it ends, and its numbers are added to gpu_run.json in the folder. A part
that fails is reported in one line, the next one starts, and the exit code is 1 at the end.
Benchmarks that need a package which is not installed are skipped by name.

--small runs tiny sizes, to try the script on a CPU:

    python -m benchmarks.gpu_run --small --parts=idle,evaluate --networks=cifar_resnet20
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import app, flags

from benchmarks.flag_values import check
from benchmarks.gpu_parts import SIZES, Command, parts
from rfquant_jax.runtime.json_files import write_json

_PARTS = flags.DEFINE_list("parts", [], "to run; empty: all")
_NETWORKS = flags.DEFINE_list("networks", list(SIZES), "to measure")
_FOLDER = flags.DEFINE_string("folder", "runs/gpu", "folder of the results")
_MINUTES = flags.DEFINE_float("minutes", 15.0, "time for all parts", lower_bound=0.1)
_SMALL = flags.DEFINE_bool("small", False, "tiny sizes, for a CPU")

ROOT = Path(__file__).resolve().parents[1]


def main(_: list[str]) -> None:
    folder = Path(_FOLDER.value).absolute()
    check(_NETWORKS, tuple(SIZES))
    known = parts(folder, small=_SMALL.value, chosen=_NETWORKS.value)
    check(_PARTS, tuple(known))
    chosen = {name: known[name] for name in known if name in (_PARTS.value or known)}
    folder.mkdir(parents=True, exist_ok=True)
    failed = run_parts(chosen, folder, time.monotonic() + 60 * _MINUTES.value)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run_parts(chosen: Mapping[str, Sequence[Command]], folder: Path, until: float) -> list[str]:
    """Runs parts until a time of `time.monotonic`; returns the names of those that failed.

    After every part writes {"parts": {name: [result of each command]}, ...} to folder/gpu_run.json.
    """
    results: dict[str, list[dict]] = {}
    failed = []
    for name, commands in chosen.items():
        start = time.monotonic()
        results[name] = [run_command(command, folder, until) for command in commands]
        print(f"== {name}, {time.monotonic() - start:.0f} s", flush=True)
        for result in results[name]:
            print(shown(result), flush=True)
        if any(result["outcome"] == "failed" for result in results[name]):
            failed.append(name)
        content = {"parts": results, "deterministic_over_default": cost_of_determinism(results)}
        write_json(folder / "gpu_run.json", content)
    for step, ratio in cost_of_determinism(results).items():
        print(f"deterministic over default time, {step}: {ratio:.2f}")
    return failed


def cost_of_determinism(results: Mapping[str, Sequence[dict]]) -> dict[str, float]:
    """For each step that was timed both ways, the deterministic time over the default one."""

    def medians(part: str) -> dict[str, float]:
        """The first time of every step of our own."""
        found: dict[str, float] = {}
        for numbers in (result.get("numbers") for result in results.get(part, ())):
            for row in numbers["rows"] if numbers else ():
                found.setdefault(f"{numbers['asked']['network']} {row['step']}", row["median_s"])
        return found

    default, deterministic = medians("train_step"), medians("deterministic")
    return {name: s / default[name] for name, s in deterministic.items() if name in default}


def run_command(command: Command, folder: Path, until: float) -> dict:
    """Runs one benchmark and returns what it printed and wrote.

    Returns:
      module, arguments, seconds; outcome, one of "done", "skipped" and "failed"; reason, one line,
      if it is not done; printed; numbers, the content of its JSON file.
    """
    result = {"module": command.module, "arguments": list(command.arguments)}
    if command.needs and importlib.util.find_spec(command.needs) is None:
        return result | {"outcome": "skipped", "reason": f"{command.needs} is not installed"}
    left = until - time.monotonic()
    if left <= 0:
        return result | {"outcome": "failed", "reason": "no time is left"}
    out = folder / "numbers.json"
    out.unlink(missing_ok=True)
    flag = [f"--out={out}"] if command.has_out else []
    words = [sys.executable, "-m", f"benchmarks.{command.module}", *flag, *command.arguments]
    start = time.monotonic()
    code, printed, errors = finished(words, left)
    result |= {"seconds": time.monotonic() - start, "printed": printed}
    if code:
        last = (errors.strip() or printed.strip() or "nothing printed").splitlines()[-1]
        reason = f"no answer after {left:.0f} s" if code == TIMEOUT else f"exit code {code}: {last}"
        return result | {"outcome": "failed", "reason": reason}
    if not command.has_out:
        return result | {"outcome": "done"}
    try:
        return result | {"outcome": "done", "numbers": json.loads(out.read_text())}
    except (OSError, ValueError) as error:
        return result | {"outcome": "failed", "reason": f"no numbers: {error}"}


TIMEOUT = -signal.SIGKILL


def finished(words: Sequence[str], seconds: float) -> tuple[int, str, str]:
    """Exit code, output and errors of a process, which is killed with its children in the end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, cwd=ROOT, start_new_session=True, **pipes)
    try:
        printed, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, errors = process.communicate()
    return process.returncode, printed, errors


def shown(result: dict) -> str:
    """A result as text."""
    title = " ".join([result["module"], *result["arguments"]])
    if result["outcome"] != "done":
        return f"{result['outcome'].upper()} {title}: {result['reason']}"
    return f"{title}\n{result['printed'].rstrip()}"


if __name__ == "__main__":
    app.run(main)
