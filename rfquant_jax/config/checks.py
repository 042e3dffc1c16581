"""Rules between fields of the configuration, checked before any work starts."""

from __future__ import annotations

from ml_collections import ConfigDict

from rfquant_jax.config import search_bits, settings
from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.config.fields import check_fields
from rfquant_jax.config.transforms import RESIZED_CROP
from rfquant_jax.errors import ConfigError
from rfquant_jax.quant.quant_config import CANDIDATES_RULE, MAX_BITS
from rfquant_jax.search.budget import check_budget
from rfquant_jax.search.ties import COLUMNS

TASKS = ("pretrain", "train", "search", "evaluate", "export", "predict", "cost")


def tasks(config: ConfigDict) -> tuple[str, ...]:
    """The tasks to run, in order; comma-separated strings inside the tuple are split.

    Raises:
      ConfigError: an unknown task, or no task.
    """
    given = (config.tasks,) if isinstance(config.tasks, str) else config.tasks
    asked = [name.strip() for entry in given for name in str(entry).split(",")]
    for name in asked:
        if name not in TASKS:
            raise ConfigError("tasks", name, f"must be among {', '.join(TASKS)}")
    return tuple(name for name in TASKS if name in asked)


def budgets(config: ConfigDict) -> tuple[str, ...]:
    """The budgets as the user wrote them.

    Raises:
      ConfigError: there is no budget, or one is malformed.
    """
    asked = tuple(part.strip() for part in config.search.budgets.split(",") if part.strip())
    if not asked:
        raise ConfigError("search.budgets", config.search.budgets, "names no budget")
    units = ("G", "MB", "ms") if config.search.latency_table else ("G", "MB")
    with in_field_names():
        for text in asked:
            check_budget(text, units)
    return asked


def validate(config: ConfigDict) -> None:
    """Checks every field by itself and in combination with others.

    Raises:
      ConfigError: names the field, its value and the violated rule.
    """
    check_fields(config)
    _check_tasks(config)
    budgets(config)
    _check_processes(config)
    _check_settings(config)
    _check_bits(config)
    _check_images(config)
    _check_export(config)


def _check_processes(config: ConfigDict) -> None:
    given = config.distributed
    if not given.coordinator:
        if given.processes > 1:
            rule = "needs distributed.coordinator, the HOST:PORT of process 0"
            raise ConfigError("distributed.processes", given.processes, rule)
        return
    host, _, port = given.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError("distributed.coordinator", given.coordinator, "must be HOST:PORT")
    if given.processes < 1:
        rule = "must be the number of processes, as a coordinator is given"
        raise ConfigError("distributed.processes", given.processes, rule)
    if given.process >= given.processes:
        rule = f"must be below distributed.processes {given.processes}: the first one is 0"
        raise ConfigError("distributed.process", given.process, rule)


def _check_images(config: ConfigDict) -> None:
    data = config.data
    if data.num_classes == 1:
        rule = "must be 0 or at least 2: with one class there is nothing to learn"
        raise ConfigError("data.num_classes", 1, rule)
    if min(data.std) <= 0:
        raise ConfigError("data.std", data.std, "must be positive")
    if 0 < data.resize < data.image_size:
        raise ConfigError("data.resize", data.resize, f"must reach image_size {data.image_size}")
    if data.image_size == 0 and data.resize:
        rule = "must be 0 where image_size is 0, which takes images as they are"
        raise ConfigError("data.resize", data.resize, rule)
    if data.image_size == 0 and data.augmentation == RESIZED_CROP:
        rule = "resized_crop needs an image_size to resize to; pad does without"
        raise ConfigError("data.augmentation", data.augmentation, rule)


def _check_export(config: ConfigDict) -> None:
    if not config.export.formats:
        raise ConfigError("export.formats", config.export.formats, "must not be empty")
    if "cpu" not in config.export.platforms:
        rule = "must include cpu, on which the artifact is verified"
        raise ConfigError("export.platforms", config.export.platforms, rule)


def _check_tasks(config: ConfigDict) -> None:
    asked = tasks(config)
    if "cost" in asked and len(asked) > 1:
        raise ConfigError("tasks", asked, "cost stands alone: it needs neither data nor checkpoint")
    if config.checkpoint and "pretrain" in asked:
        rule = "cannot be given together with the task pretrain, whose result it stands for"
        raise ConfigError("checkpoint", config.checkpoint, rule)
    if "train" in asked and config.train.init == "checkpoint":
        if not config.checkpoint:
            rule = "needs config.checkpoint, the folder of a run with a coupled network"
            raise ConfigError("train.init", config.train.init, rule)
        if config.train.epochs == 0:
            rule = "trains nothing, so that train.init=checkpoint has no effect"
            raise ConfigError("train.epochs", 0, rule)


def _check_settings(config: ConfigDict) -> None:
    """The rules of the library's settings classes."""
    with in_field_names(settings.targets(settings.PRETRAIN)):
        settings.pretrain_config(config)
    with in_field_names(settings.targets(settings.COUPLED)):
        settings.quant_settings(config)
        settings.train_config(config)
    if "pretrain" in tasks(config) and config.pretrain.epochs == 0 and not config.pretrained:
        rule = "0 leaves the weights as they are, which only makes sense with config.pretrained"
        raise ConfigError("pretrain.epochs", 0, rule)


def _check_bits(config: ConfigDict) -> None:
    candidates = config.quant.candidates
    if candidates[-1] > MAX_BITS:  # 32 alone leaves nothing to search
        raise ConfigError("quant.candidates", candidates, CANDIDATES_RULE.text)
    search_bits.check(config)
    for pin in config.search.pins:
        _check_pin(pin)
    for group in config.search.groups:
        _check_group(group)


def _check_pin(pin: object) -> None:
    pair = isinstance(pin, tuple | list) and len(pin) == 2 and isinstance(pin[0], str)
    bits = pin[1] if pair and isinstance(pin[1], tuple | list) else ()
    if len(bits) != 2 or not all(isinstance(b, int) for b in bits):
        rule = "must be a layer pattern and a (weight bits, activation bits) pair"
        raise ConfigError("search.pins", pin, rule)


def _check_group(group: object) -> None:
    strings = isinstance(group, tuple | list) and all(isinstance(entry, str) for entry in group)
    if not strings or len(group) < 2 or group[0] not in COLUMNS:
        rule = f"must be one of {', '.join(COLUMNS)}, and layer patterns"
        raise ConfigError("search.groups", group, rule)


def to_plain(config: ConfigDict) -> dict:
    """The config as JSON-ready dictionaries and lists."""

    def plain(value):
        if isinstance(value, ConfigDict):
            return {name: plain(value[name]) for name in value}
        return [plain(v) for v in value] if isinstance(value, tuple | list) else value

    return plain(config)
