"""Time per image of the task `evaluate`, compared with a full-precision forward pass.

    python -m benchmarks.evaluate --network=resnet18 --size=224 --batch=16

Evaluates a uniform configuration like the task: one pass that recalibrates BatchNorm, and one pass
over other images that counts correct predictions, including transfers. The plain pass is a compiled
forward pass in the same precision, with running statistics, over the same number of images. All
figures are medians of interleaved measurements in one run, without compilation. Pixels and weights
are random; they do not affect the time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.timing import machine, medians, timed
from rfquant_jax import models
from rfquant_jax.data.transforms import normalizer
from rfquant_jax.evaluate.evaluator import Evaluator
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.nn.precision import TYPES, compute_in, compute_type
from rfquant_jax.quant.calibrate import Preprocess, initialize_activation_steps
from rfquant_jax.quant.plan import QuantConfig, QuantizationPlan
from rfquant_jax.report.tables import table
from rfquant_jax.runtime import devices, host_memory
from rfquant_jax.runtime.json_files import write_json

_NETWORK = flags.DEFINE_string("network", "resnet18", "key of rfquant_jax.models.REGISTRY")
_SIZE = flags.DEFINE_integer("size", 224, "height and width of the images")
_BATCH = flags.DEFINE_integer("batch", 16, "batch size")
_BATCHES = flags.DEFINE_integer("batches", 2, "batches per pass")
_CLASSES = flags.DEFINE_integer("classes", 1000, "number of logits")
_BITS = flags.DEFINE_integer("bits", 4, "bits of the uniform configuration")
_PRECISION = flags.DEFINE_enum("precision", "float32", list(TYPES), "compute type")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "timed passes of each kind")
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    host_memory.keep_freed_memory()
    shape = (_SIZE.value, _SIZE.value, 3)
    plain = models.create(_NETWORK.value, num_classes=_CLASSES.value, channels=3, seed=0)
    plain, batches = compute_in(plain, compute_type(_PRECISION.value)), random_batches(shape)
    runs = {"plain forward pass": forward(FunctionalNetwork(plain), batches)}
    runs |= evaluation(plain, shape, batches)
    compiling = {name: timed(run) for name, run in runs.items()}
    found = medians(runs, _ROUNDS.value)
    images, base = _BATCH.value * _BATCHES.value, found["plain forward pass"]
    rows = [
        {"pass": n, "image_ms": 1000 * s / images, "ratio": s / base, "first_s": compiling[n]}
        for n, s in found.items()
    ]
    columns = {"pass": "pass", "image_ms": "ms an image", "ratio": "over the plain pass"}
    columns["first_s"] = "first, compiling (s)"
    shown = [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    print(table(shown, columns))
    if _OUT.value:
        asked = {"network": _NETWORK.value, "size": _SIZE.value, "batch": _BATCH.value}
        asked |= {"batches": _BATCHES.value, "bits": _BITS.value}
        asked |= {"precision": _PRECISION.value}
        write_json(Path(_OUT.value), {"machine": machine(), "asked": asked, "rows": rows})


def forward(functional: FunctionalNetwork, batches: list[Arrays]) -> Callable[[], object]:
    """The plain network's logits of all batches."""

    @jax.jit
    def logits(params, stats, images):
        network = functional.merge(params, stats)
        network.eval()
        return network(preprocess()(images))

    arrays = jax.device_put((functional.params, functional.stats))
    return lambda: [np.asarray(logits(*arrays, batch["image"])) for batch in batches]


def evaluation(plain, shape: tuple[int, int, int], batches: list[Arrays]) -> dict[str, Callable]:
    """The two passes of the task, on one device."""
    plan, mesh = QuantizationPlan.of(plain, shape, QuantConfig()), devices.make_mesh(1)
    functional, images = (
        FunctionalNetwork(plan.convert(plain)),
        [batch["image"] for batch in batches],
    )
    steps = initialize_activation_steps(functional, plan.space, images[:1], preprocess(), mesh)
    params = devices.replicate(steps, mesh)
    evaluator = Evaluator(functional, mesh, preprocess())
    chosen = plan.space.uniform(_BITS.value, _BITS.value)
    stats = devices.replicate(functional.stats, mesh)
    statistics = evaluator.running_statistics(params, stats, chosen)
    return {
        "recalibration": lambda: evaluator.recalibrate(params, chosen, images),
        "exact evaluation": lambda: evaluator.accuracy(params, statistics, chosen, batches),
    }


def preprocess() -> Preprocess:
    """Maps images to the network's input."""
    return normalizer((0.5,), (0.25,), compute_type(_PRECISION.value))


def random_batches(shape: tuple[int, int, int]) -> list[Arrays]:
    """Random pixels and classes."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (_BATCH.value, *shape), dtype=np.uint8),
            "label": rng.integers(0, _CLASSES.value, _BATCH.value).astype(np.int32),
        }
        for _ in range(_BATCHES.value)
    ]


if __name__ == "__main__":
    app.run(main)
