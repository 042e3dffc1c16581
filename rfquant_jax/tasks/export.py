"""The task `export`: integer models of configurations, verified against the evaluation."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from rfquant_jax.checkpoint.checkpoints import TRAIN, stage_folder
from rfquant_jax.config import checks
from rfquant_jax.data.reader import PADDING_LABEL
from rfquant_jax.data.sources import Subset
from rfquant_jax.errors import ConfigError, UserError, listed
from rfquant_jax.export import files, format_names
from rfquant_jax.export.formats import integer, integer_reader, tflite_graph
from rfquant_jax.export.formats.c_program import memory_of
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.trace.capture import capture
from rfquant_jax.export.verify.reference import ReferenceModel, fixed_network
from rfquant_jax.export.verify.runners import open_all
from rfquant_jax.export.verify.verify import (
    LARGEST_BATCH,
    Limits,
    compare_files,
    disagreements,
)
from rfquant_jax.quant.space import Space
from rfquant_jax.runtime.extras import missing
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.export_report import export_table
from rfquant_jax.tasks.measure import Measure
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import (
    EXPORT_FILE,
    EXPORT_FOLDER,
    SEARCH_FOLDER,
    read_json,
    write_json,
)


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
    wanted = configurations(run)
    trained = networks.coupled(run)
    measure = Measure(run, trained.functional)
    (run.workdir / EXPORT_FILE).unlink(missing_ok=True)  # describes the old files
    results, models, wrong = {}, {}, {}
    for name, configuration in wanted.items():
        run.stop.check()
        statistics = measure.recalibrated(trained.params, configuration)
        network = fixed_network(trained.functional, trained.params, statistics, configuration)
        references = ReferenceModel(network), ReferenceModel(network, np.float64)
        about = _about(run, name, trained.origin, configuration)
        about["accuracy"] = _accuracy(run, references[0])
        models[name] = fold(network, run.image_shape, about)
        results[name] = _export_one(run, name, references, models[name], configuration)
        found = list(disagreements(_limits(run), results[name]))
        results[name]["verified"] = not found
        wrong |= {name: found} if found else {}
    content = {
        "checkpoint": trained.origin,
        "float32_bytes": float32_bytes(run.abstract_network),
        "configurations": results,
    }
    if format_names.BUNDLE in run.config.export.formats:
        content["bundle"] = _bundle(run, models) | {"verified": not wrong}
    write_json(run.workdir / EXPORT_FILE, content)
    run.log.info("\n" + export_table(content))
    if wrong:
        name, reasons = next(iter(wrong.items()))
        raise UserError(
            f"export of {name}: {reasons[0]}; the files of {listed(list(wrong))} in "
            f"{run.workdir / EXPORT_FOLDER} are not to be used"
        )
    return content


def configurations(run: Run) -> dict[str, np.ndarray]:
    """The configurations to export, int32[L, 2], by file name.

    Raises:
      UserError: no configuration is named, and there are no winners of a search of this network.
    """
    if run.configuration is not None:
        return {_name(run.config.configuration): run.configuration}
    workdir, found = _searched(run)
    own = _checkpoint_seen_from(run, workdir)
    if stale := [n for n, (checkpoint, _) in found.items() if checkpoint != own]:
        raise UserError(
            f"{workdir / SEARCH_FOLDER}: {listed(stale)} were found for another state of "
            f"the network than {own}; search again, or name one with config.configuration"
        )
    return {name: configuration for name, (_, configuration) in found.items()}


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
        _name(run.config.configuration)
    elif "search" not in before:
        if "train" in before:  # whether the winners are of this network is checked later
            _searched(run)
        else:
            configurations(run)


def _name(configuration: str) -> str:
    """The name of the files of the config's configuration.

    Raises:
      UserError: the name is invalid.
    """
    name = re.sub(r"[^\w.-]+", "_", Path(configuration.removesuffix(".json")).name).strip("_.")
    if name in ("", format_names.BUNDLE):
        raise UserError(
            f"config.configuration={configuration}: its file name is used for exported "
            f"files and must not be {name or 'empty'!r}"
        )
    return name


def _searched(run: Run) -> tuple[Path, dict[str, tuple[str, np.ndarray]]]:
    """A workdir with results of a search, and its winners.

    Raises:
      UserError: there is none.
    """
    places = dict.fromkeys([run.workdir, networks.source_of(run, TRAIN)])
    for workdir in places:
        if found := dict(_winners(run.plan.space, workdir / SEARCH_FOLDER)):
            return workdir, found
    folders = " nor ".join(str(workdir / SEARCH_FOLDER) for workdir in places)
    raise UserError(
        f"nothing to export: config.configuration names no configuration, and {folders} holds no "
        "result of the task search"
    )


def _checkpoint_seen_from(run: Run, workdir: Path) -> str:
    """The origin of the run's network as written by a search in `workdir`."""
    origin = networks.origin(run, TRAIN)
    if workdir == run.workdir:
        return origin
    return str(stage_folder(Path(), TRAIN) / Path(origin).name)


def _winners(space: Space, folder: Path) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    """Name, checkpoint and configuration of each result of a search."""
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if isinstance(content, dict) and "budget" in content and "layers" in content:
            configuration = space.from_json(content, source=str(path))
            yield path.stem, (content.get("checkpoint"), configuration)


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


def _accuracy(run: Run, reference: ReferenceModel) -> dict:
    """The evaluation's accuracy on the verification images."""
    correct = images = 0
    for batch in _normalized(run, run.config.export.images):
        real = batch["label"] != PADDING_LABEL
        best = reference.logits(batch["image"])[real].argmax(axis=-1)
        correct += int((best == batch["label"][real]).sum())
        images += int(real.sum())
    return {"top1": 100 * correct / images, "images": images}


def _export_one(
    run: Run,
    name: str,
    references: tuple[ReferenceModel, ReferenceModel],
    model: IntegerModel,
    configuration: np.ndarray,
) -> dict:
    """Writes all files of a configuration and compares them with the evaluation."""
    wanted = run.config.export
    folder = run.workdir / EXPORT_FOLDER
    paths = files.write_all(folder, name, model, wanted.formats, wanted.platforms, wanted.batch)
    compared = compare_files(
        paths,
        open_all(paths),
        model,
        integer_reader.read(paths[format_names.INTEGER]).model(),
        references,
        lambda: _normalized(run, wanted.images),
        lambda: _normalized(run, wanted.code_images),
    )
    formats = {kind: _file(run, path) | compared["formats"][kind] for kind, path in paths.items()}
    return {
        "layers": run.plan.space.to_json(configuration),
        **run.costs_of(configuration),
        "kernel_bytes": model.kernel_bytes,
        "activation_bytes": memory_of(model).size,
        **compared,
        "formats": formats,
    }


def _limits(run: Run) -> Limits:
    wanted = run.config.export
    return Limits(wanted.max_unequal, wanted.max_unequal_float, wanted.max_differing_codes)


def _normalized(run: Run, limit: int) -> Iterator[dict[str, np.ndarray]]:
    """At most `limit` held-out images, normalised, with labels; see `Pipeline.exact`."""
    whole = run.data.held_out
    # A fixed random subset, because files are sorted by class.
    chosen = np.random.default_rng(0).permutation(len(whole))[:limit]
    part = Subset(whole, np.sort(chosen))
    # One batch size for all limits, to avoid recompilation.
    size = min(run.config.evaluate.batch_size, run.config.export.images, len(whole), LARGEST_BATCH)
    preprocess = jax.jit(run.preprocess)
    for batch in run.pipeline.exact(part, size):
        run.stop.check()
        yield {"image": np.asarray(preprocess(batch["image"])), "label": batch["label"]}


def _bundle(run: Run, models: Mapping[str, IntegerModel]) -> dict:
    """Writes all configurations into one file and verifies its content against the single files."""
    path = run.workdir / EXPORT_FOLDER / format_names.BUNDLE_FILE
    with files.writing(path, format_names.BUNDLE):
        integer.write(path, models)
    bundle = integer_reader.read(path)
    for name, model in models.items():
        if not bundle.model(name).equals(model.stored()):
            raise UserError(f"{path}: configuration {name} came back differently; this is a bug")
    return _file(run, path)


def _file(run: Run, path: Path) -> dict:
    size, whole = path.stat().st_size, float32_bytes(run.abstract_network)
    return {
        "file": str(path.relative_to(run.workdir)),
        "bytes": size,
        "ratio": round(whole / size, 2),
    }


def float32_bytes(network: nnx.Module) -> int:
    """Bytes of a plain network's parameters and statistics in float32."""
    state = nnx.state(network, (nnx.Param, nnx.BatchStat))
    return sum(4 * int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state))
