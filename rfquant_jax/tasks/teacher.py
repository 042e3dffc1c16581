"""An external teacher: the full-precision network of another run."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
from ml_collections import ConfigDict

from rfquant_jax.checkpoint.checkpoints import PRETRAIN
from rfquant_jax.errors import ConfigError, UserError
from rfquant_jax.runtime.devices import REPLICATED, SHARDED, Compiled
from rfquant_jax.runtime.json_files import read_json
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import CONFIG_FILE
from rfquant_jax.train.loop import Teacher


def teacher_run(run: Run) -> Run | None:
    """The run that `config.distillation.teacher` names, or None.

    Raises:
      UserError: the folder has no trained full-precision network, or its classes or images differ.
    """
    folder = run.config.distillation.teacher
    if not folder:
        return None
    path = Path(folder) / CONFIG_FILE
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"config.distillation.teacher: {path}: is not a run's")
    try:
        # With this run's log: never writes into the folder of another run.
        other = Run(ConfigDict(content), folder, log=run.log, mesh=run.mesh)
        if other.config.data.name == run.config.data.name:
            other.config.data.path = run.config.data.path  # they may have moved since
    except (ValueError, UserError) as error:
        raise UserError(f"config.distillation.teacher: {path}: is not a run's ({error})") from error
    for what in ("num_classes", "image_shape"):
        mine, theirs = getattr(run, what), getattr(other, what)
        if mine != theirs:
            rule = f"its {what} is {theirs}, that of this run {mine}"
            raise ConfigError("distillation.teacher", folder, rule)
    networks.check(other, PRETRAIN, field="config.distillation.teacher")
    return other


def load_teacher(run: Run) -> Teacher | None:
    """A function from sharded images to the teacher's logits, or None."""
    other = teacher_run(run)
    if other is None:
        return None
    trained = networks.full_precision(other)

    def logits(params, stats, images):
        network = trained.functional.merge(params, stats)
        network.eval()
        return network(other.preprocess(images)).astype(jnp.float32)

    specs = (REPLICATED, REPLICATED, SHARDED)
    compiled = Compiled(logits, run.mesh, specs, SHARDED)
    return lambda images: compiled(trained.params, trained.stats, images)
