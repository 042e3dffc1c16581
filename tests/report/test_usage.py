"""The commands that use a result."""

import shlex
from pathlib import Path

from rfquant_jax.report.usage import usage_lines

STARTED = [
    "launch.py",
    "--config=my recipe.py",
    "--config.tasks=train,search",
    "--config.optimizer.lr=0.02",
    "--workdir",
    "elsewhere",
    "--config.configuration=w4a4",
    "--config.seed=1",
]


def test_the_lines_repeat_the_run_but_for_what_they_are_about():
    lines = dict(usage_lines(Path("runs/a b"), "search/1.05xw2a2.json", STARTED))
    assert shlex.split(lines["predict classes of a folder of images"]) == [
        "python",
        "launch.py",
        "--config=my recipe.py",
        "--config.optimizer.lr=0.02",
        "--config.seed=1",
        "--workdir=runs/a b",
        "--config.tasks=predict",
        "--config.predict.images=DIR",
        "--config.configuration=runs/a b/search/1.05xw2a2.json",
    ]
    assert len(lines) == 5


def test_an_installed_command_is_repeated_as_it_was_typed():
    lines = dict(usage_lines(Path("runs/a"), "search/1G.json", ["rfquant", "--config.seed=1"]))
    assert shlex.split(lines["what it costs"]) == [
        "rfquant",
        "--config.seed=1",
        "--workdir=runs/a",
        "--config.tasks=cost",
        "--config.configuration=runs/a/search/1G.json",
    ]


def test_an_unknown_recipe_has_a_placeholder():
    lines = dict(usage_lines(Path("runs/mine"), "search/1G.json"))
    words = shlex.split(lines["export it, verified"])
    assert words[1:5] == [
        "launch.py",
        "--config=RECIPE",
        "--workdir=runs/mine",
        "--config.tasks=export",
    ]


def test_the_line_that_loads_names_the_exported_file():
    *_, (purpose, line) = usage_lines(Path("runs/mine"), "search/1G.json")
    assert "Python" in purpose
    assert "'runs/mine/export/1G.safetensors'" in line
    compile(line, "line", "exec")
