"""Exported files: size, agreement with the evaluation, and time per image in onnxruntime.

    python -m benchmarks.export --network=mobilenetv2 --size=224 --folder=DIR
    python -m benchmarks.export --network=cifar_resnet20 --residual_bits=8

Exports an untrained network, calibrated on images, at random bit-widths in every format, and
compares each file with the evaluation on other images, by layer and by prediction. Then runs the
quantized files and the float32 ONNX file interleaved, one image at a time, in onnxruntime, and in
OpenVINO and LiteRT if installed (tests/requirements-runtimes.txt). A timed run follows untimed ones
of the same file, so that caches hold its code and weights and not those of another runtime
(--warm=0: without them). Ratios are of medians, relative to float32 in the same runtime. "folded"
is the session option session.disable_quant_qdq=1, with which onnxruntime dequantizes kernels once
at load time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
from absl import app, flags, logging

from rfquant_jax import models
from rfquant_jax.data.folder import FolderSource
from rfquant_jax.data.index import index_folder
from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.transforms import Centre, normalizer
from rfquant_jax.evaluate.evaluator import Evaluator
from rfquant_jax.export import files
from rfquant_jax.export.formats import integer_reader
from rfquant_jax.export.formats import onnx as onnx_model
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.verify import run_tflite
from rfquant_jax.export.verify.compare import compare_codes, compare_predictions
from rfquant_jax.export.verify.reference import ReferenceModel, fixed_network
from rfquant_jax.export.verify.run_onnx import read_codes, with_codes
from rfquant_jax.export.verify.runners import open_all
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.lsq import FULL_PRECISION
from rfquant_jax.quant.plan import QuantConfig, QuantizationPlan
from rfquant_jax.quant.space import Space
from rfquant_jax.report.tables import table
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.json_files import write_json

_NETWORK = flags.DEFINE_string("network", "cifar_resnet20", "of rfquant_jax.models.REGISTRY")
_SIZE = flags.DEFINE_integer("size", 32, "height and width of the images")
_FOLDER = flags.DEFINE_string("folder", "", "class folders of images; empty: random pixels")
_IMAGES = flags.DEFINE_integer("images", 64, "to compare predictions on", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 16, "images in a batch", lower_bound=1)
_RESIDUAL = flags.DEFINE_enum("residual_bits", "32", ("8", "32"), "of residual additions' inputs")
_ROUNDS = flags.DEFINE_integer("rounds", 51, "timed runs of each file", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 1, "of every runtime", lower_bound=1)
_CLOCK = flags.DEFINE_enum("clock", "wall", ("wall", "cpu"), "cpu: time of all threads, if busy")
_WARM = flags.DEFINE_integer("warm", 2, "untimed runs before each timed one", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "of the bit-widths")
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")

CLASSES = 10  # of random images
FORMATS = ("integer", "onnx", "onnx_small", "onnx_fast", "stablehlo", "c")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    calibration, compared = batches()
    plain = network()
    settings = QuantConfig(residual_bits=int(_RESIDUAL.value))
    plan = QuantizationPlan.of(plain, image_shape(), settings)
    configuration = random_bits(plan.space)
    quantized = calibrated(plain, plan, configuration, calibration)
    model = fold(quantized, image_shape())
    with tempfile.TemporaryDirectory() as folder:
        formats = (*FORMATS, "tflite") if find_spec("ai_edge_litert") else FORMATS
        paths = files.write_all(Path(folder), "mixed", model, formats, ("cpu", "cuda"))
        predicted = CostModel.of(plan.layers).size_mb(configuration) * 2**20
        rows = verified(quantized, model, paths, compared)
        paths["float32"] = Path(folder) / "float32.onnx"
        onnx_model.write(paths["float32"], unquantized(plain), small=False)
        for path in paths.values():
            if path.suffix == ".onnx":
                onnx.checker.check_model(str(path), full_check=True)
        whole = paths["float32"].stat().st_size
        for row in rows:
            row["bytes"] = paths[row["file"]].stat().st_size
            row["smaller"] = whole / row["bytes"]
        timings = timed(paths)
        if find_spec("openvino"):
            in_openvino(paths["onnx"], model, compared)
    print(f"kernels: {model.kernel_bytes} bytes; the search counts {predicted:.1f}")
    print(table(rows, {n: n for n in rows[0]}))
    print()
    print(table(timings, {n: n for n in timings[0]}))
    if _OUT.value:
        content = {"kernel_bytes": model.kernel_bytes, "predicted_bytes": predicted}
        write_json(Path(_OUT.value), content | {"files": rows, "timings": timings})


def batches() -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
    """Four batches of calibration images, and normalised images for comparing predictions."""
    compared = -(-_IMAGES.value // _BATCH.value)
    if _FOLDER.value:
        root = Path(_FOLDER.value)
        index, plain = index_folder(root), Centre(_SIZE.value, _SIZE.value * 8 // 7)
        source = FolderSource(root, index.files, index.labels)
        pipeline = Pipeline(plain, plain, image_shape(), 1, max_bad_fraction=0.1, log=print)
        made = pipeline.training(source, _BATCH.value, seed=0, augment=False)
        found = [made[i] for i in range(4 + compared)]
    else:
        rng = np.random.default_rng(0)
        shape = (_BATCH.value, *image_shape())
        found = [
            {
                "image": rng.integers(0, 256, shape, np.uint8),
                "label": rng.integers(0, CLASSES, _BATCH.value),
            }
            for _ in range(4 + compared)
        ]
    ready = [b | {"image": np.asarray(preprocess()(b["image"]))} for b in found[4:]]
    return [b["image"] for b in found[:4]], ready


def random_bits(space: Space) -> np.ndarray:
    """A random candidate for each layer."""
    rng = np.random.default_rng(_SEED.value)
    rows = [rng.choice(space.allowed(i), 2) for i in range(len(space))]
    return np.asarray(rows, np.int32)


def calibrated(plain, plan: QuantizationPlan, configuration: np.ndarray, images: Sequence):
    """The coupled network at a configuration, calibrated on images, in evaluation mode."""
    mesh = devices.make_mesh(1)
    functional, params, _ = plan.start(plain, images, preprocess(), mesh)
    params = devices.replicate(params, mesh)
    evaluator = Evaluator(functional, mesh, preprocess())
    statistics = evaluator.recalibrate(params, configuration, images)
    return fixed_network(functional, params, statistics, configuration)


def unquantized(plain) -> IntegerModel:
    """The float32 network, BatchNorm folded as in the others."""
    wide = QuantConfig(candidates=(FULL_PRECISION,), fixed_bits=FULL_PRECISION)
    network = QuantizationPlan.of(plain, image_shape(), wide).convert(plain)
    network.eval()
    return fold(network, image_shape()).stored()


def verified(quantized, model: IntegerModel, paths: dict[str, Path], images: list) -> list[dict]:
    """One row per file with its agreement; prints the number of differing codes."""
    reference, exact = ReferenceModel(quantized), ReferenceModel(quantized, np.float64)
    stored = integer_reader.read(paths["integer"]).model()
    for name, made, against in (
        ("float32", stored, reference),
        ("float64", model, exact),
    ):
        counts = compare_codes(made, against, images[:1]).layers.values()
        different, total = sum(c.different for c in counts), sum(c.total for c in counts)
        print(f"codes that differ in {name}: {different} of {total}")
    runners = open_all(paths)
    predictors = {name: runner.predict for name, runner in runners.items()}
    found = compare_predictions(reference, exact, predictors, images)
    counts = {
        name: compare_codes(stored, runner, images[:1]).total if runner.codes else {}
        for name, runner in runners.items()
    }
    return [
        {"file": name, **agreement.as_dict(), "codes": counts[name].get("different")}
        for name, agreement in found.formats.items()
    ]


def timed(paths: dict[str, Path]) -> list[dict]:
    """Median milliseconds per image, and ratios to float32 in the same runtime."""
    names = ("float32", "onnx", "onnx_small", "onnx_fast")
    runs = {("onnxruntime", n): by_onnxruntime(paths[n], folded=False) for n in names}
    runs |= {
        ("onnxruntime", f"{n}, folded"): by_onnxruntime(paths[n], folded=True) for n in names[1:3]
    }
    if find_spec("openvino"):
        for name in ("float32", "onnx", "onnx_fast"):
            runs["openvino", name] = by_openvino(paths[name])
    image = np.random.default_rng(0).normal(size=(1, *image_shape())).astype(np.float32)
    if "tflite" in paths:
        predict, _ = run_tflite.load(paths["tflite"], _THREADS.value)
        runs["litert", "tflite"] = lambda: predict(image)
    clock = time.perf_counter if _CLOCK.value == "wall" else time.process_time
    spent: dict[tuple[str, str], list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS.value):
        for name, run in runs.items():
            for _ in range(_WARM.value):
                run()
            start = clock()
            run()
            spent[name].append(clock() - start)
    medians = {name: 1000 * float(np.median(values)) for name, values in spent.items()}
    return [
        {
            "runtime": runtime,
            "file": name,
            "ms": value,
            # There is no float32 file for LiteRT: relative to onnxruntime's.
            "ratio": value / medians.get((runtime, "float32"), medians["onnxruntime", "float32"]),
        }
        for (runtime, name), value in medians.items()
    ]


def channels_first() -> np.ndarray:
    """One image in ONNX's layout."""
    height, width, channels = image_shape()
    return np.random.default_rng(0).normal(size=(1, channels, height, width)).astype(np.float32)


def by_onnxruntime(path: Path, *, folded: bool) -> Callable[[], object]:
    """Runs a file with onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _THREADS.value
    if folded:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image = channels_first()
    return lambda: session.run(None, {"image": image})


def openvino_model(content: Path | bytes, hint: str | None = "f32"):
    """A model compiled by OpenVINO; without a hint it uses bfloat16 where possible."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": _THREADS.value}
    options |= {"INFERENCE_PRECISION_HINT": hint} if hint else {}
    core = openvino.Core()
    return core.compile_model(core.read_model(content), "CPU", options)


def by_openvino(path: Path) -> Callable[[], object]:
    """Runs a file with OpenVINO in float32."""
    compiled, image = openvino_model(path), channels_first()
    return lambda: compiled(image)


class OpenVinoCodes:
    """Logits and codes in OpenVINO, for `compare_codes`."""

    dtype = np.float32

    def __init__(self, path: Path, hint: str | None):
        self.where, content = with_codes(path)
        self.compiled = openvino_model(content, hint)

    def __call__(self, images: np.ndarray):
        found = self.compiled(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
        by_name = {name: found[o] for o in self.compiled.outputs for name in o.get_names()}
        codes = {layer: read_codes(by_name, entry) for layer, entry in self.where.items()}
        return by_name["logits"], codes


def in_openvino(path: Path, model: IntegerModel, images: list) -> None:
    """Prints the fraction of codes that differ in OpenVINO, in float32 and by default."""
    for hint in ("f32", None):
        counts = compare_codes(model.stored(), OpenVinoCodes(path, hint), images[:1]).total
        share = counts["different"] / counts["total"]
        print(f"OpenVINO, {hint or 'default'}: {share:.2e} of the plain file's codes differ")


def network():
    """The plain network, randomly initialised."""
    count = len(index_folder(Path(_FOLDER.value)).classes) if _FOLDER.value else CLASSES
    return models.create(_NETWORK.value, num_classes=count, channels=3, seed=0)


def preprocess():
    """Maps images to the network's input."""
    return jax.jit(normalizer((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def image_shape() -> tuple[int, int, int]:
    """Height, width, channels."""
    return _SIZE.value, _SIZE.value, 3


if __name__ == "__main__":
    app.run(main)
