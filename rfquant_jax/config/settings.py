"""Converts the config to the settings classes of the library.

`arguments` collects the fields that refer to a class. The image transforms are in `transforms`, the
search algorithms in `search_algorithms`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rfquant_jax.config.schema import FIELDS
from rfquant_jax.quant.quant_config import QuantConfig
from rfquant_jax.search.profile_search import ProfileSettings
from rfquant_jax.search.trust_region import TrustRegionSettings
from rfquant_jax.train.plan import Plan
from rfquant_jax.train.scheduler import SchedulerConfig
from rfquant_jax.train.step import StepSettings
from rfquant_jax.train.step_config import StepConfig
from rfquant_jax.train.train_config import TrainConfig

PRETRAIN = ("pretrain",)
COUPLED = ("quant", "train", "optimizer", "scheduler", "losses")  # sections of coupled training


def targets(sections: tuple[str, ...], cls: type | None = None) -> dict[str, str]:
    """The fields of these sections that set a field of a settings class, or of the one given.

    Returns:
      {name in the class: dotted name of the config's field}.
    """
    return {
        field.target[1]: name
        for name, field in FIELDS.items()
        if name.partition(".")[0] in sections and field.target and cls in (None, field.target[0])
    }


def arguments(config: ConfigDict, sections: tuple[str, ...], cls: type) -> dict[str, Any]:
    """The values of these fields, as arguments of the class."""
    parts = {argument: name.split(".") for argument, name in targets(sections, cls).items()}
    return {argument: config[section][own] for argument, (section, own) in parts.items()}


def derived_seed(config: ConfigDict, purpose: str) -> int:
    """A seed for one purpose of a run, independent of other purposes and runs."""
    words = [config.seed, *purpose.encode()]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def quant_settings(config: ConfigDict) -> QuantConfig:
    """Settings of the conversion of the plain network."""
    return QuantConfig(**arguments(config, COUPLED, QuantConfig))


def pretrain_config(config: ConfigDict) -> TrainConfig:
    """Settings of full-precision training: a single pass per step."""
    own = arguments(config, PRETRAIN, StepConfig)
    # With equal decays no term remains for weights inside the 2-bit clipping range.
    step = replace(TrainConfig.full_precision().step, **own, wd_region=own["weight_decay"])
    shared = {name: config.train[name] for name in ("eval_every", "log_every", "max_bad_steps")}
    return TrainConfig.full_precision(
        step=step, **shared, **arguments(config, PRETRAIN, TrainConfig)
    )


def train_config(config: ConfigDict) -> TrainConfig:
    """Settings of coupled training."""
    step = arguments(config, COUPLED, StepConfig)
    if not config.losses.information_distortion_mitigation:
        step["idm"] = 0.0
    scheduler = SchedulerConfig(**arguments(config, COUPLED, SchedulerConfig))
    return TrainConfig(
        step=StepConfig(**step),
        scheduler=scheduler if config.scheduler.enabled else None,
        **arguments(config, COUPLED, TrainConfig),
    )


def pretrain_step(config: ConfigDict) -> StepSettings:
    """Settings of a full-precision step."""
    return pretrain_config(config).step.settings(tuple(config.quant.candidates))


def coupled_step(config: ConfigDict) -> StepSettings:
    """Settings of a coupled step."""
    return train_config(config).step.settings(quant_settings(config).all_candidates)


def pretrain_plan(config: ConfigDict) -> Plan:
    """The schedule of full-precision training."""
    return _plan(config, "pretrain", pretrain_config(config), "pretrain.lr")


def coupled_plan(config: ConfigDict) -> Plan:
    """The schedule of coupled training."""
    plan = _plan(config, "train", train_config(config), "optimizer.lr")
    return replace(plan, steps_per_epoch=config.train.steps_per_epoch)


def _plan(config: ConfigDict, task: str, settings: TrainConfig, rate: str) -> Plan:
    """The schedule of a training.

    Args:
      rate: name of the field with the learning rate.
    """
    return replace(
        settings.plan(task),
        seed=derived_seed(config, task),
        remedy=(
            f"lower config.{rate} = {settings.lr:g} in a separate --workdir, or compute with "
            "higher precision (JAX_DEFAULT_MATMUL_PRECISION=highest)"
        ),
        save_every_steps=config.checkpoints.every_steps,
        save_every_minutes=config.checkpoints.every_minutes,
    )


def search_metric(config: ConfigDict) -> str:
    """The metric for comparing candidates."""
    return "error" if config.search.algorithm == "paper" else config.search.metric


def profile_settings(config: ConfigDict) -> ProfileSettings:
    """Settings of the search on a profile."""
    region = TrustRegionSettings(evaluations=config.search.evaluations)
    return ProfileSettings(configurations=config.search.profile, region=region)


def search_iterations(config: ConfigDict, budgets: int) -> int | None:
    """Total number of batches of a search, or None if unknown."""
    search = config.search
    return {
        "random": budgets,
        "evolution": budgets * search.generations,
    }.get(search.algorithm)
