"""The search's rules compared on trained networks: metric and normalization.

    python -m benchmarks.search_rules --runs=runs/quickstart-seeds/seed0,runs/quickstart-seeds/seed1

Every run is the workdir of a finished training. For each rule: accuracy and cross-entropy,
recalibrated, of what the descent found for the run's budgets, without the other finalists that the
task `search` lets compete; evaluations spent; seconds. Accuracies are measured on the held-out
images that the search does not propose on; the test part is not touched.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

from configs import quickstart
from rfquant_jax import settings
from rfquant_jax.evaluate import Accuracy
from rfquant_jax.report import table
from rfquant_jax.run import Run
from rfquant_jax.search.evaluator import METRICS
from rfquant_jax.search.greedy import GreedySearch, Move
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.measure import Measure
from rfquant_jax.tasks.searching import candidate_evaluator, confirmed
from rfquant_jax.workdir import CONFIG_FILE, read_json, write_json

_RUNS = flags.DEFINE_list("runs", None, "workdirs of trained runs", required=True)
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")


def compare(folder: str) -> list[dict]:
    """One row for each rule and budget."""
    run = Run(quickstart.get_config(), folder)
    stored = ConfigDict(read_json(Path(folder) / CONFIG_FILE))
    run.config.update({"model": stored["model"], "seed": stored["seed"]})
    trained = networks.coupled(run)
    measure = Measure(run, trained.pure)
    rows, space = [], run.blueprint.space
    for budget in run.budgets:
        [(_, uniform)] = budget.uniform(space)
        row = {"rule": "uniform", "budget": budget.text, "evaluations": 0, "seconds": 0.0}
        rows.append(row | _figures(confirmed(run, trained, measure, uniform)))
    for metric, normalize in itertools.product(METRICS, ("max", "minmax")):
        rows += _one_rule(run, trained, measure, metric, normalize)
    return rows


def _one_rule(run: Run, trained, measure: Measure, metric: str, normalize: str) -> list[dict]:
    space = run.blueprint.space
    evaluate = candidate_evaluator(run, trained, metric)
    evaluate(space.uniform(4, 4)[None], 0)  # compiles
    chosen = replace(settings.greedy_settings(run.config, len(space)), normalize=normalize)
    moves: list[Move] = []
    start = time.monotonic()
    found = GreedySearch(space, chosen, run.budgets, evaluate, on_move=moves.append).run()
    seconds = time.monotonic() - start
    spent = sum(move.candidates for move in moves)
    return [
        {
            "rule": f"{metric}, {normalize}",
            "budget": budget.text,
            "evaluations": spent,
            "seconds": seconds,
        }
        | _figures(confirmed(run, trained, measure, configuration))
        for budget, configuration in zip(run.budgets, found, strict=True)
    ]


def _figures(accuracy: Accuracy) -> dict[str, float]:
    return {"top1": accuracy.top1_percent, "cross_entropy": accuracy.mean_loss}


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    rows = [row | {"run": folder} for folder in _RUNS.value for row in compare(folder)]
    shown = []
    for (rule, budget), group in itertools.groupby(
        sorted(rows, key=lambda r: (r["budget"], r["rule"])), key=lambda r: (r["rule"], r["budget"])
    ):
        members = list(group)
        mean = {
            name: f"{np.mean([m[name] for m in members]):.4g}"
            for name in ("top1", "cross_entropy", "evaluations", "seconds")
        }
        shown.append({"rule": f"{budget}  {rule}"} | mean)
    headings = ("rule", "top1", "cross_entropy", "evaluations", "seconds")
    print(table(shown, {name: name for name in headings}))
    if _OUT.value:
        write_json(Path(_OUT.value), rows)


if __name__ == "__main__":
    app.run(main)
