"""Checks what the tasks of a run need before they start: images, checkpoints, budgets, files."""

from __future__ import annotations

import os

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN
from rfquant_jax.config import checks
from rfquant_jax.tasks import export, kept_statistics, networks, predict, train
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.search_images import split_held_out
from rfquant_jax.tasks.teacher import teacher_run
from rfquant_jax.tasks.workdir import CONFIG_FILE


def check(run: Run) -> None:
    """Checks the preconditions of all tasks except `cost`.

    Raises:
      UserError: names the problem and the rule.
    """
    asked = checks.tasks(run.config)
    run.build("mesh")
    if os.path.exists(run.workdir / CONFIG_FILE):
        run.claim()  # before reading files that another process may be writing
    if {"train", "search"} & set(asked) or run.configuration is not None:
        run.build("plan")
    if "pretrain" in asked and not train.check(run, PRETRAIN):
        run.build("initial_network")
    if "train" in asked and not train.check(run, TRAIN):
        teacher_run(run)
        # A started run resumes from its own checkpoint.
        if "pretrain" not in asked and not networks.has_checkpoints(run.workdir, TRAIN):
            networks.check(run, PRETRAIN if run.config.train.init == "pretrained" else TRAIN)
    if "search" in asked:
        run.build("budgets")
        split_held_out(run.config, run.data.held_out)
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
        kept_statistics.check(run)
        if run.configuration is None and "pretrain" not in asked:
            networks.check(run, PRETRAIN)
