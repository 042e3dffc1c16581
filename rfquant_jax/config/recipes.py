"""Recipe files: loading them, naming their runs, checking overrides, describing their fields."""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from rfquant_jax.config.checks import to_plain
from rfquant_jax.config.declaration import Field
from rfquant_jax.config.fields import flat
from rfquant_jax.config.schema import FIELDS, SECTIONS
from rfquant_jax.errors import RunFailure, UserError


def load(path: Path) -> ConfigDict:
    """The result of the recipe's `get_config`.

    The recipe may import what stands beside it: its import root, see `import_root`, comes first on
    `sys.path` from then on, as for a program that Python runs.

    Raises:
      UserError: the file does not exist, or returns something else than a ConfigDict.
      RunFailure: the file fails when run; names the line. The cause is attached.
    """
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or not path.is_file():
        raise UserError(f"--config={path}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    root = str(import_root(path))
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"--config={path}: a recipe must define get_config()")
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:  # a recipe is user code
        where = _line_in(path, error)
        raise RunFailure(f"--config={path}{where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={path}: get_config must return an ml_collections.ConfigDict")
    return config


def _line_in(path: Path, error: Exception) -> str:
    """The line of a recipe that an exception comes from, as ", line N"; empty if there is none."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f", line {lines[-1]}" if lines else ""


def quickstart() -> Path:
    """The recipe that runs where none is named: a wheel's own copy, or the checkout's."""
    packaged = Path(__file__).with_name("quickstart.py")
    checkout = Path(__file__).resolve().parents[2]
    return packaged if packaged.is_file() else checkout / "configs" / "quickstart.py"


def import_root(path: Path) -> Path:
    """The folder that a recipe's absolute imports start from.

    It is the recipe's own folder or, in a package (folders with an `__init__.py`), the folder that
    holds the outermost one: `configs/training/resnet18.py` may import `configs`.
    """
    folder = path.resolve().parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def default_workdir(path: Path) -> Path:
    """`runs/<name>`, the name being the recipe's path below `configs`, or its stem."""
    parts = path.resolve().with_suffix("").parts
    if "configs" in parts:
        below = len(parts) - 1 - parts[::-1].index("configs")
        return Path("runs", *parts[below + 1 :])
    return Path("runs", parts[-1])


def check_overrides(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Checks that every `--config.a.b=...` names a field of the recipe.

    Raises:
      UserError: unknown field; the message proposes the nearest one.
    """
    fields = [name for name, _ in flat(to_plain(config))]
    sections = {
        ".".join(name.split(".")[:n]) for name in fields for n in range(1, name.count(".") + 1)
    }
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([^=\s]+)", argument)
        if match is None or match[1] in fields:
            continue
        if match[1] in sections:
            raise UserError(f"config.{match[1]} is a section; override one of its fields")
        near = difflib.get_close_matches(match[1], fields, n=1)
        hint = f"; did you mean config.{near[0]}?" if near else "; --help lists all fields"
        raise UserError(f"config.{match[1]} is not a field of the recipe{hint}")


def describe(config: ConfigDict) -> str:
    """All fields by section, with their values in this recipe, meanings, rules and defaults."""
    fields = dict(flat(to_plain(config)))
    lines = ["Fields of the recipe, with their values; override any of them:"]
    for section in SECTIONS:
        lines += ["", f"{section.name}: {section.meaning}" if section.name else section.meaning, ""]
        for name, field in section.fields.items():
            for own in (n for n in fields if n == name or n.startswith(f"{name}.")):
                lines += _entry(own, fields[own], field)
    return "\n".join(lines)


def _entry(name: str, value: object, field: Field) -> list[str]:
    shown = tuple(value) if isinstance(value, list) else value
    meaning, *more = field.help.split("\n")
    texts = [f"{meaning} ({field.limits})" if field.limits else meaning, *more]
    if name in FIELDS and shown != field.default:
        texts.append(f"default: {field.default!r}")
    indent = " " * 6
    wrapped = [
        textwrap.fill(t, 100, initial_indent=indent, subsequent_indent=indent) for t in texts
    ]
    return [f"  --config.{name}={shown!r}", *wrapped]
