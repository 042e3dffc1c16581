"""The initial state of coupled training: a calibrated network, or that of another run."""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx

from rfquant_jax.checkpoint.checkpoints import TRAIN, Checkpoints
from rfquant_jax.config import settings
from rfquant_jax.data.loader import TrainingBatches
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant.convert import layers_without_feature, signed_layers
from rfquant_jax.quant.remarks import normalization_remarks
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run


class Start(NamedTuple):
    """The initial state of coupled training.

    Attributes:
      functional: the coupled network.
      params: its initial parameters.
      signed: its layers with signed input.
      stats: its initial BatchNorm statistics; None: those of `functional`.
    """

    functional: FunctionalNetwork
    params: Arrays
    signed: list[str]
    stats: Arrays | None = None


def coupled_start(
    run: Run, batches: TrainingBatches, checkpoints: Checkpoints, *, untrained: bool
) -> Start:
    """The initial state of coupled training.

    Args:
      untrained: whether no training follows.
    """
    if checkpoints.latest is not None:
        signed = checkpoints.about(checkpoints.latest)["signed"]
        functional = FunctionalNetwork(run.plan.convert(run.network, signed))
        return Start(functional, functional.params, signed)  # parameters come from the checkpoint
    for line in normalization_remarks(run.abstract_network, run.plan.layers):
        run.log.info(line)
    if run.config.train.init == "checkpoint":
        return _continued(run)
    trained = networks.full_precision(run)
    run.log.info(f"train: starts from the full-precision network {trained.origin}")
    if run.config.checkpoint and networks.has_checkpoints(networks.other_run(run), TRAIN):
        run.log.info(
            f"train: the coupled network of {run.config.checkpoint} is not used; "
            "train.init=checkpoint continues it"
        )
    plain = trained.network()
    if without := layers_without_feature(plain, run.plan.layers):
        run.log.info(
            f"no Feature marks {', '.join(without)}: their BatchNorm's output is the feature"
        )
    start = Start(*(_untrained if untrained else _initial)(run, batches, plain))
    run.log.info(f"layers with signed input: {', '.join(start.signed) or 'none'}")
    return start


def _continued(run: Run) -> Start:
    """The moving average of the coupled network of `config.checkpoint`."""
    trained = networks.coupled(run)
    run.log.info(f"train: starts from the moving average of the coupled network {trained.origin}")
    signed = signed_layers(trained.network())
    return Start(trained.functional, trained.params, signed, trained.stats)


def _initial(run: Run, batches: TrainingBatches, plain: nnx.Module) -> tuple:
    """The initial network, calibrated on the first training batches."""
    count = run.config.quant.calibration_batches
    images = [batches[i]["image"] for i in range(count)]
    run.log.info(f"step sizes: from {count} batches of {batches.batch_size} training images")
    return run.plan.start(plain, images, run.preprocess, run.mesh)


def _untrained(run: Run, batches: TrainingBatches, plain: nnx.Module) -> tuple:
    """The network for use without training, calibrated on training images in evaluation batches."""
    config = run.config
    count = min(config.quant.calibration_batches * batches.batch_size, len(run.data.train))
    size, seed = config.evaluate.batch_size, settings.derived_seed(config, "calibration")
    images = list(run.pipeline.full(run.data.train, size, count, seed=seed))
    run.log.info(
        f"train.epochs is 0: step sizes of least squared error from {count} training images"
    )
    given = run.preprocess, run.mesh, run.stop.check
    return run.plan.start_untrained(plain, images, *given)
