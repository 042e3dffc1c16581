"""Every field of the config: default, meaning with unit, rule, and whether it may differ on resume.

The defaults are those of the paper for ResNet18 on ImageNet (RFQuant, CVPR 2024, arXiv 2401.01543).
A recipe takes `default_config()` and overrides fields; any field can be overridden on the command
line, for example `--config.optimizer.lr=0.02`. Epochs are counted from 0.

`field` declares a field here; numbers must not be negative if no rule is given. `of` refers to a
settings class of the library, which has default, meaning and rule; `settings.py` passes the value
on to it. `resumable` fields may differ when a run is resumed.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rfquant_jax.config import search_algorithms
from rfquant_jax.config.declaration import Field, field, of, section
from rfquant_jax.config.search_algorithms import ALGORITHMS, ON_PROFILE
from rfquant_jax.config.transforms import AUGMENTATIONS, RESIZED_CROP
from rfquant_jax.data.transforms import INTERPOLATIONS
from rfquant_jax.export.format_names import FORMATS, PLATFORMS
from rfquant_jax.nn.precision import AUTO, TYPES
from rfquant_jax.quant.quant_config import QuantConfig
from rfquant_jax.runtime.setting import FRACTION, INSIDE, NOT_EMPTY, SEED, at_least, one_of, some_of
from rfquant_jax.search.greedy import NORMALIZATIONS
from rfquant_jax.search.metrics import METRICS
from rfquant_jax.search.sampling import EvolutionSettings
from rfquant_jax.train.scheduler import SchedulerConfig
from rfquant_jax.train.step_config import StepConfig
from rfquant_jax.train.train_config import TrainConfig

_PLAIN = TrainConfig.full_precision()
_TASKS = ("pretrain", "train", "search", "evaluate")
_FORMATS = ("integer", "onnx", "onnx_small", "onnx_fast", "stablehlo", "c", "bundle")

_GENERAL = section(
    "",
    "general",
    tasks=field(_TASKS, "these, export and predict, or cost alone", NOT_EMPTY, resumable=True),
    seed=field(0, "seed of initial weights, data order, sampled configurations", SEED),
    devices=field(0, "number of devices, over all processes; 0: all", resumable=True),
    deterministic=field(False, "on GPU: bitwise reproducible, slower; CPU always is"),
    compilation_cache=field(
        "auto", "folder; auto: in the user's cache folder; empty: none", resumable=True
    ),
    precision=field(AUTO, "compute dtype; auto: bfloat16 on GPU only", one_of((AUTO, *TYPES))),
    checkpoint=field("", "workdir of another run with trained networks"),
    pretrained=field("", "file of PyTorch-named weights to start from; see pretrain.epochs"),
    configuration=field(
        "", "for evaluate, export, predict or cost: JSON file or w4a4", resumable=True
    ),
)

_DISTRIBUTED = section(
    "distributed",
    "one run in several processes, on one host or many",
    resumable=True,
    detect=field(True, "join the cluster that JAX detects (SLURM, Open MPI, ...)"),
    coordinator=field("", "HOST:PORT of process 0 if no cluster is detected"),
    processes=field(0, "number of processes, with a coordinator"),
    process=field(0, "index of this process, with a coordinator"),
    start_timeout_seconds=field(300, "time for all processes to connect", at_least(1)),
    heartbeat_timeout_seconds=field(30, "without heartbeat, a process counts as lost", at_least(3)),
)

_CHECKPOINTS = section(
    "checkpoints",
    "in addition to checkpoints at evaluations",
    resumable=True,
    keep=field(2, "newest checkpoints to keep per stage, besides the best", at_least(1)),
    every_steps=field(0, "updates between checkpoints; 0: off"),
    every_minutes=field(15.0, "minutes between checkpoints; 0: off"),
)

_MODEL = section(
    "model",
    "the network",
    name=field("resnet18", "a network of rfquant_jax.models.REGISTRY"),
    options=field(ConfigDict(), "additional arguments of the network's constructor"),
)

_DATA = section(
    "data",
    "the images",
    name=field("folder", "folder, digits, or tfds: and the name of a prepared data set"),
    path=field(
        "", "folder with train and val; for TFDS its data_dir, empty: its default", resumable=True
    ),
    num_classes=field(0, "required number of classes; 0: any; the task cost trusts it"),
    image_size=field(224, "height and width of the network's input; 0: unchanged"),
    resize=field(256, "pixels of the shorter side before the centre crop; 0: image_size"),
    interpolation=field("bilinear", "for resizing", one_of(INTERPOLATIONS)),
    augmentation=field(
        RESIZED_CROP,
        "of training images; resized_crop: random area and aspect",
        one_of((*AUGMENTATIONS,)),
    ),
    crop_padding=field(4, "pixels of padding on each side with pad"),
    flip=field(True, "flip training images left to right with probability 0.5"),
    mean=field((0.485, 0.456, 0.406), "subtracted from images in [0, 1], per channel", NOT_EMPTY),
    std=field((0.229, 0.224, 0.225), "divides them afterwards, per channel", NOT_EMPTY),
    max_bad_fraction=field(
        0.01, "fraction of a data set's images that may be unreadable", FRACTION, resumable=True
    ),
    search_fraction=field(0.01, "fraction of training images held out for the search", INSIDE),
    split_seed=field(0, "seed of the held-out split; independent of config.seed", SEED),
    threads=field(0, "batches prepared in parallel; 0: one per CPU core", resumable=True),
)

_PRETRAIN = section(
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

_QUANT = section(
    "quant",
    "the coupled network",
    candidates=of(QuantConfig, "candidates", rule=NOT_EMPTY),
    depthwise_min_bits=of(QuantConfig, "depthwise_min_bits"),
    fixed_bits=of(QuantConfig, "fixed_bits"),
    rules=of(QuantConfig, "rules", entries=tuple),
    signed=of(QuantConfig, "signed", entries=str),
    unsigned=of(QuantConfig, "unsigned", entries=str),
    split_candidates=of(SchedulerConfig, "split_candidates"),
    scale_gradient=of(QuantConfig, "scale_gradient"),
    calibration_batches=field(8, "training batches for activation step sizes", at_least(1)),
)

_TRAIN = section(
    "train",
    "coupled training",
    epochs=of(TrainConfig, "epochs", more="0: post-training quantization"),
    batch_size=of(TrainConfig, "batch_size"),
    accumulate=of(StepConfig, "accumulate", resumable=True),
    steps_per_epoch=field(0, "updates per epoch; 0: one pass over the images"),
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

_OPTIMIZER = section(
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

_SCHEDULER = section(
    "scheduler",
    "freezes the smallest bit-width of unstable layers",
    enabled=field(True, "False: all bit-widths are always sampled"),
    start_epoch=of(SchedulerConfig, "start_epoch"),
    period=of(SchedulerConfig, "period"),
    late_period=of(SchedulerConfig, "late_period"),
    late_from=of(SchedulerConfig, "late_from"),
    release_from=of(SchedulerConfig, "release_from"),
    ratio_min=of(SchedulerConfig, "ratio_min"),
    ratio_amplitude=of(SchedulerConfig, "ratio_amplitude"),
    boundary=of(SchedulerConfig, "boundary"),
)

_LOSSES = section(
    "losses",
    "terms besides cross-entropy",
    distillation=of(StepConfig, "distillation"),
    information_distortion_mitigation=field(True, "False: weight 0, without memory for features"),
    lambda_idm=of(StepConfig, "idm"),
    damping=of(TrainConfig, "damping"),
    damping_start_epoch=of(TrainConfig, "damping_start_epoch"),
    wd_region=of(StepConfig, "wd_region"),
)

_DISTILLATION = section(
    "distillation",
    "from a teacher",
    teacher=field("", "workdir of a run whose full-precision network is the teacher"),
)

_EVALUATE = section(
    "evaluate",
    "accuracy, after recalibration of BatchNorm",
    batch_size=field(128, "images per device", at_least(1)),
    recalibration_images=field(7000, "maximum number of held-out images", at_least(1)),
    augment=field(False, "recalibrate on augmented images"),
)

_SEARCH = section(
    "search",
    "configurations for budgets",
    budgets=field(
        "33.9G", "list of 33.9G, 2.3MB, 60KB, 5ms, 30G+2MB, 1.05*w4a4, 50%:MB", NOT_EMPTY
    ),
    algorithm=field(
        ON_PROFILE,
        "how configurations are found",
        one_of((ON_PROFILE, *ALGORITHMS)),
        more=search_algorithms.NOTES,
    ),
    profile=field(400, "trust_region: configurations measured once for all budgets", at_least(10)),
    evaluations=field(60, "trust_region and random: evaluations per budget", at_least(10)),
    images=field(2000, "trust_region: maximum number of images of a profile", at_least(1)),
    views=field(5, "trust_region: maximum number of augmented views of few images", at_least(1)),
    batch_size=field(256, "held-out images per batch of an evaluation", at_least(1)),
    starts=field(
        16,
        "cuts of evaluations (not trust_region); fewer: less memory, slower",
        at_least(1),
        resumable=True,
    ),
    confirm_fraction=field(
        0.5,
        "fraction of held-out images reserved for confirmation",
        INSIDE,
        more="trust_region with fewer than 2,000: each half proposes, the other half confirms",
    ),
    start_bits=field(0, "initial uniform bit-width; 0: 5, else the middle candidate"),
    min_bits=field(0, "minimum bit-width; 0: the smallest candidate"),
    max_bits=field(0, "maximum bit-width; 0: the largest candidate"),
    use_frozen=field(True, "include bit-widths frozen in the checkpoint"),
    pins=field((), "(layer pattern, (weight bits, activation bits)): fixed bits", entries=tuple),
    groups=field((), "(weights, activations or both, layer patterns): equal bits", entries=tuple),
    latency_table=field("", "JSON or CSV of layer, w_bits, a_bits, milliseconds"),
    alpha=field(1.5, "weight of the error relative to the cost"),
    metric=field(
        "divergence", 'what candidates are compared by; "paper" uses error', one_of((*METRICS,))
    ),
    normalize=field("minmax", "error and cost over the candidates", one_of(NORMALIZATIONS)),
    joint=field(False, "greedy: weights and activations move in one phase"),
    max_iterations_per_layer=field(20, "then only downward moves; 0: unlimited"),
    frontier_points=field(12, "number of configurations of the curve to confirm, of 30"),
    keep=of(EvolutionSettings, "parents", "random and evolution: finalists to confirm; parents"),
    min_load=of(EvolutionSettings, "least", "random and evolution: fraction of the budget to use"),
    population=of(EvolutionSettings, "population", "evolution: configurations per generation"),
    generations=of(EvolutionSettings, "generations", "evolution: number of generations"),
    mutation_probability=of(
        EvolutionSettings, "probability", "evolution: probability of changing a bit-width"
    ),
)

_PREDICT = section(
    "predict",
    "classes of images",
    resumable=True,
    images=field("", "folder of images to classify, at any depth"),
    top=field(5, "classes per image, most probable first", at_least(1)),
)

_EXPORT = section(
    "export",
    "files of configurations, and their verification",
    resumable=True,
    formats=field(
        _FORMATS, "files to write, integer always; tflite needs ai-edge-litert", some_of(FORMATS)
    ),
    platforms=field(("cpu", "cuda"), "of the StableHLO artifact", some_of(PLATFORMS)),
    batch=field(0, "batch size of the StableHLO artifact; 0: any"),
    images=field(1000, "maximum number of held-out images to verify predictions", at_least(1)),
    code_images=field(100, "of these, images to compare the codes of every layer", at_least(1)),
    # Allowed fractions of differing predictions and of codes per layer; one may always differ.
    max_unequal=field(
        0.001, "fraction of predictions of the integer runtime unlike float64", FRACTION
    ),
    # Other formats have their own float rounding, like the evaluation in float32: 0.001 is the
    # goal, and this bound is only exceeded by broken files.
    max_unequal_float=field(
        0.005, "fraction of predictions of other formats unlike float32", FRACTION
    ),
    max_differing_codes=field(
        1e-5, "fraction of codes per layer in float32, due to rounding; none in float64", FRACTION
    ),
)

SECTIONS = (
    _GENERAL,
    _DISTRIBUTED,
    _CHECKPOINTS,
    _MODEL,
    _DATA,
    _PRETRAIN,
    _QUANT,
    _TRAIN,
    _OPTIMIZER,
    _SCHEDULER,
    _LOSSES,
    _DISTILLATION,
    _EVALUATE,
    _SEARCH,
    _PREDICT,
    _EXPORT,
)
FIELDS: dict[str, Field] = {name: field for part in SECTIONS for name, field in part.fields.items()}
RESUMABLE = tuple(name for name, declared in FIELDS.items() if declared.resumable)


def default_config() -> ConfigDict:
    """A new config with every field at its default."""
    config = ConfigDict()
    for part in SECTIONS:
        own = ConfigDict() if part.name else config
        for name, declared in part.fields.items():
            empty = isinstance(declared.default, ConfigDict)
            own[name.rpartition(".")[2]] = ConfigDict() if empty else declared.default
        if part.name:
            config[part.name] = own
    return config
