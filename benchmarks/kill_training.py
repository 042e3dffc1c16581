"""Kills training runs with SIGKILL; each must give the undisturbed result after a restart.

    python -m benchmarks.kill_training --kills=20

Runs 60 coupled steps, with a checkpoint every 10 steps, from one full-precision network. Every
second kill happens at a random time, the others while a checkpoint is written. Compares all
parameters and statistics bit for bit, and the accuracy of a configuration. Flags for launch.py
follow `--`. Fails if anything differs.
"""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from absl import app, flags, logging

from benchmarks.runs import SMALL, finish, launched, outcome, share_compilation
from rfquant_jax.report.tables import table

_KILLS = flags.DEFINE_integer("kills", 20, "number of runs to kill")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the kill times")
_TASKS = ["--config.tasks=train,evaluate", "--config.configuration=w3a3"]


def main(arguments: list[str]) -> None:
    logging.set_verbosity(logging.FATAL)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        whole, start = root / "whole", root / "start"
        share_compilation(root)
        finish(launched([*SMALL, "--config.tasks=pretrain"], start), start)
        command = [*SMALL, *_TASKS, "--config.checkpoints.every_steps=10", *arguments[1:]]
        command.append(f"--config.checkpoint={start}")
        finish(launched(command, root / "first"), root / "first")  # fills the compilation cache
        process = launched(command, whole)
        begun = wait_for_training(process, whole)
        while 60 not in kept(whole):
            time.sleep(0.01)
        lasts = time.monotonic() - begun
        finish(process, whole)
        expected, chance, rows = outcome(whole), random.Random(_SEED.value), []
        for number in range(_KILLS.value):
            moment = lasts * (number + chance.random()) / _KILLS.value
            workdir, killed = root / str(number), None
            while killed is None:
                shutil.rmtree(workdir, ignore_errors=True)
                killed = one_kill(command, workdir, moment, while_saving=number % 2 == 1)
                moment *= 0.9  # the kill came too late
            finish(launched(command, workdir), workdir)
            row = {"kill": number + 1} | killed | {"same": outcome(workdir) == expected}
            print(row, flush=True)
            rows.append(row)
        print(table(rows, {name: name for name in rows[0]}))
        same = sum(row["same"] for row in rows)
        print(f"identical to the undisturbed run: {same} of {len(rows)}")
        if same < len(rows):
            raise SystemExit("a restarted training ended differently")


def one_kill(
    command: list[str], workdir: Path, moment: float, *, while_saving: bool
) -> dict | None:
    """Kills a run some seconds after its first step, or during the next save after that.

    Returns:
      the remaining state; None if the run had ended.
    """
    process = launched(command, workdir)
    begun = wait_for_training(process, workdir)
    time.sleep(max(begun + moment - time.monotonic(), 0))
    while while_saving and not saving(workdir) and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL or 60 in kept(workdir):
        return None
    return {
        "after": f"{time.monotonic() - begun:.2f} s",
        "half written": ", ".join(saving(workdir)) or "-",
        "checkpoints": ", ".join(map(str, kept(workdir))) or "none",
    }


def wait_for_training(process, workdir: Path) -> float:
    """Waits for the first steps of coupled training."""
    log = workdir / "log.txt"
    while not (log.exists() and "layers with signed input" in log.read_text()):
        if process.poll() is not None:
            finish(process, workdir)
            raise SystemExit("the run ended before it trained")
        time.sleep(0.01)
    return time.monotonic()


def saving(workdir: Path) -> list[str]:
    """Incomplete checkpoints of coupled training."""
    folder = workdir / "checkpoints" / "train"
    return [path.name.partition(".")[0] for path in folder.glob("*.orbax-checkpoint-tmp*")]


def kept(workdir: Path) -> list[int]:
    """Steps with a checkpoint."""
    folder = workdir / "checkpoints" / "train"
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdecimal())


if __name__ == "__main__":
    app.run(main)
