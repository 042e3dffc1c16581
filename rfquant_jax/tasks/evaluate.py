"""The task `evaluate`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN
from rfquant_jax.evaluate.evaluator import Outcomes
from rfquant_jax.quant.space import Space
from rfquant_jax.report.log import RunLog
from rfquant_jax.report.tables import COSTS, results_table, table
from rfquant_jax.report.usage import usage_lines
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.extras import missing
from rfquant_jax.runtime.json_files import read_json, write_json
from rfquant_jax.search.selection import on_all
from rfquant_jax.search.variables import SearchSpace
from rfquant_jax.tasks import kept_statistics, networks, search_results
from rfquant_jax.tasks.activations import activation_bytes, activation_line
from rfquant_jax.tasks.measure import Measured, full_precision, measured
from rfquant_jax.tasks.problem import SearchProblem
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.search import searched_problem
from rfquant_jax.tasks.workdir import EVALUATION_FOLDER, RESULTS_FILE, SEARCH_FOLDER


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
    found = None
    if searched:
        given = run.workdir, run.plan.space, run.budgets
        found = search_results.results(*given, checkpoints[TRAIN])
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
        smallest = search_results.result_file(run.workdir, run.budgets[-1])
        run.log.info("\n" + _uses(run.workdir, smallest, run.arguments))
        _write_report(run.workdir, run.log)
    return results


def _write_report(workdir: Path, log: RunLog) -> None:
    if lack := missing("matplotlib"):
        log.info(f"no report: {lack}")
        return
    from rfquant_jax.report.page import write_report  # it draws its charts with matplotlib

    log.info(f"report: {write_report(workdir)}")


def _uses(workdir: Path, result: Path, arguments: Sequence[str] | None) -> str:
    """How to use a result, for the log."""
    lines = usage_lines(workdir, str(result.relative_to(workdir)), arguments)
    return "\n".join(f"{purpose}:\n  {line}" for purpose, line in lines)


def _evaluate_one(run: Run, configuration: np.ndarray) -> dict:
    coupled = measured(run, TRAIN)
    outcomes = _outcomes(run, coupled)(configuration)
    figures = run.costs_of(configuration) | accuracy_figures(outcomes)
    name = re.sub(r"[^\w.-]+", "_", run.config.configuration.removesuffix(".json")).strip("_.")
    result = {
        "configuration": run.config.configuration,
        "layers": run.plan.space.to_json(configuration),
        "checkpoint": coupled.trained.origin,
    } | figures
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
    coupled, started = measured(run, TRAIN), time.monotonic()
    test = _Test(_outcomes(run, coupled), run.costs_of, run.data.num_classes)
    if found is None:
        rows = _uniform_rows(run.plan.space, test)
    else:  # the uniform ones are those of the search
        rows = _budget_rows(run.workdir, searched_problem(run, coupled.trained), test, found)
    run.log.info(f"evaluate: {test.count} configurations in {time.monotonic() - started:.1f} s")
    return rows


def _outcomes(run: Run, coupled: Measured) -> Callable[[np.ndarray], Outcomes]:
    """Per-image results on the test images; keeps the recalibrated statistics for predictions."""
    trained, measure = coupled.trained, coupled.measure

    def outcomes(configuration: np.ndarray) -> Outcomes:
        run.stop.check()
        statistics = measure.recalibrated(trained.params, configuration)
        kept_statistics.keep(run, trained.origin, configuration, statistics)
        return measure.outcomes(run.data.test, trained.params, configuration, statistics)

    return outcomes


def _uniform_rows(space: Space, test: _Test) -> list[dict]:
    return [
        {"kind": "uniform", "name": f"w{w}a{a}"} | test.figures(space.uniform(w, a))
        for w, a in space.levels
    ]


def _budget_rows(
    workdir: Path, problem: SearchProblem, test: _Test, found: list[dict]
) -> list[dict]:
    """For each budget, the uniform and the searched configuration, with paired gains."""
    space, rows = problem.plan.space, []
    for budget, result in zip(problem.budgets, found, strict=True):
        limits = budget.as_dict()
        best = dict(budget.uniform(problem.search_space))
        for name, configuration in best.items():
            rows.append({"kind": "uniform", "name": name} | limits | test.figures(configuration))
        file = search_results.result_file(workdir, budget)
        searched = space.from_json(result, source=str(file))
        row = {"kind": "searched", "name": budget.text, "budget": budget.text} | limits
        row |= test.figures(searched)
        for gain in ("gain", "gain_pair"):
            row[gain] = test.gain(searched, _pair(problem.search_space, result.get(gain)))
        rows.append(row)
    return rows


def _pair(space: SearchSpace, gain: dict | None) -> tuple[str, np.ndarray] | None:
    """The uniform pair wXaY that a gain of the search is over, by name."""
    if gain is None:
        return None
    weights, activations = re.fullmatch(r"w(\d+)a(\d+)", gain["over"]).groups()
    return gain["over"], space.uniform(int(weights), int(activations))


class _Test:
    """Evaluates configurations on the test images, each of them once.

    Args:
      outcomes: per-image results of a configuration.
      costs_of: its costs.
      classes: number of classes.
    """

    def __init__(
        self,
        outcomes: Callable[[np.ndarray], Outcomes],
        costs_of: Callable[[np.ndarray], dict],
        classes: int,
    ):
        self._evaluate, self._costs_of, self._classes = outcomes, costs_of, classes
        self._known: dict[bytes, Outcomes] = {}

    @property
    def count(self) -> int:
        return len(self._known)

    def outcomes(self, configuration: np.ndarray) -> Outcomes:
        key = configuration.tobytes()
        if key not in self._known:
            self._known[key] = self._evaluate(configuration)
        return self._known[key]

    def figures(self, configuration: np.ndarray) -> dict:
        """Costs and accuracies, as in results."""
        outcomes = self.outcomes(configuration)
        by_class = {"top1_by_class": outcomes.top1_by_class(self._classes)}
        return self._costs_of(configuration) | accuracy_figures(outcomes) | by_class

    def gain(self, configuration: np.ndarray, other: tuple[str, np.ndarray] | None) -> dict | None:
        """The paired difference from another configuration, by name; None without one."""
        if other is None:
            return None
        name, uniform = other
        return on_all(name, self.outcomes(configuration), self.outcomes(uniform)).as_dict()


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
