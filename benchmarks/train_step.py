"""Seconds of a coupled step against plain full-precision steps, for each way to string its passes.

    python -m benchmarks.train_step --network=cifar_resnet20 --batch=64

The ratio is that of medians measured in turn in one run: a coupled step of 1 + K passes over 1 + K
plain steps of the same network, batch and optimizer. 1 is the price of the passes' arithmetic.

On real images, with their classes: --folder=DIR, laid out as DIR/<class>/*. The peak of the
process's memory is that of the whole run: to compare ways, measure one a run.
"""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.timing import machine, timed
from rfquant_jax import models, parallel
from rfquant_jax.bits import Space
from rfquant_jax.data.folder import FolderSource
from rfquant_jax.data.index import index_folder
from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.transforms import Centre, RandomResizedCrop, normalizer
from rfquant_jax.models.pure import PureNetwork
from rfquant_jax.quant.blueprint import Blueprint, QuantSettings
from rfquant_jax.report import table
from rfquant_jax.train.optimizer import OptimizerSettings
from rfquant_jax.train.passes import LossWeights
from rfquant_jax.train.state import Masks, Rates
from rfquant_jax.train.step import STRATEGIES, CoupledStep, StepSettings
from rfquant_jax.workdir import write_json

_NETWORK = flags.DEFINE_string("network", "cifar_resnet20", "of rfquant_jax.models.REGISTRY")
_SIZE = flags.DEFINE_integer("size", 32, "height and width of the images")
_BATCH = flags.DEFINE_integer("batch", 64, "images a device")
_PASSES = flags.DEFINE_integer("random_passes", 3, "K")
_IDM = flags.DEFINE_bool("idm", True, "information distortion mitigation")
_STRATEGIES = flags.DEFINE_list("strategies", list(STRATEGIES), "to compare")
_ROUNDS = flags.DEFINE_integer("rounds", 11, "timed steps of each kind")
_FOLDER = flags.DEFINE_string("folder", "", "class folders of images; empty: random pixels")
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")

RATES = Rates(np.float32(0.01), np.float32(1e-5), np.float32(0.1))
CLASSES = 10  # of random images


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    steps = {"plain": stepper(plain_step())}
    for strategy in _STRATEGIES.value:
        steps[strategy] = stepper(coupled_step(strategy))
    compiling = {name: timed(step) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS.value):
        for name, step in steps.items():
            step()  # not timed: it pays for the memory that the kind before it took
            seconds[name].append(timed(step))
    floor = (1 + _PASSES.value) * float(np.median(seconds["plain"]))
    rows = []
    for name, values in seconds.items():
        median = float(np.median(values))
        ratio = None if name == "plain" else median / floor
        row = {"step": name, "first_s": compiling[name], "median_ms": 1000 * median}
        rows.append(row | {"ratio": ratio})
    columns = {"step": "step", "median_ms": "median (ms)", "first_s": "first, compiling (s)"}
    columns["ratio"] = f"over {1 + _PASSES.value} plain steps"
    shown = [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    print(table(shown, columns))
    # Kilobytes, on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak of the process's memory: {peak / 2**30:.1f} GiB")
    if _OUT.value:
        asked = {"network": _NETWORK.value, "size": _SIZE.value, "batch": _BATCH.value}
        asked |= {"random_passes": _PASSES.value, "idm": _IDM.value}
        content = {"machine": machine(), "asked": asked, "rows": rows, "peak_bytes": peak}
        write_json(Path(_OUT.value), content)


def network():
    """The plain network, freshly initialised."""
    count = len(index_folder(Path(_FOLDER.value)).classes) if _FOLDER.value else CLASSES
    return models.create(_NETWORK.value, num_classes=count, channels=3, seed=0)


def settings(strategy: str, random_passes: int, loss: LossWeights) -> StepSettings:
    """The paper's step."""
    return StepSettings(
        candidates=QuantSettings().candidates,
        random_passes=random_passes,
        strategy=strategy,
        ema_decay=0.9997,
        loss=loss,
        optimizer=OptimizerSettings(weight_decay=2.5e-5),
    )


def plain_step() -> tuple[CoupledStep, Space]:
    """A full-precision step: one plain pass and the update."""
    candidates = QuantSettings().candidates
    empty = Space((), candidates, np.zeros((0, len(candidates)), bool))
    chosen = settings("loop", 0, LossWeights(idm=0.0))
    return CoupledStep(PureNetwork(network()), mesh(), preprocess(), chosen), empty


def coupled_step(strategy: str) -> tuple[CoupledStep, Space]:
    """A coupled step with every ingredient on."""
    plain = network()
    blueprint = Blueprint.of(plain, image_shape(), QuantSettings())
    loss = LossWeights(idm=0.01 if _IDM.value else 0.0, region=-2.5e-5)
    pure = PureNetwork(blueprint.convert(plain))
    chosen = settings(strategy, _PASSES.value, loss)
    return CoupledStep(pure, mesh(), preprocess(), chosen), blueprint.space


def stepper(made: tuple[CoupledStep, Space]) -> Callable[[], None]:
    """A function that takes the next step and waits for it."""
    step, space = made
    masks = Masks(space.full_mask, space.full_mask)
    batches = images(_BATCH.value * step.mesh.size)

    def states() -> Iterator[None]:
        state = step.init(step.pure.params)
        for number, batch in enumerate(batches):
            parts = [parallel.split(batch, step.mesh)]
            state, *_ = step(state, parts, masks, RATES, jax.random.key(number))
            jax.block_until_ready(state)
            yield

    running = states()
    return lambda: next(running)


def images(count: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end: the same random pixels, or a folder's images, cropped at random."""
    if _FOLDER.value:
        root = Path(_FOLDER.value)
        index = index_folder(root)
        source = FolderSource(root, index.files, index.labels)
        crop, shape = RandomResizedCrop(_SIZE.value), image_shape()
        pipeline = Pipeline(crop, Centre(_SIZE.value), shape, 1, max_bad_fraction=0.1, say=print)
        return pipeline.training(source, count, seed=0).starting_at(0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, *image_shape()), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    return itertools.repeat({"image": pixels, "label": labels})


def mesh() -> jax.sharding.Mesh:
    """All devices."""
    return parallel.make_mesh(0)


def preprocess():
    """Images to the network's input."""
    return normalizer((0.5,), (0.25,))


def image_shape() -> tuple[int, int, int]:
    """Height, width, channels."""
    return _SIZE.value, _SIZE.value, 3


if __name__ == "__main__":
    app.run(main)
