"""Time of the convolutions for processors, compared with XLA's, by layer.

    python -m benchmarks.convolutions --network=mobilenetv2 --size=224 --batch=8

Every distinct convolution of the network runs with `rfquant_jax.ops.convolution.convolve` and with
`jax.lax.conv_general_dilated`: the output, the input gradient and the kernel gradient. Figures are
medians of interleaved measurements in one run, on random float32 arrays. "over ours" is XLA's time
over ours: above 1, the kernel in `rfquant_jax/ops/cpu/` is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging
from flax import nnx

from benchmarks.timing import machine, medians
from rfquant_jax import models
from rfquant_jax.ops.convolution import convolve
from rfquant_jax.ops.cpu import switch
from rfquant_jax.report.tables import table
from rfquant_jax.runtime import host_memory
from rfquant_jax.runtime.json_files import write_json

_NETWORK = flags.DEFINE_enum("network", "mobilenetv2", sorted(models.REGISTRY), "its layers")
_SIZE = flags.DEFINE_integer("size", 224, "height and width of the images", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "images", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "timed runs of each", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")

Convolve = Callable[..., jax.Array]


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    host_memory.keep_freed_memory()
    network = models.create(_NETWORK.value, num_classes=1000, channels=3, seed=0)
    rows = [measured(*call) for call in convolutions(network).values()]
    columns = {"image": "image", "kernel": "kernel", "stride": "stride"}
    for what in ("output", "input gradient", "kernel gradient"):
        columns |= {f"{what} (ms)": f"{what} (ms)", f"{what} over": "over ours"}
    shown = [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    print(table(shown, columns))
    if _OUT.value:
        asked = {"network": _NETWORK.value, "size": _SIZE.value, "batch": _BATCH.value}
        write_json(Path(_OUT.value), {"machine": machine(), "asked": asked, "rows": rows})


def convolutions(network: nnx.Module) -> dict[tuple, tuple]:
    """Shape of the input, shape of the kernel and options of every distinct convolution."""
    found: dict[tuple, tuple] = {}

    def record(x, kernel, strides, padding, *, rhs_dilation, feature_group_count, **others):
        options = {
            "strides": tuple(strides),
            "padding": padding if isinstance(padding, str) else tuple(map(tuple, padding)),
            "dilation": tuple(rhs_dilation),
            "groups": feature_group_count,
        }
        found[(x.shape, kernel.shape, *options.values())] = x.shape, kernel.shape, options
        return convolve(x, kernel, **options)

    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = record
    images = jax.ShapeDtypeStruct((_BATCH.value, _SIZE.value, _SIZE.value, 3), np.float32)
    network.eval()
    jax.eval_shape(network, images)
    return found


def by_xla(x, kernel, **options) -> jax.Array:
    """The convolution that `convolve` replaces."""
    with switch.without(*switch.KERNELS):
        return convolve(x, kernel, **options)


def measured(x_shape: tuple, kernel_shape: tuple, options: dict) -> dict:
    """A row: milliseconds of our output and gradients, and XLA's times over ours."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in (x_shape, kernel_shape))
    g = np.asarray(by_xla(x, kernel, **options))
    x, kernel, g = map(jax.device_put, (x, kernel, g))
    runs = {}
    for who, operation in (("ours", convolve), ("xla", by_xla)):
        for what, run in programs(operation, options).items():
            runs[who, what] = lambda run=run: jax.block_until_ready(run(x, kernel, g))
    for run in runs.values():
        run()  # compiles
    seconds = medians(runs, _ROUNDS.value)
    row = {"image": "x".join(map(str, x_shape)), "kernel": "x".join(map(str, kernel_shape))}
    row["stride"] = "x".join(map(str, options["strides"]))
    for what in ("output", "input gradient", "kernel gradient"):
        row[f"{what} (ms)"] = 1e3 * seconds["ours", what]
        row[f"{what} over"] = seconds["xla", what] / seconds["ours", what]
    return row


def programs(operation: Convolve, options: dict) -> dict[str, Callable]:
    """Compiled output, input gradient and kernel gradient of a convolution."""

    def output(x, kernel, g):
        return operation(x, kernel, **options)

    def gradient(number: int) -> Callable:
        def run(x, kernel, g):
            return jax.vjp(lambda *both: operation(*both, **options), x, kernel)[1](g)[number]

        return jax.jit(run)

    return {
        "output": jax.jit(output),
        "input gradient": gradient(0),
        "kernel gradient": gradient(1),
    }


if __name__ == "__main__":
    app.run(main)
