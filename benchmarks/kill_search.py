"""Kills searches with SIGKILL; each must give the undisturbed result after a restart.

    python -m benchmarks.kill_search --checkpoint=runs/quickstart --kills=5

Kill times are random and spread evenly between the first recorded evaluation and the end of an
undisturbed search. Flags for launch.py follow `--`. Fails if any result differs.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from absl import app, flags

from benchmarks.runs import finish, launched
from rfquant_jax.report.tables import table
from rfquant_jax.tasks.workdir import (
    FRONTIER_FILE,
    PROFILE_FILE,
    SEARCH_FOLDER,
    SENSITIVITY_FILE,
    SURROGATE_FILE,
    TRACE_FILE,
)

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "workdir of a trained run", required=True)
_KILLS = flags.DEFINE_integer("kills", 5, "number of searches to kill")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the kill times")


def main(arguments: list[str]) -> None:
    command = ["--config.tasks=search", *arguments[1:]]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # Without the profile of an earlier search, which every search would reuse.
        others = shutil.ignore_patterns(SEARCH_FOLDER)
        shutil.copytree(_CHECKPOINT.value, root / "trained", ignore=others)
        command.append(f"--config.checkpoint={root / 'trained'}")
        start = time.monotonic()
        first = started(command, root / "whole")
        begun = time.monotonic()
        finish(first, root / "whole")
        lasts = time.monotonic() - begun
        print(f"undisturbed: {begun - start:.1f} s to the first evaluation, then {lasts:.1f} s")
        expected = results(root / "whole")
        rows = []
        chance = random.Random(_SEED.value)
        for number in range(_KILLS.value):
            moment = lasts * (number + chance.random()) / _KILLS.value
            rows.append({"kill": number + 1, "after": f"{moment:.1f} s"})
            rows[-1] |= one_kill(command, root / str(number), moment)
            rows[-1]["same result"] = results(root / str(number)) == expected
        print(table(rows, {name: name for name in rows[0]}))
        if not all(row["same result"] for row in rows):
            raise SystemExit("a restarted search ended differently")


def one_kill(command: list[str], workdir: Path, moment: float) -> dict[str, object]:
    """Kills a search some seconds after its first evaluation, then restarts it to completion."""
    process = started(command, workdir)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit(f"the search had ended {moment:.1f} s after its first evaluation; again")
    lines = trace(workdir)
    finish(launched(command, workdir), workdir)
    return {"evaluations recorded": lines, "in all": trace(workdir)}


def started(command: list[str], workdir: Path) -> subprocess.Popen:
    """Starts a search and waits for its first recorded evaluation."""
    process = launched(command, workdir)
    while trace(workdir) == 0:
        if process.poll() is not None:
            finish(process, workdir)
            raise SystemExit("the search ended without any evaluation")
        time.sleep(0.01)
    return process


def trace(workdir: Path) -> int:
    """Number of recorded evaluations, of a profile or another algorithm."""
    paths = [workdir / SEARCH_FOLDER / name for name in (PROFILE_FILE, TRACE_FILE)]
    return sum(max(len(p.read_bytes().splitlines()) - 1, 0) for p in paths if p.exists())


def results(workdir: Path) -> dict[str, str]:
    """All files of a search except plots and logs."""
    others = (workdir / name for name in (FRONTIER_FILE, SENSITIVITY_FILE, SURROGATE_FILE))
    files = [*(workdir / SEARCH_FOLDER).iterdir(), *others]
    return {file.name: file.read_text() for file in files if file.exists()}


if __name__ == "__main__":
    app.run(main)
