"""The task `evaluate`."""

from __future__ import annotations

import re
import time

import numpy as np

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN
from rfquant_jax.evaluate.evaluator import Outcomes
from rfquant_jax.report.tables import COSTS, results_table, table
from rfquant_jax.report.usage import usage_lines
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.extras import missing
from rfquant_jax.search.selection import on_all
from rfquant_jax.tasks import kept_statistics, networks, search
from rfquant_jax.tasks.activations import activation_bytes, activation_line
from rfquant_jax.tasks.measure import Measure, full_precision
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import (
    EVALUATION_FOLDER,
    RESULTS_FILE,
    SEARCH_FOLDER,
    read_json,
    write_json,
)


def evaluate(run: Run) -> dict:
    """Evaluates on the test images and writes the results.

    Evaluates `config.configuration` if given. Otherwise evaluates full precision and, for each
    budget, the uniform and the searched configuration (all uniform ones without a search).

    Returns:
      the content of `results.json`, or of the configuration's file.

    Raises:
      CheckpointError: there is no trained network.
      Interrupted: a signal was received.
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
    # Invalid budgets must not prevent the evaluation of a network without a search.
    searched = TRAIN in checkpoints and (run.workdir / SEARCH_FOLDER).is_dir()
    found = search.results(run, checkpoints[TRAIN]) if searched else None
    results = read_json(path) if found is not None and path.exists() else None
    known = isinstance(results, dict) and (results.get("checkpoints"), results.get("images"))
    if known == (checkpoints, images):
        run.log.info("evaluate: finished before")
    else:
        memory, _ = activation_bytes(run.abstract_network, run.plan)
        results = {
            "full_precision": _full_precision(run),
            "rows": _rows(run, found),
            "class_names": list(run.data.class_names),
            "checkpoints": checkpoints,
            "images": images,
            "activation_bytes": memory,
        }
        if found is not None:
            write_json(path, results)
    run.log.info("\n" + results_table(results))
    if "activation_bytes" in results:  # absent in results of earlier versions
        run.log.info(activation_line(results["activation_bytes"]))
    if found is not None and devices.is_first_process():
        _log_uses(run)
        _write_report(run)
    return results


def _write_report(run: Run) -> None:
    if lack := missing("matplotlib"):
        run.log.info(f"no report: {lack}")
        return
    from rfquant_jax.report.page import write_report  # it draws its charts with matplotlib

    run.log.info(f"report: {write_report(run.workdir)}")


def _log_uses(run: Run) -> None:
    """Logs how to use the result for the smallest budget."""
    file = search.result_file(run, run.budgets[-1]).relative_to(run.workdir)
    lines = usage_lines(run.workdir, str(file), run.arguments)
    run.log.info("\n" + "\n".join(f"{purpose}:\n  {line}" for purpose, line in lines))


def _evaluate_one(run: Run, configuration: np.ndarray) -> dict:
    trained = networks.coupled(run)
    measure = Measure(run, trained.functional)
    outcomes = _outcomes(run, measure, trained, configuration)
    measured = run.costs_of(configuration) | accuracy_figures(outcomes)
    name = re.sub(r"[^\w.-]+", "_", run.config.configuration.removesuffix(".json")).strip("_.")
    result = {
        "configuration": run.config.configuration,
        "layers": run.plan.space.to_json(configuration),
        "checkpoint": trained.origin,
    } | measured
    write_json(run.workdir / EVALUATION_FOLDER / f"{name}.json", result)
    columns = {"configuration": "configuration"} | COSTS
    columns |= {"top1": "top-1 (%)", "top5": "top-5 (%)"}
    run.log.info("\n" + table([result], columns))
    return result


def _full_precision(run: Run) -> dict | None:
    accuracy = full_precision(run, run.data.test)
    if accuracy is None:
        return None
    return {
        "top1": accuracy.top1_percent,
        "top5": accuracy.top5_percent,
        "cross_entropy": accuracy.mean_loss,
    }


def _rows(run: Run, found: list[dict] | None) -> list[dict]:
    if not networks.exists(run, TRAIN):
        if networks.exists(run, PRETRAIN):
            return []
        networks.check(run, TRAIN)
    trained = networks.coupled(run)
    if found is not None:
        run = search.leave_out_frozen(run, trained)  # to get the uniform ones of the search
    test, started = _Test(run, trained), time.monotonic()
    rows = _uniform_rows(run, test) if found is None else _budget_rows(run, test, found)
    run.log.info(f"evaluate: {test.count} configurations in {time.monotonic() - started:.1f} s")
    return rows


def _uniform_rows(run: Run, test: _Test) -> list[dict]:
    space = run.plan.space
    return [
        {"kind": "uniform", "name": f"w{bits}a{bits}"} | test.figures(space.uniform(bits, bits))
        for bits in space.candidates
    ]


def _budget_rows(run: Run, test: _Test, found: list[dict]) -> list[dict]:
    """For each budget, the uniform and the searched configuration, with paired gains."""
    space, rows = run.plan.space, []
    for budget, result in zip(run.budgets, found, strict=True):
        limits = budget.as_dict()
        best = dict(budget.uniform(run.search_space))
        for name, configuration in best.items():
            rows.append({"kind": "uniform", "name": name} | limits | test.figures(configuration))
        searched = space.from_json(result, source=str(search.result_file(run, budget)))
        row = {"kind": "searched", "name": budget.text, "budget": budget.text} | limits
        row |= test.figures(searched)
        row["gain"] = test.gain(searched, result.get("gain"))
        row["gain_pair"] = test.gain(searched, result.get("gain_pair"))
        rows.append(row)
    return rows


class _Test:
    """Evaluates configurations on the test images, each of them once."""

    def __init__(self, run: Run, trained: networks.Trained):
        self._run, self._trained = run, trained
        self._measure = Measure(run, trained.functional)
        self._known: dict[bytes, Outcomes] = {}

    @property
    def count(self) -> int:
        return len(self._known)

    def outcomes(self, configuration: np.ndarray) -> Outcomes:
        key = configuration.tobytes()
        if key not in self._known:
            self._run.stop.check()
            self._known[key] = _outcomes(self._run, self._measure, self._trained, configuration)
        return self._known[key]

    def figures(self, configuration: np.ndarray) -> dict:
        """Costs and accuracies, as in results."""
        outcomes, run = self.outcomes(configuration), self._run
        by_class = outcomes.top1_by_class(run.data.num_classes)
        return (
            run.costs_of(configuration) | accuracy_figures(outcomes) | {"top1_by_class": by_class}
        )

    def gain(self, configuration: np.ndarray, searched: dict | None) -> dict | None:
        """The paired difference from the uniform pair used by the search."""
        if searched is None:
            return None
        weights, activations = re.fullmatch(r"w(\d+)a(\d+)", searched["over"]).groups()
        other = self._run.search_space.uniform(int(weights), int(activations))
        found = on_all(searched["over"], self.outcomes(configuration), self.outcomes(other))
        return found.as_dict()


def _outcomes(
    run: Run, measure: Measure, trained: networks.Trained, configuration: np.ndarray
) -> Outcomes:
    """Results on the test images; keeps the recalibrated statistics for predictions."""
    statistics = measure.recalibrated(trained.params, configuration)
    kept_statistics.keep(run, trained.origin, configuration, statistics)
    return measure.outcomes(run.data.test, trained.params, configuration, statistics)


def accuracy_figures(outcomes: Outcomes) -> dict:
    """Accuracies, as in results."""
    accuracy = outcomes.accuracy
    return {
        "top1": accuracy.top1_percent,
        "top1_interval": list(accuracy.top1_interval),
        "top5": accuracy.top5_percent,
        "cross_entropy": accuracy.mean_loss,
        "images": accuracy.images,
    }
