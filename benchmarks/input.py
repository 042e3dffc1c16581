"""Speed of training data: random resized crops, compared with plain Pillow.

    python -m benchmarks.input --folder=DIR

Reads image files from a folder (at any depth) into memory and processes them on one core,
alternating between Pillow (decode, crop, resize, like torchvision) and this project's transform.
Prints images per second and core, as medians over rounds, and their ratio; then the throughput of
the whole input pipeline, including batching and threads.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from rfquant_jax.data.decode import BadImageError
from rfquant_jax.data.folder import FolderSource
from rfquant_jax.data.index import image_files
from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.transforms import Centre, RandomResizedCrop
from rfquant_jax.report.tables import table
from rfquant_jax.runtime.json_files import write_json

_FOLDER = flags.DEFINE_string("folder", None, "folder of images", required=True)
_IMAGES = flags.DEFINE_integer("images", 500, "number of images to use", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 224, "height and width of a crop", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds of each", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 2, "threads of the whole pipeline", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 64, "images in a batch of the whole pipeline", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")


def with_pillow(content: bytes, crop: RandomResizedCrop, rng: np.random.Generator) -> np.ndarray:
    """The same augmentation with Pillow only."""
    with Image.open(io.BytesIO(content)) as image:
        top, left, height, width = crop.region(image.height, image.width, rng)
        part = image.convert("RGB").crop((left, top, left + width, top + height))
        part = part.resize((crop.size, crop.size), Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(part)


def rate(prepare: Callable[[bytes, np.random.Generator], object], contents: list[bytes]) -> float:
    """Images per second of processor time."""
    rng, start = np.random.default_rng(0), time.process_time()
    for content in contents:
        prepare(content, rng)
    return len(contents) / (time.process_time() - start)


def pipeline_rate(source: FolderSource, crop: RandomResizedCrop) -> float:
    """Images per second of the whole pipeline."""
    shape = (crop.size, crop.size, 3)
    pipeline = Pipeline(crop, Centre(crop.size), shape, _THREADS.value, 1.0, log=print)
    batches = pipeline.training(source, min(_BATCH.value, len(source)), seed=0)
    stream = batches.starting_at(0)
    next(stream)  # starts the threads
    count, start = max(4, len(source) // batches.batch_size), time.perf_counter()
    for _ in range(count):
        next(stream)
    return count * batches.batch_size / (time.perf_counter() - start)


def main(_: list[str]) -> None:
    root = Path(_FOLDER.value)
    files = image_files(root)[: _IMAGES.value]
    crop = RandomResizedCrop(_SIZE.value)
    contents = [(root / name).read_bytes() for name in files]
    try:
        for content in contents:
            crop(content, np.random.default_rng(0))
    except BadImageError as error:
        raise SystemExit(f"{root}: {error}; choose images that can all be read") from error
    ways = {
        "Pillow": lambda content, rng: with_pillow(content, crop, rng),
        "this project": crop,
    }
    rounds = {name: [] for name in ways}
    for _ in range(_ROUNDS.value):  # alternating, so that other load affects both equally
        for name, prepare in ways.items():
            rounds[name].append(rate(prepare, contents))
    median = {name: float(np.median(values)) for name, values in rounds.items()}
    source = FolderSource(root, files, np.zeros(len(files), np.int32))
    whole = pipeline_rate(source, crop)
    rows = [{"way": name, "rate": f"{value:.0f}"} for name, value in median.items()]
    print(table(rows, {"way": f"{len(files)} images to {crop.size}", "rate": "images/s and core"}))
    ratio = median["this project"] / median["Pillow"]
    print(f"ratio {ratio:.2f}; whole pipeline, {_THREADS.value} threads: {whole:.0f} images/s")
    if _OUT.value:
        content = {"images per second and core": median, "ratio": ratio, "pipeline": whole}
        write_json(Path(_OUT.value), content | {"rounds": rounds})


if __name__ == "__main__":
    app.run(main)
