"""Maps task names to functions and runs the tasks of a run in order."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from rfquant_jax.config import checks
from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.runtime import devices
from rfquant_jax.tasks.failures import explained
from rfquant_jax.tasks.network_check import check_network
from rfquant_jax.tasks.run import Run


def _function(module: str, name: str) -> Callable[[Run], object]:
    """A function of a task's module, which is imported on the first call.

    Not every task needs every library: `cost` needs neither matplotlib nor onnxruntime.
    """

    def call(run: Run) -> object:
        return getattr(import_module(f"rfquant_jax.tasks.{module}"), name)(run)

    return call


TASKS: dict[str, Callable[[Run], object]] = {
    "pretrain": _function("train", "pretrain"),
    "train": _function("train", "train"),
    "search": _function("search", "search"),
    "evaluate": _function("evaluate", "evaluate"),
    "export": _function("export", "export"),
    "predict": _function("predict", "predict"),
    "cost": _function("cost", "cost"),
}


def perform(run: Run) -> None:
    """Runs the tasks of the config, in order.

    Raises:
      UserError: invalid input; detected before work starts wherever possible.
      RunFailure: a failure of the machine, such as a full disk or exhausted memory.
      Interrupted: a signal was received; progress is saved.
    """
    asked = checks.tasks(run.config)
    with explained(run, asked[0]):
        check(run)
    for name in asked:
        with explained(run, name), in_field_names():
            TASKS[name](run)
        devices.barrier(name)  # makes the files of process 0 visible to the others


@in_field_names()
def check(run: Run) -> None:
    """Checks the preconditions of the requested tasks.

    Raises:
      UserError: names the problem and the rule.
    """
    check_network(run)
    run.build("configuration")
    if checks.tasks(run.config) == ("cost",):
        run.build("plan")
        return
    from rfquant_jax.tasks import preconditions  # it imports every task

    preconditions.check(run)
