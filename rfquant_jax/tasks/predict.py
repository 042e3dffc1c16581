"""The task `predict`: classes and probabilities for a folder of images."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN
from rfquant_jax.config import transforms
from rfquant_jax.data.folder import FolderSource
from rfquant_jax.data.grouped import share
from rfquant_jax.data.index import image_files
from rfquant_jax.data.reader import PADDING_LABEL
from rfquant_jax.data.transforms import Transform
from rfquant_jax.errors import ConfigError
from rfquant_jax.evaluate.measure import NO_CONFIGURATION
from rfquant_jax.runtime.files import replacing
from rfquant_jax.tasks import kept_statistics
from rfquant_jax.tasks.measure import measured
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import PREDICTIONS_FILE


def predict(run: Run) -> Path:
    """Classifies the images of `config.predict.images`.

    Uses the coupled network at `config.configuration`, with the recalibrated BatchNorm statistics
    of an evaluation of the same configuration, or recalibrated on held-out training images; or the
    full-precision network if no configuration is given.

    Returns:
      the path of the CSV file, with one line per image: its path and the most probable classes with
      their probabilities. Unreadable images have no classes; the log gives the reason.

    Raises:
      UserError: the folder or the network does not exist.
      Interrupted: a signal was received.
    """
    run.claim()
    files, top = list_files(run), min(run.config.predict.top, run.num_classes)
    found = dict(_found(run, files, top))
    path = run.workdir / PREDICTIONS_FILE
    # File names may contain invalid characters; they are written unchanged.
    encoding = {"encoding": "utf-8", "errors": "surrogateescape"}
    with replacing(path) as temporary, temporary.open("w", newline="", **encoding) as file:
        writer = csv.writer(file)
        heading = [f"{what}_{i + 1}" for i in range(top) for what in ("class", "probability")]
        writer.writerow(["image", *heading])
        writer.writerows([name, *found.get(i, [])] for i, name in enumerate(files))
    run.log.info(f"predict: {len(found)} of {len(files)} images classified, see {path}")
    return path


def list_files(run: Run) -> list[str]:
    """The images to classify.

    Raises:
      ConfigError: the folder is missing or has no images, or the network takes images that are not
        square.
    """
    folder = run.config.predict.images
    try:
        files = image_files(Path(folder)) if folder else []
    except OSError as error:
        raise ConfigError("predict.images", folder, f"cannot be read: {error.strerror}") from error
    if not files:
        raise ConfigError("predict.images", folder, "must be a folder with at least one image")
    height, width, _ = run.image_shape
    if height != width:
        rule = f"cannot be cut to {height}x{width}: only square crops are made"
        raise ConfigError("predict.images", folder, rule)
    return files


def _found(run: Run, files: list[str], top: int) -> Iterator[tuple[int, list[str]]]:
    """The index of an image, and the cells after its name."""
    if run.configuration is None:
        found, configuration = measured(run, PRETRAIN), NO_CONFIGURATION
        trained, measure = found.trained, found.measure
        statistics = measure.running(trained.params, trained.stats)
    else:
        found, configuration = measured(run, TRAIN), run.configuration
        trained, measure = found.trained, found.measure
        statistics = kept_statistics.kept(run, trained.origin, configuration)
        if statistics is None:
            statistics = measure.recalibrated(trained.params, configuration)
    # Labels hold image indices. These images are not used for training, so any number may be bad.
    source = FolderSource(Path(run.config.predict.images), files, np.arange(len(files)))
    pipeline = replace(run.pipeline, max_bad_fraction=1.0, plain=_to_size(run))
    batches = pipeline.exact(source, share(run.config.evaluate.batch_size, run.mesh))
    with run.log.progress("predict", len(files)) as progress:
        for numbers, probabilities in measure.evaluator.probabilities(
            trained.params, statistics, configuration, batches
        ):
            run.stop.check()
            for number, values in zip(numbers, probabilities, strict=True):
                if number != PADDING_LABEL:
                    yield int(number), _cells(values, run.data.class_names, top)
                    progress.advance()


def _to_size(run: Run) -> Transform:
    """The transform of images of any size, also if the data set needs none."""
    height, _, channels = run.image_shape
    transform = transforms.evaluation_transform(run.config, channels)
    return replace(transform, size=transform.size or height)


def _cells(probabilities: np.ndarray, names: tuple[str, ...], top: int) -> list[str]:
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [cell for i in best for cell in (names[i], f"{probabilities[i]:.6f}")]
