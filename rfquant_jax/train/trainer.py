"""Training of coupled and plain networks from Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from rfquant_jax.checkpoint.checkpoints import TRAIN, Checkpoints, stage_folder
from rfquant_jax.data.arrays import LabelledImages, check_labels, is_pair
from rfquant_jax.data.loader import Pipeline, TrainingBatches
from rfquant_jax.data.sources import ArraySource, Source
from rfquant_jax.data.transforms import Centre, Transform
from rfquant_jax.errors import ArgumentError
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork, arrays_of, write_arrays
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.coupled_network import CoupledNetwork, check_divisible, identity
from rfquant_jax.quant.forward import logits_shape
from rfquant_jax.quant.space import Space
from rfquant_jax.report.history import History
from rfquant_jax.runtime import cpus, devices
from rfquant_jax.runtime.signals import StopSignal
from rfquant_jax.train.loop import Score, TrainingLoop
from rfquant_jax.train.no_checkpoints import NoCheckpoints
from rfquant_jax.train.plan import Plan
from rfquant_jax.train.scheduler import InstabilityMeter
from rfquant_jax.train.step import TrainStep
from rfquant_jax.train.train_config import TrainConfig

PLAIN = "pretrain"  # name of full-precision training in messages
# score(network with averaged values) -> {name: accuracy in percent}
ScoreNetwork = Callable[[nnx.Module], dict[str, float]]


class Trainer:
    """Trains a coupled network for all configurations, or a plain network in full precision.

    Args:
      network: a `CoupledNetwork` or a plain module. `run` writes the averaged parameters and
        statistics into it.
      config: settings; None: `TrainConfig()`, for a plain network `TrainConfig.full_precision()`.
      preprocess: for a plain network only, see `couple`.
      devices: number of devices, for a plain network only, see `couple`.
      checkpoints: folder for checkpoints, for a coupled network only. Training resumes from the
        newest checkpoint there; `load` reads them. None: no checkpoints.
      log: called with each one-line message; None: silent.

    Raises:
      ArgumentError: an argument does not fit the network.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543).

    Example:
      >>> config = rfq.TrainConfig(epochs=2, warmup_epochs=0, batch_size=32, scheduler=None)
      >>> trainer = rfq.Trainer(coupled, config, log=None)
      >>> records = trainer.run((images, labels))
      >>> [record["step"] for record in records]
      [4]
      >>> loss = records[-1]["loss"]  # of the pass at the largest bit-widths
    """

    def __init__(
        self,
        network: nnx.Module,
        config: TrainConfig | None = None,
        *,
        preprocess: Preprocess | None = None,
        devices: int | None = None,
        checkpoints: str | os.PathLike[str] | None = None,
        log: Callable[[str], object] | None = print,
    ):
        self._network, self._history = network, History(log)
        self._coupled = network if isinstance(network, CoupledNetwork) else None
        if self._coupled is not None:
            self._of_coupled(self._coupled, config, preprocess, devices)
        else:
            self._of_plain(network, config, preprocess, devices, checkpoints)
        settings = self.config.step.settings(self._space.candidates)
        self._step = TrainStep(self._functional, self._mesh, self._preprocess, settings)
        self._folder = None if checkpoints is None else Path(checkpoints)

    def _of_coupled(self, coupled, config, preprocess, devices) -> None:
        for name, given in (("preprocess", preprocess), ("devices", devices)):
            if given is not None:
                raise ArgumentError(name, given, "a coupled network has its own; see `couple`")
        self.config = config or TrainConfig()
        self._functional, self._mesh, self._preprocess = (
            coupled.functional,
            coupled.mesh,
            coupled.preprocess,
        )
        self._space, self._trained = coupled.plan.space, coupled.network

    def _of_plain(self, network, config, preprocess, count, checkpoints) -> None:
        self.config = config or TrainConfig.full_precision()
        if self.config.step.random_passes or self.config.scheduler is not None:
            rule = "is for a coupled network; start from TrainConfig.full_precision()"
            raise ArgumentError("config", "this config", rule)
        if checkpoints is not None:
            raise ArgumentError("checkpoints", checkpoints, "are only written for coupled networks")
        self._functional, self._mesh = FunctionalNetwork(network), devices.make_mesh(count or 0)
        self._preprocess, self._trained = preprocess or identity, network
        self._space = Space((), (8,), np.zeros((0, 1), bool))

    @property
    def traces(self) -> dict[str, int]:
        """Trace count of each compiled function."""
        return self._step.traces

    def run(
        self,
        data: LabelledImages | Source,
        *,
        augment: Transform | None = None,
        score: ScoreNetwork | None = None,
    ) -> list[dict[str, float]]:
        """Trains to the end and writes the averaged values into the network.

        Args:
          data: (images [N, H, W, C], labels int[N]), or a source of records {"image", "label"} with
            `__len__` and `__getitem__`. Images are the input of `preprocess`.
          augment: `augment(image [H, W, C], numpy Generator) -> image`, applied to every training
            image.
          score: called every `eval_every` epochs with the network, which then holds the averaged
            values; returns {name: accuracy in percent}.

        Returns:
          records {"step", "epoch", "loss", "accuracy", ...}, one every `log_every` steps and one at
          the end. Names without a prefix belong to the max pass, those with "random/" and
          "smallest/" to the other passes.

        Raises:
          ArgumentError: the batch size is not divisible by the number of devices, there are fewer
            images, or the network has no logit for a label.
          RunFailure: values were not finite in `max_bad_steps` consecutive steps, or a checkpoint
            cannot be written.
        """
        plan = self.config.plan(PLAIN if self._coupled is None else TRAIN)
        source = ArraySource(*map(np.asarray, data)) if is_pair(data) else data
        if is_pair(data):
            check_labels(source.labels, self._logits(source.images))
        batches = self._batches(source, augment)
        with self._checkpoints(len(source)) as kept:
            loop = TrainingLoop(
                plan,
                self._step,
                batches,
                self._space,
                checkpoints=kept,
                log=self._history,
                stop=StopSignal(),
                score=None if score is None else self._scoring(score),
                meter=self._meter(plan),
                about=self._about(),
            )
            state = loop.run(*arrays_of(self._trained))
        self._write(state.ema_params, state.ema_stats)
        return self._history.records

    def _logits(self, images: np.ndarray) -> int:
        """The number of logits."""
        if self._coupled is not None:
            return self._coupled.plan.logits_shape[-1]
        inputs = jax.eval_shape(self._preprocess, images[:1])
        return logits_shape(self._trained, inputs.shape[1:])[-1]

    def _batches(self, source: Source, augment: Transform | None) -> TrainingBatches:
        size = self.config.batch_size
        check_divisible("batch_size", size, self._mesh, self.config.step.accumulate)
        if size > len(source):
            raise ArgumentError("batch_size", size, f"there are only {len(source)} images")
        pipeline = Pipeline(
            augmented=augment or Centre(0),
            plain=Centre(0),
            threads=cpus.available(),
            shape=np.shape(source[0]["image"]),
            max_bad_fraction=0.0,
            log=self._history.info,
        )
        return pipeline.training(source, size, seed=self.config.seed)

    def _meter(self, plan: Plan) -> InstabilityMeter | None:
        scheduler = self.config.scheduler
        if scheduler is None:
            return None
        return InstabilityMeter(self._functional, scheduler.boundary, self._space.candidates)

    def _checkpoints(self, images: int) -> AbstractContextManager[Any]:
        if self._folder is None or self._coupled is None:
            return NoCheckpoints()
        plan = self._coupled.plan
        identity = {"images": images, "image_shape": list(plan.image_shape)} | plan.identity()
        folder = stage_folder(self._folder, TRAIN)
        return Checkpoints(folder, identity, write=True, log=self._history.info)

    def _about(self) -> dict[str, Any]:
        """JSON content of the checkpoints that `load` needs besides the arrays."""
        if self._coupled is None:
            return {}
        return {
            "signed": list(self._coupled.signed),
            "quant": asdict(self._coupled.plan.settings),
            "image_shape": list(self._coupled.plan.image_shape),
        }

    def _scoring(self, score: ScoreNetwork) -> Score:
        def scored(params: Arrays, stats: Arrays) -> dict[str, float]:
            self._write(params, stats)
            return score(self._network)

        return scored

    def _write(self, params: Arrays, stats: Arrays) -> None:
        arrays = {name: devices.local_copy(value) for name, value in (params | stats).items()}
        write_arrays(self._trained, arrays)
