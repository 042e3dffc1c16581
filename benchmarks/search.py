"""Time per candidate of the search, compared with a full-precision forward pass.

    python -m benchmarks.search --network=resnet18 --size=224 --batch=16

One iteration of the greedy search evaluates every layer's weights one bit-width lower and higher
than the uniform configuration of `--bits`. Figures are medians of interleaved measurements in one
run: the forward pass of the same batch (same precision, running statistics), and the time of the
iteration divided by the number of candidates, with and without shared prefixes. Trace counts are of
the whole run; compile time is that of the first iteration.

`--whole` also runs a complete search (greedy, or `--algorithm`) from `--bits` to the
budget of the uniform configuration with one bit less, and reports its evaluations and its time in
forward passes. The network is untrained, so the number of moves is not that of a trained network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.timing import machine, medians, timed
from configs import default
from rfquant_jax import models
from rfquant_jax.config import settings
from rfquant_jax.config.search_algorithms import ALGORITHMS, search_algorithm
from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.sources import ArraySource
from rfquant_jax.data.transforms import Centre, normalizer
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.nn.precision import TYPES, compute_in, compute_type
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.plan import QuantConfig, QuantizationPlan
from rfquant_jax.quant.space import WEIGHTS, Space
from rfquant_jax.report.tables import table
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.json_files import write_json
from rfquant_jax.search.budget import parse_budget
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.prefix import choose_starts
from rfquant_jax.search.problem import Problem
from rfquant_jax.search.variables import make_search_space

_NETWORK = flags.DEFINE_string("network", "resnet18", "key of rfquant_jax.models.REGISTRY")
_SIZE = flags.DEFINE_integer("size", 224, "height and width of the images")
_BATCH = flags.DEFINE_integer("batch", 16, "images")
_CLASSES = flags.DEFINE_integer("classes", 1000, "number of logits")
_BITS = flags.DEFINE_integer("bits", 5, "uniform bit-width of the iteration's start")
_STARTS = flags.DEFINE_list("starts", ["16", "1"], "largest numbers of starting points to compare")
_PRECISION = flags.DEFINE_enum("precision", "float32", list(TYPES), "compute type")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed iterations of each kind")
_WHOLE = flags.DEFINE_bool("whole", False, "also a whole search, at the first number of starts")
_ALGORITHM = flags.DEFINE_enum("algorithm", "greedy", list(ALGORITHMS), "of the whole search")
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    shape = (_SIZE.value, _SIZE.value, 3)
    dtype = compute_type(_PRECISION.value)
    plain = models.create(_NETWORK.value, num_classes=_CLASSES.value, channels=3, seed=0)
    plain = compute_in(plain, dtype)
    plan = QuantizationPlan.of(plain, shape, QuantConfig())
    batches, mesh = random_batches(shape), devices.make_mesh(1)
    preprocess = normalizer((0.5,), (0.25,), dtype)
    functional, params, _ = plan.start(plain, [batches[0]["image"]], preprocess, mesh)
    configurations, largest = one_iteration(plan.space), plan.space.largest
    macs = [layer.macs for layer in plan.layers if layer.candidates]
    runs = {"plain forward": plain_forward(plain, preprocess, batches[0]["image"])}
    evaluators = {}
    for most in map(int, _STARTS.value):
        starts = choose_starts(macs, most)
        evaluate = CandidateEvaluator(
            functional, params, mesh, preprocess, batches, largest, "error", starts
        )
        name = (
            f"candidate, {len(starts)} starting points" if most > 1 else "candidate, whole passes"
        )
        evaluators[name] = evaluate
        runs[name] = lambda evaluate=evaluate: evaluate(configurations, 0)
    first = {name: timed(run) for name, run in runs.items()}
    seconds = medians(runs, _ROUNDS.value)
    rows = []
    for name, value in seconds.items():
        evaluate = evaluators.get(name)
        each = value / len(configurations) if evaluate else value
        row = {"what": name, "seconds": each, "ratio": each / seconds["plain forward"]}
        rows.append(row | {"first_s": first[name]})
    if _WHOLE.value:
        found = whole_search(plan, next(iter(evaluators.values())))
        rows.append(found | {"ratio": found["seconds"] / seconds["plain forward"]})
    traces = {name: evaluate.traces for name, evaluate in evaluators.items()}
    show(rows, traces, len(configurations))


def whole_search(plan: QuantizationPlan, evaluator: CandidateEvaluator) -> dict:
    """Evaluations and seconds of a search for one bit less."""
    config = default.get_config()
    config.search.algorithm = _ALGORITHM.value
    config.search.start_bits = _BITS.value
    evaluate = evaluator.by(settings.search_metric(config))
    costs, search_space = CostModel.of(plan.layers), make_search_space(plan.space)
    less = _BITS.value - 1
    budget = parse_budget(f"1*w{less}a{less}", costs.kinds(), plan.space)
    spent: list[int] = []

    def counted(configurations: np.ndarray, iteration: int) -> np.ndarray:
        spent.append(len(configurations))
        return evaluate(configurations, iteration)

    algorithm = search_algorithm(config, len(plan.space), lambda move, after: None)
    evaluate(one_iteration(plan.space), 0)  # compiles
    lasted = timed(lambda: algorithm(Problem(search_space, (budget,), counted)))
    name = f"a whole search, {config.search.algorithm}"
    return {"what": name, "evaluations": sum(spent), "seconds": lasted}


def show(rows: list[dict], traces: dict[str, dict], candidates: int) -> None:
    """Prints the table and writes the numbers."""
    columns = {"what": "", "seconds": "seconds", "ratio": "over plain"}
    columns |= {"first_s": f"first iteration of {candidates} (s)"}
    if _WHOLE.value:
        columns |= {"evaluations": "evaluations"}
    shown = [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    print(table(shown, columns))
    for name, counts in traces.items():
        print(f"traces in all, {name}: {', '.join(f'{k} {v}' for k, v in counts.items())}")
    if _OUT.value:
        asked = {"network": _NETWORK.value, "size": _SIZE.value, "batch": _BATCH.value}
        content = {"machine": machine(), "asked": asked, "rows": rows, "traces": traces}
        write_json(Path(_OUT.value), content)


def random_batches(shape: tuple[int, int, int]):
    """Batches of random pixels; the content does not affect the time."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (_BATCH.value, *shape), dtype=np.uint8)
    labels = rng.integers(0, _CLASSES.value, _BATCH.value)
    pipeline = Pipeline(Centre(0), Centre(0), shape, 1, max_bad_fraction=0.0, log=print)
    return pipeline.training(ArraySource(pixels, labels), _BATCH.value, seed=0, augment=False)


def one_iteration(space: Space) -> np.ndarray:
    """The candidates int32[N, L, 2] of a move of weights."""
    search_space = make_search_space(space)
    base = search_space.uniform(_BITS.value, _BITS.value)
    return np.stack(
        [variable.assign(base, bits) for variable, bits in search_space.neighbours(base, WEIGHTS)]
    )


def plain_forward(network, preprocess, images: np.ndarray) -> Callable[[], None]:
    """A compiled full-precision forward pass that waits for its result."""
    network.eval()
    functional = FunctionalNetwork(network)

    @jax.jit
    def forward(params, stats, images):
        return functional.merge(params, stats)(preprocess(images))

    return lambda: forward(functional.params, functional.stats, images).block_until_ready()


if __name__ == "__main__":
    app.run(main)
