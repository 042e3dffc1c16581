"""The config: every field once, with default, meaning, rule and whether it may differ on resume.

`sections/` declares the fields. The defaults are those of the paper for ResNet18 on ImageNet
(RFQuant, CVPR 2024, arXiv 2401.01543). A recipe takes `default_config()` and overrides fields; any
field can be overridden on the command line, for example `--config.optimizer.lr=0.02`. Epochs are
counted from 0.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rfquant_jax.config.declaration import Field
from rfquant_jax.config.sections import data, output, run, search, training

SECTIONS = (
    run.GENERAL,
    run.DISTRIBUTED,
    run.CHECKPOINTS,
    data.MODEL,
    data.DATA,
    training.PRETRAIN,
    training.QUANT,
    training.TRAIN,
    training.OPTIMIZER,
    training.SCHEDULER,
    training.LOSSES,
    training.DISTILLATION,
    search.EVALUATE,
    search.SEARCH,
    output.PREDICT,
    output.EXPORT,
)
FIELDS: dict[str, Field] = {name: field for part in SECTIONS for name, field in part.fields.items()}
RESUMABLE = tuple(name for name, declared in FIELDS.items() if declared.resumable)


def default_config() -> ConfigDict:
    """A new config with every field at its default."""
    config = ConfigDict()
    for part in SECTIONS:
        own = ConfigDict() if part.name else config
        for name, declared in part.fields.items():
            value = declared.default
            own[name.rpartition(".")[2]] = ConfigDict(value) if isinstance(value, dict) else value
        if part.name:
            config[part.name] = own
    return config
