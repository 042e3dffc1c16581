"""Rules for single fields of the configuration: types and ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from rfquant_jax.config.schema import default_config
from rfquant_jax.errors import ConfigError, UserError

# rule -> (test, fields)
_RULES: dict[str, tuple[Callable[[object], bool], tuple[str, ...]]] = {
    "must be at least 1": (
        lambda v: v >= 1,
        (
            "pretrain.batch_size",
            "quant.calibration_batches",
            "train.batch_size",
            "train.accumulate",
            "train.eval_every",
            "train.log_every",
            "train.max_bad_steps",
            "checkpoints.keep",
            "scheduler.period",
            "scheduler.late_period",
            "evaluate.batch_size",
            "evaluate.recalibration_images",
            "search.batch_size",
            "search.starts",
            "search.keep",
            "search.views",
            "search.images",
            "search.population",
            "search.generations",
            "predict.top",
            "export.images",
            "export.code_images",
            "distributed.start_timeout_seconds",
        ),
    ),
    "must be at least 10": (lambda v: v >= 10, ("search.profile", "search.evaluations")),
    "must be at least 3": (lambda v: v >= 3, ("distributed.heartbeat_timeout_seconds",)),
    "must not be negative": (
        lambda v: v >= 0,
        (
            "devices",
            "export.batch",
            "distributed.processes",
            "distributed.process",
            "checkpoints.every_steps",
            "checkpoints.every_minutes",
            "data.threads",
            "data.num_classes",
            "data.image_size",
            "data.resize",
            "data.crop_padding",
            "pretrain.epochs",
            "pretrain.min_lr",
            "pretrain.warmup_epochs",
            "pretrain.weight_decay",
            "train.epochs",
            "train.random_passes",
            "train.steps_per_epoch",
            "optimizer.min_lr",
            "optimizer.warmup_epochs",
            "optimizer.weight_decay",
            "optimizer.step_size_lr",
            "scheduler.start_epoch",
            "scheduler.ratio_amplitude",
            "losses.lambda_idm",
            "losses.damping",
            "losses.damping_start_epoch",
            "losses.wd_region",
            "search.alpha",
            "search.start_bits",
            "search.min_bits",
            "search.max_bits",
            "search.max_iterations_per_layer",
            "search.frontier_points",
        ),
    ),
    "must lie between 0 and 2147483647": (lambda v: 0 <= v < 2**31, ("seed", "data.split_seed")),
    "must be positive": (
        lambda v: v > 0,
        (
            "pretrain.lr",
            "train.level_spread",
            "optimizer.lr",
            "optimizer.clip",
            "optimizer.adam_epsilon",
        ),
    ),
    "must lie between 0 and 1, both excluded": (
        lambda v: 0 < v < 1,
        ("data.search_fraction", "scheduler.boundary", "search.confirm_fraction"),
    ),
    "must be at least 0 and below 1": (
        lambda v: 0 <= v < 1,
        (
            "data.val_fraction",
            "pretrain.momentum",
            "pretrain.label_smoothing",
            "pretrain.ema_decay",
            "train.label_smoothing",
            "train.ema_decay",
            "optimizer.momentum",
            "optimizer.adam_b1",
            "optimizer.adam_b2",
        ),
    ),
    "must lie between 0 and 1": (
        lambda v: 0 <= v <= 1,
        (
            "data.max_bad_fraction",
            "train.smallest_pass",
            "scheduler.late_from",
            "scheduler.release_from",
            "scheduler.ratio_min",
            "losses.distillation",
            "search.min_load",
            "search.mutation_probability",
            "export.max_unequal",
            "export.max_unequal_float",
            "export.max_differing_codes",
        ),
    ),
    "must be auto, float32 or bfloat16": (
        lambda v: v in ("auto", "float32", "bfloat16"),
        ("precision",),
    ),
    "must be auto, loop or scan": (
        lambda v: v in ("auto", "loop", "scan"),
        ("train.strategy",),
    ),
    "must be independent or levels": (
        lambda v: v in ("independent", "levels"),
        ("train.sampling",),
    ),
    "must be pretrained or checkpoint": (
        lambda v: v in ("pretrained", "checkpoint"),
        ("train.init",),
    ),
    "must be resized_crop or pad": (lambda v: v in ("resized_crop", "pad"), ("data.augmentation",)),
    "must be bilinear or bicubic": (
        lambda v: v in ("bilinear", "bicubic"),
        ("data.interpolation",),
    ),
    "must be error, cross_entropy or divergence": (
        lambda v: v in ("error", "cross_entropy", "divergence"),
        ("search.metric",),
    ),
    "must be trust_region, greedy, paper, evolution or random": (
        lambda v: v in ("trust_region", "greedy", "paper", "evolution", "random"),
        ("search.algorithm",),
    ),
    "must be max or minmax": (lambda v: v in ("max", "minmax"), ("search.normalize",)),
    "must not be empty": (
        lambda v: len(v) > 0,
        ("tasks", "quant.candidates", "search.budgets", "data.mean", "data.std", "export.formats"),
    ),
}


_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    tuple: "a pair of a layer pattern and bit-widths",
}
# Types of the entries of tuple fields that are empty in the default recipe.
_ENTRIES = {
    "quant.signed": str,
    "quant.unsigned": str,
    "quant.rules": tuple,
    "search.pins": tuple,
    "search.groups": tuple,
}


def check_fields(config: ConfigDict) -> None:
    """Checks that every field exists, with the right type and within its range.

    Raises:
      UserError: a field is missing or unknown.
      ConfigError: names the field, its value and the violated rule.
    """
    template, given = dict(leaves(default_config())), dict(leaves(config))
    for name in template.keys() - given.keys():
        raise UserError(
            f"config.{name} is missing: a recipe starts from rfquant_jax.config.default_config()"
        )
    for name in given.keys() - template.keys():
        raise UserError(f"config.{name} is not a field: --help lists them")
    for name, value in given.items():
        _check_type(name, value, template[name])
    for rule, (holds, names) in _RULES.items():
        for name in names:
            if not holds(given[name]):
                raise ConfigError(name, given[name], rule)


def leaves(config: ConfigDict) -> Iterator[tuple[str, object]]:
    """Dotted names and values of all fields except the network's options."""
    return ((n, v) for n, v in flat(config) if not n.startswith("model.options."))


def flat(content: dict | ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values of nested fields."""
    for name, value in content.items():
        if isinstance(value, dict | ConfigDict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check_type(name: str, value: object, example: object) -> None:
    if not isinstance(example, tuple):
        _check_one(name, value, value, type(example))
        return
    if not isinstance(value, tuple | list):
        # The command line turns a comma-separated list of tasks into a string.
        if not (name == "tasks" and isinstance(value, str)):
            raise ConfigError(name, value, "must be a tuple")
        return
    for entry in value:
        _check_one(name, value, entry, _ENTRIES.get(name) or type(example[0]))


def _check_one(name: str, value: object, entry: object, expected: type) -> None:
    allowed = {float: (float, int), tuple: (tuple, list)}.get(expected, (expected,))
    # A bool is an int in Python, but not for users.
    if isinstance(entry, allowed) and isinstance(entry, bool) == (expected is bool):
        return
    subject = "every entry " if isinstance(value, tuple | list) else ""
    raise ConfigError(name, value, f"{subject}must be {_KINDS[expected]}")
