"""Loads a trained network from the files of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from rfquant_jax import models
from rfquant_jax.checkpoint.checkpoints import TRAIN, Checkpoints, stage_folder
from rfquant_jax.checkpoint.restore import Reader
from rfquant_jax.config import settings
from rfquant_jax.data.arrays import Images
from rfquant_jax.data.transforms import normalizer
from rfquant_jax.errors import ArgumentError, CheckpointError, UserError
from rfquant_jax.evaluate.recalibrate import statistics
from rfquant_jax.nn import precision
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork, arrays_of, write_arrays
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.configuration import Configuration
from rfquant_jax.quant.coupled_network import CoupledNetwork, identity
from rfquant_jax.quant.layers import assign, evaluate_on_codes
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.quant.quant_config import QuantConfig
from rfquant_jax.quant.statistics import install_statistics
from rfquant_jax.runtime.devices import make_mesh, replicate
from rfquant_jax.runtime.json_files import read_json
from rfquant_jax.tasks.measure import measure_of
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import CONFIG_FILE


class _Origin(NamedTuple):
    """The network that a checkpoint belongs to, and how it was converted."""

    network: nnx.Module
    config: QuantConfig
    image_shape: tuple[int, ...]
    preprocess: Preprocess


def load(
    workdir: str | os.PathLike[str],
    configuration: Configuration,
    *,
    recalibrate: Images = None,
    network: nnx.Module | None = None,
    preprocess: Preprocess | None = None,
    devices: int = 0,
) -> CoupledNetwork:
    """Loads the trained network of a run at one configuration, ready to predict.

    It predicts like the evaluation: with the averaged parameters of the checkpoint with the best
    held-out accuracy (the newest one if none was evaluated), and with BatchNorm statistics
    recalibrated for the configuration.

    Args:
      workdir: the workdir of a command-line run, or the folder `checkpoints` of a `Trainer`.
      configuration: in any form that `set_bits` takes.
      recalibrate: images for the BatchNorm statistics, in the form used for training (uint8 for a
        command-line run). None: the held-out images of the run, as in its evaluation; not possible
        for the folder of a `Trainer`.
      network: a plain network of the same structure, with any weights; required for the folder of a
        `Trainer`. A command-line run has its network in its config.
      preprocess: the `preprocess` given to `couple`, for the folder of a `Trainer`.
      devices: see `couple`.

    Returns:
      a coupled network in evaluation mode. It takes images in the same form as `recalibrate`. It
      computes on integer codes and has no gradients.

    Raises:
      CheckpointError: there is no checkpoint, it is damaged, or it is of another network.
      UserError: not a configuration of the network, or no images to recalibrate on.

    Example:
      >>> config = rfq.TrainConfig(epochs=1, warmup_epochs=0, batch_size=32, scheduler=None)
      >>> _ = rfq.Trainer(coupled, config, checkpoints=folder, log=None).run((images, labels))
      >>> model = rfq.load(folder, "w3a3", network=net, recalibrate=images, devices=1)
      >>> model(images[:4]).argmax(-1).shape
      (4,)
    """
    folder = Path(workdir)
    reader = Reader(stage_folder(folder, TRAIN), {})
    about = _newest(folder, reader)
    if (folder / CONFIG_FILE).exists():
        content = read_json(folder / CONFIG_FILE)
        origin = _of_run(_config(folder, content), about["identity"])
    else:
        origin = _of_trainer(folder, about, network, preprocess)
    plan = QuantizationPlan.of(origin.network, origin.image_shape, origin.config)
    converted = plan.convert(origin.network, about["signed"])
    converted.eval()
    mesh = make_mesh(devices)
    coupled = CoupledNetwork(
        converted, plan, preprocess=origin.preprocess, mesh=mesh, signed=about["signed"]
    )
    rows = plan.configuration(configuration)
    arrays = _averages(folder, about["identity"] | plan.identity(), coupled.functional)
    write_arrays(coupled.network, {name: jnp.asarray(value) for name, value in arrays.items()})
    if recalibrate is None:
        found = _as_evaluated(folder, coupled, rows)
    else:
        params = replicate(arrays_of(coupled.network)[0], mesh)
        found = statistics(coupled, params, rows, recalibrate)
    assign(coupled.network, jnp.asarray(rows))
    install_statistics(coupled.network, {n: jnp.asarray(v) for n, v in found.items()})
    evaluate_on_codes(coupled.network)
    return coupled


def _newest(folder: Path, reader: Reader) -> dict[str, Any]:
    """The JSON content of the newest readable checkpoint.

    Its description of the network is the same in all checkpoints of a run.

    Raises:
      CheckpointError: there is no readable checkpoint.
    """
    readable = reader.readable(reader.steps)
    if not readable:
        raise CheckpointError(f"{folder}: has no readable checkpoint of a coupled network")
    return reader.unchecked(readable[0])


def _config(folder: Path, content: object) -> ConfigDict:
    if not isinstance(content, dict):
        raise UserError(f"{folder / CONFIG_FILE}: is not the config of a run")
    return ConfigDict(content)


def _of_run(config: ConfigDict, found: dict[str, Any]) -> _Origin:
    """The network of a command-line run; neither its data nor its recipe has to exist."""
    shape = tuple(found["image_shape"])
    dtype = precision.compute_type(config.precision)
    network = models.create(
        found["network"],
        num_classes=found["classes"],
        channels=shape[-1],
        seed=config.seed,
        options=found["options"],
    )
    return _Origin(
        precision.compute_in(network, dtype),
        settings.quant_settings(config),
        shape,
        normalizer(config.data.mean, config.data.std, dtype),
    )


def _of_trainer(
    folder: Path, about: dict[str, Any], network: nnx.Module | None, preprocess: Preprocess | None
) -> _Origin:
    if network is None:
        rule = f"must be given: {folder} was written by a Trainer, which stores only arrays"
        raise ArgumentError("network", None, rule)
    config = QuantConfig(**about["quant"])
    return _Origin(network, config, tuple(about["image_shape"]), preprocess or identity)


def _averages(folder: Path, identity: dict[str, Any], functional: FunctionalNetwork) -> Arrays:
    with Checkpoints(stage_folder(folder, TRAIN), identity, log=lambda message: None) as kept:
        step = kept.best if kept.best is not None else kept.latest
        ema = kept.restore_ema(step, {"params": functional.params, "stats": functional.stats})
    return ema["params"] | ema["stats"]


def _as_evaluated(folder: Path, coupled: CoupledNetwork, rows: np.ndarray) -> Arrays:
    """The statistics that the evaluation of the run uses."""
    if not (folder / CONFIG_FILE).exists():
        rule = "must be given: the folder was written by a Trainer, which stores no images"
        raise ArgumentError("recalibrate", None, rule)
    run = Run(_config(folder, read_json(folder / CONFIG_FILE)), folder)
    run.config.devices = coupled.mesh.size
    params = replicate(arrays_of(coupled.network)[0], run.mesh)
    return measure_of(run, coupled.functional).recalibrated(params, rows)
