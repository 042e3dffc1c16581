"""Fields of the full-precision training and of the coupled training."""

from __future__ import annotations

from rfquant_jax.config.declaration import Field, of, section
from rfquant_jax.quant.quant_config import QuantConfig
from rfquant_jax.runtime.setting import NOT_EMPTY, at_least, one_of
from rfquant_jax.train.scheduler import SchedulerConfig
from rfquant_jax.train.step_config import StepConfig
from rfquant_jax.train.train_config import TrainConfig

_PLAIN = TrainConfig.full_precision()

PRETRAIN = section(
    "pretrain",
    "full-precision training, one pass per step",
    epochs=of(TrainConfig, "epochs", default=_PLAIN.epochs, more="0: keep config.pretrained"),
    batch_size=of(TrainConfig, "batch_size"),
    lr=of(TrainConfig, "lr", default=_PLAIN.lr),
    min_lr=of(TrainConfig, "min_lr"),
    warmup_epochs=of(TrainConfig, "warmup_epochs"),
    momentum=of(StepConfig, "momentum"),
    weight_decay=of(StepConfig, "weight_decay", default=_PLAIN.step.weight_decay),
    label_smoothing=of(StepConfig, "label_smoothing"),
    ema_decay=of(StepConfig, "ema_decay", "decay per step of the average that is saved"),
)

QUANT = section(
    "quant",
    "the coupled network",
    candidates=of(QuantConfig, "candidates", rule=NOT_EMPTY),
    activation_candidates=of(QuantConfig, "activation_candidates", entries=int),
    depthwise_min_bits=of(QuantConfig, "depthwise_min_bits"),
    fixed_bits=of(QuantConfig, "fixed_bits"),
    rules=of(QuantConfig, "rules", entries=tuple),
    signed=of(QuantConfig, "signed", entries=str),
    unsigned=of(QuantConfig, "unsigned", entries=str),
    residual_bits=of(QuantConfig, "residual_bits"),
    split_candidates=of(SchedulerConfig, "split_candidates"),
    scale_gradient=of(QuantConfig, "scale_gradient"),
    calibration_batches=Field(8, "training batches for activation step sizes", at_least(1)),
)

TRAIN = section(
    "train",
    "coupled training",
    epochs=of(TrainConfig, "epochs", more="0: post-training quantization"),
    init=Field(
        "pretrained",
        "start: the full-precision network, or the coupled network of config.checkpoint",
        one_of(("pretrained", "checkpoint")),
    ),
    batch_size=of(TrainConfig, "batch_size"),
    accumulate=of(StepConfig, "accumulate", resumable=True),
    steps_per_epoch=Field(0, "updates per epoch; 0: one pass over the images"),
    random_passes=of(StepConfig, "random_passes"),
    sampling=of(StepConfig, "sampling"),
    level_spread=of(StepConfig, "level_spread"),
    smallest_pass=of(StepConfig, "smallest_pass"),
    strategy=of(StepConfig, "strategy"),
    label_smoothing=of(StepConfig, "label_smoothing"),
    ema_decay=of(StepConfig, "ema_decay"),
    eval_every=of(TrainConfig, "eval_every"),
    log_every=of(TrainConfig, "log_every", resumable=True),
    max_bad_steps=of(TrainConfig, "max_bad_steps", resumable=True),
)

OPTIMIZER = section(
    "optimizer",
    "of coupled training",
    lr=of(TrainConfig, "lr"),
    min_lr=of(TrainConfig, "min_lr"),
    warmup_epochs=of(TrainConfig, "warmup_epochs"),
    momentum=of(StepConfig, "momentum"),
    weight_decay=of(StepConfig, "weight_decay"),
    clip=of(StepConfig, "clip"),
    adam_b1=of(StepConfig, "adam_b1"),
    adam_b2=of(StepConfig, "adam_b2"),
    adam_epsilon=of(StepConfig, "adam_epsilon"),
    step_size_lr=of(TrainConfig, "step_size_lr"),
)

SCHEDULER = section(
    "scheduler",
    "freezes the smallest bit-width of unstable layers",
    enabled=Field(True, "False: all bit-widths are always sampled"),
    start_epoch=of(SchedulerConfig, "start_epoch"),
    period=of(SchedulerConfig, "period"),
    late_period=of(SchedulerConfig, "late_period"),
    late_from=of(SchedulerConfig, "late_from"),
    release_from=of(SchedulerConfig, "release_from"),
    ratio_min=of(SchedulerConfig, "ratio_min"),
    ratio_amplitude=of(SchedulerConfig, "ratio_amplitude"),
    boundary=of(SchedulerConfig, "boundary"),
)

LOSSES = section(
    "losses",
    "terms besides cross-entropy",
    distillation=of(StepConfig, "distillation"),
    information_distortion_mitigation=Field(True, "False: weight 0, without memory for features"),
    lambda_idm=of(StepConfig, "idm"),
    damping=of(TrainConfig, "damping"),
    damping_start_epoch=of(TrainConfig, "damping_start_epoch"),
    wd_region=of(StepConfig, "wd_region"),
)

DISTILLATION = section(
    "distillation",
    "from a teacher",
    teacher=Field("", "workdir of a run whose full-precision network is the teacher", path=True),
)
