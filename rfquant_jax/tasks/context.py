"""The context of a run: config, workdir, devices, data and networks."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from rfquant_jax import data, models
from rfquant_jax.checkpoint.checkpoints import Checkpoints, stage_folder
from rfquant_jax.config import checks, search_bits, settings, transforms
from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.config.path_fields import expand_paths
from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.sources import DataSet
from rfquant_jax.data.transforms import normalizer
from rfquant_jax.errors import ConfigError, RunFailure, UserError
from rfquant_jax.models.pretrained.files import read_weights
from rfquant_jax.models.pretrained.load import load_weights
from rfquant_jax.nn import precision
from rfquant_jax.nn.mode import following_mode
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.forward import summary
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.report.log import RunLog
from rfquant_jax.runtime import cpus, devices
from rfquant_jax.runtime.compilation_cache import keep_compiled
from rfquant_jax.runtime.locks import WorkdirLock
from rfquant_jax.runtime.signals import StopSignal
from rfquant_jax.search.budget import Budget, CostKind, parse_budget
from rfquant_jax.search.greedy import check_reachable
from rfquant_jax.search.latency import LatencyTable, read_latencies
from rfquant_jax.search.variables import SearchSpace, make_search_space
from rfquant_jax.tasks.stored_data import numbered_data, stored_data
from rfquant_jax.tasks.workdir import COMMAND_FILE, claim, write_json


class Run:
    """State shared by all tasks of a run; everything is computed lazily.

    The first run of a process determines the folder of the compilation cache.

    Args:
      config: see `config/schema.py`; validated here.
      workdir: where results go.
      stop: asked between pieces of work whether to stop; by default nothing stops the run.
      arguments: the command line, `launch.py` first, where there is one; for reports.

    Raises:
      ConfigError: a field breaks a rule.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path | str,
        stop: StopSignal | None = None,
        arguments: Sequence[str] | None = None,
    ):
        checks.validate(config)
        config = expand_paths(config)
        self.arguments = arguments
        self.config, self.workdir = config, Path(workdir)
        self.stop = stop or StopSignal()
        self.stop.agree = devices.any_process
        if config.deterministic:
            devices.compute_deterministically()
        self._cache_remark = keep_compiled(config.compilation_cache)
        self._said: set[str] = set()
        self._lock: WorkdirLock | None = None

    @property
    def compute_type(self) -> DTypeLike:
        """The compute dtype, see `nn.precision`."""
        return precision.compute_type(self.config.precision)

    def in_float32(self) -> Run:
        """This run in float32, the reference for exported models."""
        if self.compute_type == jnp.float32:
            return self
        config = copy.deepcopy(self.config)
        config.precision = "float32"
        other = Run(config, self.workdir, self.stop)
        other.log, other.mesh, other.data = self.log, self.mesh, self.data
        return other

    @cached_property
    def preprocess(self) -> Preprocess:
        """Maps images uint8[N, H, W, C] to the network's input in the compute dtype."""
        return normalizer(self.config.data.mean, self.config.data.std, self.compute_type)

    @cached_property
    def log(self) -> RunLog:
        """Messages and metrics."""
        return RunLog(self.workdir, silent=not devices.is_first_process())

    @cached_property
    @in_field_names()
    def mesh(self) -> jax.sharding.Mesh:
        """The devices."""
        return devices.make_mesh(self.config.devices)

    @cached_property
    @in_field_names()
    def data(self) -> DataSet:
        """The images.

        Raises:
          ConfigError: they are missing or do not match the config.
        """
        loaded = self._stored_data or data.load(self.config.data)
        self._check_images(loaded.image_shape, loaded.num_classes)
        return loaded

    @property
    def _stored_data(self) -> DataSet | None:
        """The data set without its images, which prediction in full precision does not need.

        A checkpoint describes it; for imported weights without images, the classes are numbers.
        """
        config = self.config
        if checks.tasks(config) != ("predict",) or config.configuration:
            return None
        other = [Path(config.checkpoint)] if config.checkpoint else []
        stored = stored_data([self.workdir, *other])
        known = data.described(config.data)
        if stored is None and known and config.pretrained and not config.data.path:
            return numbered_data(*known)
        return stored

    def _check_images(self, shape: tuple[int, int, int], classes: int) -> None:
        wanted = self.config.data
        for field in ("mean", "std"):
            if len(wanted[field]) not in (1, shape[-1]):
                rule = f"must have one number, or one for each of the {shape[-1]} channels"
                raise ConfigError(f"data.{field}", wanted[field], rule)
        if wanted.num_classes not in (0, classes):
            rule = f"does not agree with the data set, which has {classes}"
            raise ConfigError("data.num_classes", wanted.num_classes, rule)
        if not wanted.image_size and 0 in shape:
            rule = f"must be given: images of {wanted.name} have no size in common"
            raise ConfigError("data.image_size", 0, rule)

    @property
    def _described(self) -> tuple[tuple[int, int, int], int]:
        """(H, W, C) of the data set's images and the number of classes; see `data.described`."""
        cost_alone = checks.tasks(self.config) == ("cost",)
        known = data.described(self.config.data) if cost_alone else None
        if known is None:
            return self.data.image_shape, self.data.num_classes
        self._check_images(*known)
        return known

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
        channels, wanted = self.image_shape[-1], self.config.data
        return Pipeline(
            augmented=transforms.training_transform(self.config, channels),
            plain=transforms.evaluation_transform(self.config, channels),
            threads=wanted.threads or cpus.available(),
            shape=self.image_shape,
            max_bad_fraction=wanted.max_bad_fraction,
            log=self._log_bad_images,
            process=jax.process_index(),
            processes=jax.process_count(),
            devices=self.mesh.local_mesh.size,
        )

    @property
    @in_field_names()
    def _builder(self):
        build = models.builder(
            self.config.model.name,
            num_classes=self.num_classes,
            channels=self.image_shape[-1],
            seed=self.config.seed,
            options=self.config.model.options,
        )
        return lambda: following_mode(precision.compute_in(build(), self.compute_type))

    @cached_property
    @in_field_names()
    def network(self) -> nnx.Module:
        """The plain network, randomly initialised."""
        return models.initialised(self._builder)

    @cached_property
    @in_field_names()
    def initial_network(self) -> tuple[nnx.Module, list[str]]:
        """The initial plain network, with the weights of `config.pretrained`.

        Also the names of tensors that were not loaded because the number of classes differs.

        Raises:
          UserError: the file cannot be read or does not fit.
        """
        network = nnx.clone(self.network)
        if not self.config.pretrained:
            return network, []
        tensors = read_weights(Path(self.config.pretrained), self._log_once)
        return network, load_weights(network, self.config.model.name, tensors)

    @cached_property
    @in_field_names()
    def abstract_network(self) -> nnx.Module:
        """The plain network with abstract arrays.

        Raises:
          RunFailure: its constructor fails; names the line. The cause is attached.
        """
        try:
            return models.abstract(self._builder)
        except UserError:
            raise
        except Exception as error:  # the network may be user code
            what = f"config.model.name={self.config.model.name}: its constructor fails"
            raise RunFailure(f"{what}: {summary(error)}") from error

    @cached_property
    @in_field_names()
    def plan(self) -> QuantizationPlan:
        """The quantization plan of the network."""
        quant = settings.quant_settings(self.config)
        return QuantizationPlan.of(self.abstract_network, self.image_shape, quant)

    @cached_property
    def costs(self) -> CostModel:
        """The cost model."""
        return CostModel.of(self.plan.layers)

    @cached_property
    @in_field_names()
    def latencies(self) -> LatencyTable | None:
        """The user's latency table, if any.

        Raises:
          UserError: their file cannot be read or does not fit the network.
        """
        path = self.config.search.latency_table
        if not path:
            return None
        fixed = [layer.name for layer in self.plan.layers if not layer.candidates]
        return read_latencies(Path(path), self.plan.space, fixed)

    def costs_of(self, configuration: np.ndarray) -> dict[str, float]:
        """All available kinds of cost by unit."""
        costs = self.costs.of_one(configuration)
        if self.latencies is not None:
            costs["latency_ms"] = self.latencies(configuration)
        return costs

    @cached_property
    @in_field_names()
    def search_space(self) -> SearchSpace:
        """The search space.

        Raises:
          ConfigError: a pin or a group does not fit the network.
        """
        search = self.config.search
        smallest, largest = search_bits.limits(self.config)
        return make_search_space(
            self.plan.space,
            min_bits=smallest,
            max_bits=largest,
            pins=search.pins,
            groups=search.groups,
        )

    @cached_property
    @in_field_names()
    def budgets(self) -> list[Budget]:
        """The budgets to search for, largest first, all reachable.

        Raises:
          UserError: a budget is malformed or cannot be reached.
        """
        space = self.plan.space
        kinds = self.costs.kinds()
        if self.latencies is not None:
            kinds["ms"] = CostKind("ms", "ms", self.latencies)
        parsed = [parse_budget(b, kinds, space) for b in checks.budgets(self.config)]
        check_reachable(self.search_space, parsed)
        return sorted(parsed, key=lambda budget: budget.load(space.largest))

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
        images = ["name", "search_fraction", "split_seed", "mean", "std"]
        if self.config.data.val_fraction:  # absent from checkpoints of earlier releases
            images.append("val_fraction")
        found = {
            "number of training and held-out images": [
                len(self.data.train),
                len(self.data.held_out),
            ],
            "version": self.data.training_version,
        }
        identity = {
            "stage": stage,
            "network": self.config.model.name,
            "options": dict(self.config.model.options),
            "classes": self.data.num_classes,
            "class_names": list(self.data.class_names),
            "image_shape": list(self.image_shape),
            "data": {name: checks.to_plain(self.config.data[name]) for name in images} | found,
        }
        if stage != "pretrain":
            identity |= self.plan.identity()
        folder = stage_folder(source or self.workdir, stage)
        log = (lambda message: None) if quiet else self._log_once
        keep = self.config.checkpoints.keep
        return Checkpoints(folder, identity, write=write, keep=keep, log=log)

    def _log_bad_images(self, message: str) -> None:
        """Each process reads its own images, and only process 0 has a log."""
        if devices.is_first_process():
            self.log.info(message)
        else:
            print(f"process {jax.process_index()}: {message}", file=sys.stderr)

    def _log_once(self, message: str) -> None:
        """Logs a message once; several tasks may find the same damaged checkpoint."""
        if message not in self._said:
            self._said.add(message)
            self.log.info(message)

    @in_field_names()
    def claim(self) -> None:
        """Claims the workdir for this run until `close`; called first by every task that writes.

        Raises:
          UserError: the folder cannot be written, is in use by another process, or belongs to a run
            with another config.
        """
        written = copy.deepcopy(self.config)
        # So that a run started on GPU does not resume with another dtype elsewhere.
        written.precision = jnp.dtype(self.compute_type).name
        claim(self.workdir, written, self._take_lock)
        if self.arguments and devices.is_first_process():
            write_json(self.workdir / COMMAND_FILE, {"arguments": list(self.arguments)})
        if self.data.remark:
            self.log.info(self.data.remark)
        if self._cache_remark:
            self._log_once(f"{self._cache_remark}; see config.compilation_cache")

    def _take_lock(self, path: Path) -> None:
        # The processes of one run share its folder; process 0 holds the lock.
        if self._lock is None and devices.is_first_process():
            self._lock = WorkdirLock(path, self.log.info)

    def close(self) -> None:
        """Closes the log and lets other processes use the workdir."""
        self.log.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
