"""The parts of gpu_run.py: which benchmarks run, in which order, with which flags."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.runs import SMALL

SIZES = {"resnet18": 224, "mobilenetv2": 224, "cifar_resnet20": 32}


@dataclass(frozen=True)
class Command:
    """A benchmark, run in a process of its own.

    Attributes:
      module: of `benchmarks`.
      has_out: whether it writes its numbers to the file of the flag --out.
      needs: a package without which it is skipped; empty: none.
    """

    module: str
    arguments: tuple[str, ...]
    has_out: bool = True
    needs: str = ""


def parts(
    folder: Path, *, small: bool, chosen: Collection[str] = tuple(SIZES)
) -> dict[str, list[Command]]:
    """The commands of each part, in order.

    Args:
      folder: for files that parts share, such as the compilation cache.
      small: sizes for a processor, to test the commands.
      chosen: the networks of parts that measure several.
    """
    cache, rounds = f"--cache={folder / 'compiled'}", "--rounds=1" if small else "--rounds=11"
    peers = f"--peer={'eager' if small else 'eager,compiled'}"
    of_peers = peers, "--kinds=plain,coupled,peer_plain,peer_coupled"
    fields = ("--", *SMALL) if small else ()
    quickstart = "--seeds=0", f"--workdir={folder / 'quickstart'}", *fields

    def networks(module: str, *flags: str, needs: str = "") -> list[Command]:
        """A benchmark of every network in bfloat16."""
        found = []
        for name, size in ((name, SIZES[name]) for name in SIZES if name in chosen):
            sizes = f"--size={32 if small else size}", f"--batch={8 if small else 128}"
            own = f"--network={name}", *sizes, "--precision=bfloat16", *flags
            found.append(Command(module, own, needs=needs))
        return found

    return {
        "steps": networks("train_step", cache, "--kinds=coupled", "--rounds=1"),
        "train_step": networks("train_step", cache, rounds),
        "peer": networks("train_step", cache, rounds, *of_peers, needs="torch"),
        "quickstart": [Command("quickstart", quickstart, has_out=False)],
        "evaluate": networks("evaluate", rounds),
        "search": networks("search", rounds, "--starts=16"),
        "idle": networks("device_idle"),
        # To compare with the same steps of the part train_step.
        "deterministic": networks(
            "train_step", cache, rounds, "--kinds=plain,coupled", "--deterministic"
        ),
        # Compares killed and restarted runs with an undisturbed one, bit for bit.
        "resume": [
            Command(
                "kill_training",
                ("--kills=2", "--", "--config.deterministic=True"),
                has_out=False,
            )
        ],
        "export": [Command("export", ("--images=16", "--rounds=5"))],
    }
