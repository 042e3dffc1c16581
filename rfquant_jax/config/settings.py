"""Converts the config to the settings classes of the library.

The search algorithms are in `search_algorithms`.
"""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from rfquant_jax.data.transforms import Centre, PadAndCrop, RandomResizedCrop, Transform
from rfquant_jax.quant.plan import QuantConfig
from rfquant_jax.search.profile_search import ProfileSettings
from rfquant_jax.search.trust_region import TrustRegionSettings
from rfquant_jax.train.optimizer import OptimizerSettings
from rfquant_jax.train.plan import Plan
from rfquant_jax.train.scheduler import Timing
from rfquant_jax.train.step import StepSettings
from rfquant_jax.train.step_config import StepConfig
from rfquant_jax.train.training_network import LossWeights


def derived_seed(config: ConfigDict, purpose: str) -> int:
    """A seed for one purpose of a run, independent of other purposes and runs."""
    words = [config.seed, *purpose.encode()]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def quant_settings(config: ConfigDict) -> QuantConfig:
    """Settings of the conversion of the plain network."""
    quant = config.quant
    return QuantConfig(
        candidates=tuple(quant.candidates),
        depthwise_min_bits=quant.depthwise_min_bits,
        fixed_bits=quant.fixed_bits,
        rules=tuple((pattern, tuple(bits)) for pattern, bits in quant.rules),
        signed=tuple(quant.signed),
        unsigned=tuple(quant.unsigned),
        scale_gradient=quant.scale_gradient,
    )


def evaluation_transform(config: ConfigDict, channels: int) -> Transform:
    """The transform of evaluation images."""
    data = config.data
    return Centre(data.image_size, data.resize, channels, data.interpolation)


def training_transform(config: ConfigDict, channels: int) -> Transform:
    """The transform of training images."""
    data = config.data
    if data.augmentation == "resized_crop":
        return RandomResizedCrop(data.image_size, data.flip, channels, data.interpolation)
    before = evaluation_transform(config, channels)
    if not data.crop_padding and not data.flip:
        return before
    return PadAndCrop(data.crop_padding, data.flip, before)


def pretrain_step(config: ConfigDict) -> StepSettings:
    """Settings of a full-precision step: a single pass."""
    pretrain = config.pretrain
    return StepSettings(
        candidates=tuple(config.quant.candidates),
        random_passes=0,
        strategy="loop",
        ema_decay=pretrain.ema_decay,
        loss=LossWeights(label_smoothing=pretrain.label_smoothing, idm=0.0, region=0.0),
        optimizer=OptimizerSettings(
            clip=float("inf"), momentum=pretrain.momentum, weight_decay=pretrain.weight_decay
        ),
    )


def pretrain_plan(config: ConfigDict) -> Plan:
    """The schedule of full-precision training."""
    pretrain = config.pretrain
    return Plan(
        task="pretrain",
        remedy=_remedy("pretrain.lr", pretrain.lr),
        epochs=pretrain.epochs,
        seed=derived_seed(config, "pretrain"),
        lr=pretrain.lr,
        min_lr=pretrain.min_lr,
        warmup_epochs=pretrain.warmup_epochs,
        eval_every=config.train.eval_every,
        log_every=config.train.log_every,
        save_every_steps=config.checkpoints.every_steps,
        save_every_minutes=config.checkpoints.every_minutes,
        max_bad_steps=config.train.max_bad_steps,
    )


def coupled_step(config: ConfigDict) -> StepSettings:
    """Settings of a coupled step."""
    train, losses, optimizer = config.train, config.losses, config.optimizer
    step = StepConfig(
        random_passes=train.random_passes,
        strategy=train.strategy,
        sampling=train.sampling,
        level_spread=train.level_spread,
        smallest_pass=train.smallest_pass,
        label_smoothing=train.label_smoothing,
        distillation=losses.distillation,
        idm=losses.lambda_idm if losses.information_distortion_mitigation else 0.0,
        wd_region=losses.wd_region,
        clip=optimizer.clip,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        adam_b1=optimizer.adam_b1,
        adam_b2=optimizer.adam_b2,
        adam_epsilon=optimizer.adam_epsilon,
        ema_decay=train.ema_decay,
    )
    return step.settings(tuple(config.quant.candidates))


def coupled_plan(config: ConfigDict) -> Plan:
    """The schedule of coupled training."""
    optimizer, scheduler = config.optimizer, config.scheduler
    timing = Timing(
        start_epoch=scheduler.start_epoch,
        period=scheduler.period,
        late_period=scheduler.late_period,
        late_from=scheduler.late_from,
        ratio_min=scheduler.ratio_min,
        ratio_amplitude=scheduler.ratio_amplitude,
        release_from=scheduler.release_from,
    )
    return Plan(
        task="train",
        remedy=_remedy("optimizer.lr", optimizer.lr),
        epochs=config.train.epochs,
        steps_per_epoch=config.train.steps_per_epoch,
        seed=derived_seed(config, "train"),
        lr=optimizer.lr,
        min_lr=optimizer.min_lr,
        warmup_epochs=optimizer.warmup_epochs,
        eval_every=config.train.eval_every,
        log_every=config.train.log_every,
        save_every_steps=config.checkpoints.every_steps,
        save_every_minutes=config.checkpoints.every_minutes,
        max_bad_steps=config.train.max_bad_steps,
        accumulate=config.train.accumulate,
        step_size_lr=optimizer.step_size_lr,
        damping=config.losses.damping,
        damping_start_epoch=config.losses.damping_start_epoch,
        scheduler=timing if scheduler.enabled else None,
        split_candidates=config.quant.split_candidates,
    )


def _remedy(field: str, rate: float) -> str:
    """The suggestion if the loss of a training is not finite."""
    return (
        f"lower config.{field} = {rate:g} in a separate --workdir, or compute with higher "
        "precision (JAX_DEFAULT_MATMUL_PRECISION=highest)"
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
