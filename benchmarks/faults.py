"""Injects real faults into runs and prints the messages.

    python -m benchmarks.faults

Prints the exit code and the message for each fault, and whether earlier checkpoints are still
intact, byte for byte. Fails if the message of a fault is not exactly one line.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from absl import app

from benchmarks.kill_training import wait_for_training
from benchmarks.runs import LAUNCH, SMALL, finish, launched, share_compilation

RUN = [*SMALL, "--config.tasks=pretrain,train", "--config.checkpoints.every_steps=10"]
TWO = ("--config.distributed.heartbeat_timeout_seconds=15", "--config.distributed.processes=2")


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        share_compilation(root)
        trained = root / "trained"
        finish(launched([*RUN, "--config.train.log_every=1"], trained), trained)
        wrong = [what for what, fault in FAULTS.items() if not one_line(what, fault, root, trained)]
    if wrong:
        raise SystemExit(f"not answered by one line: {', '.join(wrong)}")


def one_line(what: str, fault: Callable, root: Path, trained: Path) -> bool:
    """Causes a fault in a copy of a trained run; prints and checks the message."""
    workdir = root / "copy"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(trained, workdir)
    _before.clear()
    code, text = fault(workdir)
    lines = [line for line in text.splitlines() if line.strip()]
    kept = "all" if _before <= set(contents(workdir)) else "NOT ALL"
    print(f"\n{what}: exit code {code}, checkpoints kept: {kept}", *lines, sep="\n    ", flush=True)
    return len(lines) == 1 and kept == "all"


_before: set[str] = set()  # state at the start of the disturbed run


def note(workdir: Path) -> None:
    """Records the files of the checkpoints before a run."""
    _before.update(contents(workdir))


def contents(workdir: Path) -> Iterator[str]:
    """A digest of every file of the checkpoints, independent of folder names."""
    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file() and "orbax-checkpoint-tmp" not in str(path):
            yield hashlib.sha256(path.read_bytes()).hexdigest()


def run(workdir: Path, *arguments: str, limit: str = "") -> tuple[int, str]:
    """Exit code and errors of a run; messages about damaged checkpoints are in its output."""
    note(workdir)
    given = {argument.partition("=")[0] for argument in arguments}
    fixed = [argument for argument in RUN if argument.partition("=")[0] not in given]
    command = [*LAUNCH, *fixed, f"--workdir={workdir}", *arguments]
    if limit:
        command = ["bash", "-c", f'{limit}; exec "$@"', "-", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if "is damaged" in line]
    return done.returncode, "\n".join([*told, done.stderr])


def newest(workdir: Path) -> Path:
    folder = workdir / "checkpoints" / "train"
    return folder / str(max(int(p.name) for p in folder.iterdir() if p.name.isdecimal()))


def damaged(change: Callable[[Path], object]) -> Callable[[Path], tuple[int, str]]:
    """Damages the largest file of the newest checkpoint and restarts the run."""

    def fault(workdir: Path) -> tuple[int, str]:
        files = [path for path in (newest(workdir) / "state").rglob("*") if path.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size)
        change(largest)
        return run(workdir)

    return fault


def overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64 * [0xA5])
    path.write_bytes(content)


def all_damaged(workdir: Path) -> tuple[int, str]:
    for path in (workdir / "checkpoints" / "train").rglob("metadata"):
        path.write_text("")
    return run(workdir)


def half_written(workdir: Path) -> tuple[int, str]:
    """Leaves the folder of an interrupted save, and truncates the newest complete checkpoint."""
    folder = newest(workdir)
    shutil.copytree(folder / "about", folder.with_name("70.orbax-checkpoint-tmp"))
    shutil.rmtree(folder / "state")
    return run(workdir)


def fewer_bytes(workdir: Path) -> tuple[int, str]:
    """Simulates a full disk by a limit on file size, which the kernel reports in the same way."""
    shutil.rmtree(workdir / "checkpoints" / "train")
    return run(workdir, limit="ulimit -f 40")


def full_disk(workdir: Path) -> tuple[int, str]:
    disk = workdir.with_name("disk")
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        return 0, "not tried: no file system can be mounted here"
    try:
        return run(disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def in_use(workdir: Path) -> tuple[int, str]:
    shutil.rmtree(workdir / "checkpoints" / "train")
    (workdir / "log.txt").unlink()
    note(workdir)
    process = launched(RUN, workdir)
    wait_for_training(process, workdir)
    answer = run(workdir)
    process.kill()
    process.wait()
    return answer


def stopped(*numbers: int) -> Callable[[Path], tuple[int, str]]:
    def fault(workdir: Path) -> tuple[int, str]:
        shutil.rmtree(workdir / "checkpoints" / "train")
        (workdir / "log.txt").unlink()
        note(workdir)
        command = [*LAUNCH, *RUN, f"--workdir={workdir}"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        wait_for_training(process, workdir)
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.05)
        text = process.communicate()[1]
        return process.returncode, text or "(nothing: it ended at once)"

    return fault


def lost(victim: int) -> Callable[[Path], tuple[int, str]]:
    def fault(workdir: Path) -> tuple[int, str]:
        shutil.rmtree(workdir / "checkpoints" / "train")
        (workdir / "log.txt").unlink()
        note(workdir)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        command = [*LAUNCH, *RUN, *TWO, f"--workdir={workdir}"]
        command.append(f"--config.distributed.coordinator={address}")
        processes = [
            subprocess.Popen(
                [*command, f"--config.distributed.process={i}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]
        wait_for_training(processes[0], workdir)
        processes[victim].kill()
        start = time.monotonic()
        text = processes[1 - victim].communicate()[1]
        print(f"\nnoticed after {time.monotonic() - start:.1f} s", end="")
        return processes[1 - victim].returncode, text

    return fault


def from_weights(arrays: Callable[[], Mapping[str, np.ndarray]]) -> Callable:
    def fault(workdir: Path) -> tuple[int, str]:
        path = workdir.with_name("weights.npz")
        np.savez(path, **arrays())
        anew = workdir.with_name("anew")
        return run(anew, f"--config.pretrained={path}")

    return fault


def with_options(*arguments: str, anew: bool = False, limit: str = "") -> Callable:
    def fault(workdir: Path) -> tuple[int, str]:
        if anew:
            shutil.rmtree(workdir.with_name("anew"), ignore_errors=True)
        return run(workdir.with_name("anew") if anew else workdir, *arguments, limit=limit)

    return fault


def of_another(*arguments: str) -> Callable:
    """Uses the trained network with another config."""

    def fault(workdir: Path) -> tuple[int, str]:
        arguments_ = ("--config.tasks=search", f"--config.checkpoint={workdir}", *arguments)
        return run(workdir.with_name("anew"), *arguments_)

    return fault


FAULTS: dict[str, Callable[[Path], tuple[int, str]]] = {
    "newest checkpoint cut short": damaged(lambda p: os.truncate(p, p.stat().st_size // 2)),
    "a file of it missing": damaged(Path.unlink),
    "a file of it empty": damaged(lambda p: p.write_bytes(b"")),
    "64 bytes of it overwritten": damaged(overwrite),
    "half written": half_written,
    "every checkpoint damaged": all_damaged,
    "another network": of_another("--config.model.name=cifar_resnet8"),
    "other bit-widths": of_another(
        "--config.quant.candidates=(6,5,4,3)", "--config.search.budgets=1.05*w4a4"
    ),
    "disk full": full_disk,
    "no larger files": fewer_bytes,
    "workdir that cannot be written": lambda workdir: run(Path("/proc/run")),
    "workdir in use": in_use,
    "too little memory": with_options(
        # One array of several GB: XLA reports that it cannot allocate it. If memory runs out in
        # many small pieces, as while compiling a large network, C++ ends the process.
        "--config.data.image_size=224",
        "--config.data.resize=224",
        "--config.data.crop_padding=0",
        "--config.pretrain.batch_size=512",
        anew=True,
        limit="ulimit -v 6000000",
    ),
    "loss not finite": with_options("--config.pretrain.lr=1e30", anew=True),
    "batch that cannot be divided": with_options("--config.train.accumulate=3", anew=True),
    "weights with a pickle inside": from_weights(lambda: {"a": np.asarray([{}], object)}),
    "SIGTERM": stopped(signal.SIGTERM),
    "SIGINT": stopped(signal.SIGINT),
    "SIGTERM twice": stopped(signal.SIGTERM, signal.SIGTERM),
    "process 1 of 2 killed": lost(1),
    "process 0 of 2 killed": lost(0),
}

if __name__ == "__main__":
    app.run(main)
