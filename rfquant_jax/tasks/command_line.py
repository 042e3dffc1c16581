"""The command line: `python launch.py` in a checkout, `rfquant` if the package is installed."""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from rfquant_jax.config import recipes
from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.config.path_fields import expand_flags
from rfquant_jax.errors import Interrupted, RunFailure, UserError, printable
from rfquant_jax.runtime import host_memory
from rfquant_jax.runtime.arguments import flag_value
from rfquant_jax.runtime.files import append
from rfquant_jax.runtime.signals import EXIT_CODE, StopSignal

HELP = """\
Trains a network for all bit-widths at once, searches configurations for budgets, evaluates them.

Without arguments it runs the quickstart and writes all results to runs/quickstart. The same command
resumes a stopped run.

  --config=FILE            the recipe, a Python file; default: {recipe}
  --workdir=DIR            folder for results; default: runs/<name of the recipe>
  --config.<field>=VALUE   overrides a field of the recipe; all fields are listed below

Examples:

  {program}
  {program} --config.tasks=search,evaluate --config.checkpoint=runs/quickstart \\
      --workdir=runs/tight --config.search.budgets=0.0015G
  {program} --config.tasks=export --config.configuration=w4a4
  {program} --config.tasks=cost --config.configuration=w4a4

Exit codes: 0 success; 1 failure during the run, with a one-line message; 2 invalid input, with a
one-line message; 75 stopped by SIGTERM or Ctrl-C after saving; run the same command to resume.
"""


def run() -> None:
    """Runs the command line of this process and exits with one of the codes in `HELP`."""
    if sys.platform == "win32":
        raise SystemExit(complain("Windows is not supported; use WSL", 1))
    app.run(main, flags_parser=parse_flags)


def main(_: list[str]) -> int:
    """Performs the tasks of the config; returns the exit code."""
    logging.set_verbosity(logging.FATAL)  # hides messages of libraries
    workdir = flags.FLAGS.workdir or recipes.default_workdir(recipe_path(sys.argv))
    run, code = None, 0
    with StopSignal() as stop:
        host_memory.keep_freed_memory()
        # Imported here, because the imports take seconds and a signal may already arrive then.
        from rfquant_jax.runtime import processes as distributed
        from rfquant_jax.tasks import dispatch
        from rfquant_jax.tasks.run import Run

        try:
            run = Run(flags.FLAGS.config, workdir, stop, _command(sys.argv))
            with in_field_names(), distributed.processes(run.config.distributed):
                dispatch.perform(run)
        except UserError as error:
            code = complain(error)
        except RunFailure as error:
            code = complain(error, 1)
        except Interrupted:
            print(f"stopped, saved in {workdir}: run the same command to resume", file=sys.stderr)
            code = EXIT_CODE
        finally:
            if run is not None:
                run.close()
        distributed.leave(code)
    return code


def _command(arguments: list[str]) -> list[str]:
    """The command line as a user would type it, independent of the current folder."""
    return [Path(arguments[0]).name, *arguments[1:]]


def _help(program: str) -> str:
    """The help text above the fields; its examples use the command that the user typed."""
    in_checkout = program.endswith(".py")
    return HELP.format(
        program="python launch.py" if in_checkout else Path(program).name,
        recipe="configs/quickstart.py" if in_checkout else "the quickstart",
    )


def parse_flags(arguments: list[str]) -> list[str]:
    """Defines and parses the flags; exits on invalid flags or --help."""
    arguments = expand_flags(arguments)
    recipe = recipe_path(arguments)
    try:
        config = recipes.load(recipe)
        if {"-h", "--help", "-help", "--helpfull", "--helpshort"} & set(arguments):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a pager may close the pipe
            print(_help(arguments[0]) + "\n" + recipes.describe(config))
            raise SystemExit(0)
        recipes.check_overrides(config, arguments)
        config_flags.DEFINE_config_file("config", str(recipe), "the recipe", lock_config=True)
        flags.DEFINE_string("workdir", None, "folder for results; default: runs/<recipe>")
        rest = flags.FLAGS(arguments)
        if rest[1:]:
            raise UserError(f"unknown argument {rest[1]!r}; see --help")
    except (UserError, flags.Error) as error:
        raise SystemExit(complain(error)) from None
    except RunFailure as error:
        raise SystemExit(complain(_logged(error, arguments), 1)) from None
    return rest


def _logged(failure: RunFailure, arguments: list[str]) -> str:
    """The message of a recipe's failure, with its traceback in the log file of the run."""
    from rfquant_jax.report.log import LOG_FILE  # it imports JAX

    workdir = _value(arguments, "workdir") or recipes.default_workdir(recipe_path(arguments))
    text = "".join(traceback.format_exception(failure.__cause__))
    try:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        append(Path(workdir) / LOG_FILE, f"{failure}\n{text}")
    except OSError:
        print(text, file=sys.stderr)
        return str(failure)
    return f"{failure}; the traceback is in {Path(workdir) / LOG_FILE}"


def recipe_path(arguments: list[str]) -> Path:
    """The file given as `--config=FILE` or `--config FILE`; the quickstart if there is none."""
    named = _value(arguments, "config")
    return recipes.quickstart() if named is None else Path(named)


def _value(arguments: list[str], flag: str) -> str | None:
    """The value of a flag, before flags are parsed."""
    return flag_value(expand_flags(arguments), flag)


def complain(error: Exception | str, code: int = 2) -> int:
    """Prints a one-line error; returns the exit code."""
    print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return code
