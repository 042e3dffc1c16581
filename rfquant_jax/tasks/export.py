"""The task `export`: integer models of configurations, verified against the evaluation."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from rfquant_jax.checkpoint.checkpoints import TRAIN
from rfquant_jax.config import checks
from rfquant_jax.errors import ConfigError, UserError, listed
from rfquant_jax.export import files, format_names
from rfquant_jax.export.formats import integer, integer_reader, tflite_graph
from rfquant_jax.export.formats.c_program import memory_of
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.trace.capture import capture
from rfquant_jax.export.verify.reference import ReferenceModel, fixed_network
from rfquant_jax.export.verify.runners import open_all
from rfquant_jax.export.verify.verify import Limits, compare_files, disagreements
from rfquant_jax.report.tables import COSTS
from rfquant_jax.runtime.extras import missing
from rfquant_jax.runtime.json_files import write_json
from rfquant_jax.tasks.export_report import export_table
from rfquant_jax.tasks.measure import measured
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.verification import VerificationImages, accuracy
from rfquant_jax.tasks.winners import configurations, file_name, searched
from rfquant_jax.tasks.workdir import EXPORT_FILE, EXPORT_FOLDER


def export(run: Run) -> dict:
    """Writes and verifies integer models of the config's configuration, or of all winners.

    Returns:
      the content of `export.json`.

    Raises:
      UserError: there is nothing to export, the network cannot be exported, a file cannot be
        written, or files and evaluation disagree beyond the limits in the config section `export`,
        which `export.json` then also reports.
      Interrupted: a signal was received.
    """
    run.claim()
    run = run.in_float32()  # files are compared with a float32 evaluation
    wanted, path = configurations(run), run.workdir / EXPORT_FILE
    coupled, images = measured(run, TRAIN), _images(run)
    trained, measure = coupled.trained, coupled.measure
    path.unlink(missing_ok=True)  # describes the old files
    models, results = {}, {}
    for name, configuration in wanted.items():
        run.stop.check()
        statistics = measure.recalibrated(trained.params, configuration)
        network = fixed_network(trained.functional, trained.params, statistics, configuration)
        about = _about(run, name, trained.origin, configuration)
        models[name], results[name] = _exported(run, name, network, about, images)
    wrong = _disagreements(run.config.export, results)
    content = {
        "checkpoint": trained.origin,
        "float32_bytes": float32_bytes(run.abstract_network),
        "configurations": results,
    }
    if format_names.BUNDLE in run.config.export.formats:
        bundle = run.workdir / EXPORT_FOLDER / format_names.BUNDLE_FILE
        _write_bundle(bundle, models)
        entry = _file(run.workdir, bundle, content["float32_bytes"])
        content["bundle"] = entry | {"verified": not wrong}
    write_json(path, content)
    run.log.info("\n" + export_table(content))
    if wrong:
        name, reasons = next(iter(wrong.items()))
        raise UserError(
            f"export of {name}: {reasons[0]}; the files of {listed(list(wrong))} in "
            f"{run.workdir / EXPORT_FOLDER} are not to be used"
        )
    return content


def check(run: Run, before: Container[str]) -> None:
    """Checks that there is something to export and that the network can be exported.

    Args:
      before: the tasks that run before.

    Raises:
      UserError: one of the two does not hold.
    """
    if jax.process_count() > 1:
        rule = "the task export needs a single process: run it separately"
        raise ConfigError("tasks", checks.tasks(run.config), rule)
    formats = run.config.export.formats
    if set(format_names.NEED_ONNX) & set(formats) and (lack := missing("onnx")):
        raise ConfigError("export.formats", formats, lack)
    if format_names.TFLITE in formats:
        tflite_graph.schema()
    network = run.plan.convert(run.network)
    network.eval()
    _ = capture(network, run.image_shape).graph.shapes  # reading them validates them
    if run.configuration is not None:
        file_name(run.config.configuration)
    elif "search" not in before:
        if "train" in before:  # whether the winners are of this network is checked later
            searched(run)
        else:
            configurations(run)


def _about(run: Run, name: str, origin: str, configuration: np.ndarray) -> dict:
    """The description of a model in its files, except for its accuracy."""
    data = run.config.data
    return {
        "network": run.config.model.name,
        "configuration": name,
        "layers": run.plan.space.to_json(configuration),
        "checkpoint": origin,
        "input": "float32, (pixel / 255 - mean) / std for each channel",
        "mean": [float(v) for v in data.mean],
        "std": [float(v) for v in data.std],
        "resize": data.resize or data.image_size,  # pixels of the shorter side; 0: unchanged
        "crop": data.image_size,  # centre crop, pixels of both sides; 0: unchanged
        "interpolation": data.interpolation,
        "classes": list(run.data.class_names),
    } | run.costs_of(configuration)


def _images(run: Run) -> VerificationImages:
    size = min(run.config.evaluate.batch_size, run.config.export.images)
    given = run.data.held_out, run.pipeline, run.preprocess, size
    return VerificationImages(*given, check=run.stop.check)


def _exported(
    run: Run, name: str, network: nnx.Module, about: dict, images: VerificationImages
) -> tuple[IntegerModel, dict]:
    """Writes all files of a configuration; returns its model and its entry in `export.json`."""
    wanted, folder = run.config.export, run.workdir / EXPORT_FOLDER
    references = ReferenceModel(network), ReferenceModel(network, np.float64)
    about["accuracy"] = accuracy(references[0], images(wanted.images))
    model = fold(network, run.image_shape, about)
    paths = files.write_all(folder, name, model, wanted.formats, wanted.platforms, wanted.batch)
    compared = compare_files(
        paths,
        open_all(paths),
        model,
        integer_reader.read(paths[format_names.INTEGER]).model(),
        references,
        lambda: images(wanted.images),
        lambda: images(wanted.code_images),
    )
    whole = float32_bytes(run.abstract_network)
    formats = {
        kind: _file(run.workdir, path, whole) | compared["formats"][kind]
        for kind, path in paths.items()
    }
    entry = {key: about[key] for key in ("layers", *COSTS, "latency_ms") if key in about}
    entry |= {"kernel_bytes": model.kernel_bytes, "activation_bytes": memory_of(model).size}
    return model, entry | compared | {"formats": formats}


def _disagreements(wanted: ConfigDict, results: dict[str, dict]) -> dict[str, list[str]]:
    """Marks each result as verified or not; returns what is wrong, by configuration."""
    limits = Limits(wanted.max_unequal, wanted.max_unequal_float, wanted.max_differing_codes)
    wrong = {}
    for name, result in results.items():
        found = list(disagreements(limits, result))
        result["verified"] = not found
        if found:
            wrong[name] = found
    return wrong


def _write_bundle(path: Path, models: Mapping[str, IntegerModel]) -> None:
    """Writes all configurations into one file and verifies its content against the single files."""
    with files.writing(path, format_names.BUNDLE):
        integer.write(path, models)
    bundle = integer_reader.read(path)
    for name, model in models.items():
        if not bundle.model(name).equals(model.stored()):
            raise UserError(f"{path}: configuration {name} came back differently; this is a bug")


def _file(workdir: Path, path: Path, whole: int) -> dict:
    """The entry of a file; `whole` is the size of the network in float32, in bytes."""
    size = path.stat().st_size
    return {
        "file": str(path.relative_to(workdir)),
        "bytes": size,
        "ratio": round(whole / size, 2),
    }


def float32_bytes(network: nnx.Module) -> int:
    """Bytes of a plain network's parameters and statistics in float32."""
    state = nnx.state(network, (nnx.Param, nnx.BatchStat))
    return sum(4 * int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state))
