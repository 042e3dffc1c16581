"""The values that the tasks of a run share, each built once by an explicit function."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax import models
from rfquant_jax.checkpoint.checkpoints import PRETRAIN, Checkpoints, stage_folder
from rfquant_jax.config import settings
from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.sources import DataSet
from rfquant_jax.data.transforms import normalizer
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.latency import LatencyTable
from rfquant_jax.search.variables import SearchSpace
from rfquant_jax.tasks import images, plain_network, problem
from rfquant_jax.tasks.context import Context
from rfquant_jax.tasks.identity import checkpoint_identity


class Run(Context):
    """A context and the values built from its config.

    A value is built when it is first read and does not change. Tasks read what they need and pass
    values on.

    Args:
      data: the images, to share them with another run; by default they are loaded.
      others: see `Context`.

    Attributes:
      measured: trained networks by stage, kept between tasks, see `measure.measured`.
    """

    def __init__(self, *context, data: DataSet | None = None, **others):
        super().__init__(*context, **others)
        self._data = data
        self.measured: dict[str, object] = {}

    def build(self, value: str) -> None:
        """Builds a value before it is needed, so that its errors are raised before any work."""
        getattr(self, value)

    def in_float32(self) -> Run:
        """This run in float32, the reference for exported models."""
        if self.compute_type == jnp.float32:
            return self
        config = copy.deepcopy(self.config)
        config.precision = "float32"
        given = config, self.workdir, self.stop, self.arguments
        return Run(*given, log=self.log, mesh=self.mesh, data=self.data)

    @cached_property
    def preprocess(self) -> Preprocess:
        """Maps images uint8[N, H, W, C] to the network's input in the compute dtype."""
        return normalizer(self.config.data.mean, self.config.data.std, self.compute_type)

    @cached_property
    @in_field_names()
    def data(self) -> DataSet:
        """The images.

        Raises:
          ConfigError: they are missing or do not match the config.
        """
        return self._data or images.load_images(self.config, self.workdir)

    @property
    def _described(self) -> tuple[images.Shape, int]:
        """(H, W, C) of the data set's images and the number of classes."""
        known = images.described(self.config)
        return known or (self.data.image_shape, self.data.num_classes)

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the network's input."""
        size = self.config.data.image_size
        shape, _ = self._described
        return (size, size, shape[-1]) if size else shape

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self._described[1]

    @cached_property
    def pipeline(self) -> Pipeline:
        """The data pipeline."""
        given = self.image_shape, self.mesh.local_mesh.size, self.log_by_process
        return images.make_pipeline(self.config, *given)

    @property
    @in_field_names()
    def _build(self) -> plain_network.Build:
        channels = self.image_shape[-1]
        return plain_network.network_builder(self.config, self.num_classes, channels)

    @cached_property
    @in_field_names()
    def network(self) -> nnx.Module:
        """The plain network, randomly initialised."""
        return models.initialised(self._build)

    @cached_property
    @in_field_names()
    def initial_network(self) -> tuple[nnx.Module, list[str]]:
        """The initial plain network, see `plain_network.with_pretrained_weights`."""
        given = self.config, self.network, self.log_once
        return plain_network.with_pretrained_weights(*given)

    @cached_property
    @in_field_names()
    def abstract_network(self) -> nnx.Module:
        """The plain network with abstract arrays, see `plain_network.abstract_network`."""
        return plain_network.abstract_network(self.config, self._build)

    @cached_property
    @in_field_names()
    def plan(self) -> QuantizationPlan:
        """The quantization plan of the network."""
        quant = settings.quant_settings(self.config)
        return QuantizationPlan.of(self.abstract_network, self.image_shape, quant)

    @property
    def costs(self) -> CostModel:
        """The cost model."""
        return self.plan.cost_model

    @cached_property
    @in_field_names()
    def latencies(self) -> LatencyTable | None:
        """The user's latency table, see `problem.latency_table`."""
        return problem.latency_table(self.config, self.plan)

    def costs_of(self, configuration: np.ndarray) -> dict[str, float]:
        """All available kinds of cost by unit."""
        return problem.costs_of(self.plan, self.latencies, configuration)

    @cached_property
    @in_field_names()
    def search_space(self) -> SearchSpace:
        """The search space, see `problem.search_space`."""
        return problem.search_space(self.config, self.plan)

    @cached_property
    @in_field_names()
    def budgets(self) -> list[Budget]:
        """The budgets, largest first, see `problem.parsed_budgets`."""
        given = self.config, self.plan, self.latencies, self.search_space
        return problem.parsed_budgets(*given)

    @property
    def problem(self) -> problem.SearchProblem:
        """The search problem of the budgets."""
        parts = self.plan, self.search_space, tuple(self.budgets), self.latencies
        return problem.SearchProblem(*parts)

    @cached_property
    def configuration(self) -> np.ndarray | None:
        """The configuration named in the config, int32[L, 2], or None."""
        text = self.config.configuration
        return self.plan.space.parse(text) if text else None

    def checkpoints(
        self,
        stage: str,
        *,
        source: Path | None = None,
        write: bool = False,
        quiet: bool = False,
    ) -> Checkpoints:
        """The checkpoints of a stage, in this run's folder or another run's.

        They must match the network and the images: the same images must have been held out.

        Args:
          stage: `checkpoint.PRETRAIN` or `checkpoint.TRAIN`.
          source: another run's workdir.
          write: whether to save checkpoints there.
          quiet: do not log damaged checkpoints, for use before the workdir is claimed.
        """
        plan = None if stage == PRETRAIN else self.plan
        given = self.config, stage, self.data, self.image_shape, plan
        folder = stage_folder(source or self.workdir, stage)
        log = (lambda message: None) if quiet else self.log_once
        keep = self.config.checkpoints.keep
        return Checkpoints(folder, checkpoint_identity(*given), write=write, keep=keep, log=log)

    def claim(self) -> None:
        """Claims the workdir, see `Context.claim`, and logs what is special about the images."""
        super().claim()
        if self.data.remark:
            self.log_once(self.data.remark)
