"""The tasks `evaluate` and `cost`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import numpy as np

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN
from rfquant_jax.report.tables import COSTS, results_table, table
from rfquant_jax.runtime import devices
from rfquant_jax.tasks import networks, search
from rfquant_jax.tasks.activations import activation_bytes, activation_line
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.measure import Measure, full_precision
from rfquant_jax.tasks.workdir import EVALUATION_FOLDER, RESULTS_FILE, read_json, write_json


def cost(run: Run) -> None:
    """Prints what the config's configuration costs, or the uniform ones if it names none."""
    space, configuration = run.blueprint.space, run.configuration
    if configuration is None:
        rows = run.costs.table(space)
    else:
        rows = [run.costs_of(configuration) | {"configuration": run.config.configuration}]
    columns = {"configuration": "configuration"} | COSTS
    if devices.is_first_process():
        print(table(rows, columns))
        print(activation_line(activation_bytes(run)))


def evaluate(run: Run) -> dict:
    """Evaluates on the test part and writes what comes out.

    With `config.configuration` that one configuration; otherwise everything: full precision, and
    for each budget the uniform configuration and the searched one (all uniform ones where nothing
    was searched).

    Returns:
      what `results.json`, or the configuration's own file, holds.

    Raises:
      CheckpointError: there is no network to evaluate.
      Interrupted: a signal came.
    """
    run.claim()
    if run.configuration is not None:
        return _evaluate_one(run, run.configuration)
    path = run.workdir / RESULTS_FILE
    checkpoints = {
        stage: networks.origin(run, stage)
        for stage in (PRETRAIN, TRAIN)
        if networks.exists(run, stage)
    }
    images = {"number": len(run.data.test), "version": run.data.test_version}
    # Budgets are nothing that the evaluation of a full-precision network should stumble over.
    found = search.results(run, checkpoints[TRAIN]) if TRAIN in checkpoints else None
    results = read_json(path) if found is not None and path.exists() else None
    known = isinstance(results, dict) and (results.get("checkpoints"), results.get("images"))
    if known == (checkpoints, images):
        run.log.info("evaluate: finished before")
    else:
        results = {
            "full_precision": _full_precision(run),
            "rows": _rows(run, found),
            "checkpoints": checkpoints,
            "images": images,
            "activation_bytes": activation_bytes(run),
        }
        if found is not None:
            write_json(path, results)
    run.log.info("\n" + results_table(results))
    if "activation_bytes" in results:  # those of an earlier version do not say
        run.log.info(activation_line(results["activation_bytes"]))
    return results


def _evaluate_one(run: Run, configuration: np.ndarray) -> dict:
    trained = networks.coupled(run)
    measured = _test(run, Measure(run, trained.pure), trained, configuration)
    name = re.sub(r"[^\w.-]+", "_", run.config.configuration.removesuffix(".json")).strip("_.")
    result = {
        "configuration": run.config.configuration,
        "layers": run.blueprint.space.to_json(configuration),
        "checkpoint": trained.origin,
    } | measured
    write_json(run.workdir / EVALUATION_FOLDER / f"{name}.json", result)
    columns = {"configuration": "configuration"} | COSTS
    columns |= {"top1": "top-1 (%)", "top5": "top-5 (%)"}
    run.log.info("\n" + table([result], columns))
    return result


def _full_precision(run: Run) -> dict | None:
    accuracy = full_precision(run, run.data.test)
    return accuracy and {"top1": accuracy.top1_percent, "top5": accuracy.top5_percent}


def _rows(run: Run, found: list[dict] | None) -> list[dict]:
    if not networks.exists(run, TRAIN):
        if networks.exists(run, PRETRAIN):
            return []
        networks.check(run, TRAIN)
    trained = networks.coupled(run)
    measure = Measure(run, trained.pure)
    rows, known = [], {}
    started = time.monotonic()
    for row, configuration in _wanted(run, found):
        run.stop.check()
        key = configuration.tobytes()
        if key not in known:
            known[key] = _test(run, measure, trained, configuration)
        rows.append(row | known[key])
    run.log.info(f"evaluate: {len(known)} configurations in {time.monotonic() - started:.1f} s")
    return rows


def _wanted(run: Run, found: list[dict] | None) -> Iterator[tuple[dict, np.ndarray]]:
    """The rows of the table, without their figures, and the configurations they are about."""
    space = run.blueprint.space
    if found is None:
        for bits in space.candidates:
            yield {"kind": "uniform", "name": f"w{bits}a{bits}"}, space.uniform(bits, bits)
        return
    for budget, result in zip(run.budgets, found, strict=True):
        limits = budget.as_dict()
        for name, configuration in budget.uniform(space):
            yield {"kind": "uniform", "name": name} | limits, configuration
        row = {"kind": "searched", "name": budget.text}
        yield row | limits, space.from_json(result, source=str(search.result_file(run, budget)))


def _test(run: Run, measure: Measure, trained: networks.Trained, configuration) -> dict:
    accuracy = measure.quantized(run.data.test, trained.params, configuration)
    figures = {"top1": accuracy.top1_percent, "top1_interval": list(accuracy.top1_interval)}
    figures |= {"top5": accuracy.top5_percent}
    return run.costs_of(configuration) | figures | {"images": accuracy.images}
