"""Commands for using a result: evaluate, predict, export, load."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

_REPLACED = ("tasks", "configuration", "predict.images")


def usage_lines(
    workdir: Path, configuration: str, arguments: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """Purpose and command line of each use of a searched configuration.

    Args:
      workdir: folder of the run.
      configuration: path of the configuration's file within it, such as `search/1.05xw2a2.json`.
      arguments: those that the run was started with, `launch.py` or `rfquant` first; a run only
        accepts its own fields again. None: not known, the lines then name a recipe RECIPE.
    """
    given = _kept(arguments) if arguments else ["launch.py", "--config=RECIPE"]
    name = Path(configuration).stem
    file = str(workdir / configuration)

    def command(task: str, *more: str) -> str:
        line = [*given, f"--workdir={workdir}", f"--config.tasks={task}", *more]
        return command_line([*line, f"--config.configuration={file}"])

    exported = workdir / "export" / f"{name}.safetensors"
    load = (
        "from rfquant_jax.export.formats import integer_reader; "
        f"model = integer_reader.read({str(exported)!r}).model()"
    )
    return [
        ("what it costs", command("cost")),
        ("evaluate it on the test images", command("evaluate")),
        (
            "predict classes of a folder of images",
            command("predict", "--config.predict.images=DIR"),
        ),
        ("export it, verified", command("export")),
        ("load the exported model in Python", load),
    ]


def command_line(arguments: Sequence[str]) -> str:
    """Arguments as one types them: behind `python` where the first one is a Python file."""
    return ("python " if arguments[0].endswith(".py") else "") + shlex.join(arguments)


def _kept(arguments: Sequence[str]) -> list[str]:
    """The arguments without those that the commands set."""
    dropped = ("--workdir", *(f"--config.{field}" for field in _REPLACED))
    kept, skip = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if skip:
            skip = False
        elif name in dropped:
            skip = not equals  # the value is the next argument
        else:
            kept.append(argument)
    return kept
