"""The tasks of `launch.py`, one importable function each."""

from __future__ import annotations

import os
from collections.abc import Callable

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN
from rfquant_jax.config import checks
from rfquant_jax.runtime import devices
from rfquant_jax.tasks import evaluate, export, networks, predict, search, train
from rfquant_jax.tasks.confirm import search_images
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.failures import explained
from rfquant_jax.tasks.teacher import teacher_run
from rfquant_jax.tasks.workdir import CONFIG_FILE

TASKS: dict[str, Callable[[Run], object]] = {
    "pretrain": train.pretrain,
    "train": train.train,
    "search": search.search,
    "evaluate": evaluate.evaluate,
    "export": export.export,
    "predict": predict.predict,
    "cost": evaluate.cost,
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
        with explained(run, name):
            TASKS[name](run)
        devices.barrier(name)  # makes the files of process 0 visible to the others


def check(run: Run) -> None:
    """Checks the preconditions of the requested tasks.

    Raises:
      UserError: names the problem and the rule.
    """
    asked = checks.tasks(run.config)
    # Reading these properties builds and validates them.
    _ = run.abstract_network
    _ = run.configuration
    if asked == ("cost",):
        _ = run.plan
        return
    _ = run.mesh
    if os.path.exists(run.workdir / CONFIG_FILE):
        run.claim()  # before reading files that another process may be writing
    if {"train", "search"} & set(asked) or run.configuration is not None:
        run.plan.check(run.network)
    if "pretrain" in asked and not train.check(run, PRETRAIN):
        _ = run.initial_network
    if "train" in asked and not train.check(run, TRAIN):
        teacher_run(run)
        # A started run resumes from its own checkpoint.
        if "pretrain" not in asked and not networks.has_checkpoints(run.workdir, TRAIN):
            networks.check(run, PRETRAIN)
    if "search" in asked:
        _ = run.budgets
        search_images(run)
    if "train" not in asked and (
        {"search", "export"} & set(asked) or run.configuration is not None
    ):
        networks.check(run, TRAIN)
    if asked == ("evaluate",) and run.configuration is None:
        networks.check(run, TRAIN if networks.exists(run, TRAIN) else PRETRAIN)
    if "export" in asked:
        export.check(run, asked)
    if "predict" in asked:
        predict.list_files(run)
        if run.configuration is None and "pretrain" not in asked:
            networks.check(run, PRETRAIN)
