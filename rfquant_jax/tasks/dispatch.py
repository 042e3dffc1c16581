"""Which function does which task; the tasks of a run in their order."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from rfquant_jax.config import checks
from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.runtime import devices
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.failures import explained


def _function(module: str, name: str) -> Callable[[Run], object]:
    """A function of a task's module, which is imported when it is first called.

    Tasks need libraries that others do not: `cost` neither matplotlib nor onnxruntime.
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
    """Does the tasks of the run's config, in order.

    Raises:
      UserError: something is wrong; found out, wherever possible, before any work starts.
      RunFailure: the machine failed: a full disk, too small a memory.
      Interrupted: a signal came; what was done is saved.
    """
    asked = checks.tasks(run.config)
    with explained(run, asked[0]):
        check(run)
    for name in asked:
        with explained(run, name), in_field_names():
            TASKS[name](run)
        devices.barrier(name)  # what the first process wrote is there for the others


@in_field_names()
def check(run: Run) -> None:
    """Looks at everything the asked tasks need, before they start.

    Raises:
      UserError: what is wrong, and the rule.
    """
    # Reading these properties builds and checks them.
    _ = run.abstract_network
    _ = run.configuration
    if checks.tasks(run.config) == ("cost",):
        _ = run.plan
        return
    from rfquant_jax.tasks import preconditions  # it imports every task

    preconditions.check(run)
