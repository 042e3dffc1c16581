"""Search algorithms compared on trained networks.

    python -m benchmarks.search_algorithms --runs=runs/quickstart,runs/another

Every run is the workdir of a finished training; `--config=FILE` names their recipe, further flags
`--config.<field>=VALUE` override it. For each rule: accuracy and cross-entropy, recalibrated, of
the first configuration it gives for each budget, without the uniform one and the other finalists
that the task `search` lets compete; evaluations spent; seconds. `--images` says what accuracies are
measured on: the held-out images that no search proposes on, or the test part, which tells more
where it is larger; no configuration is chosen by it. Means over budgets and runs come with the 95 %
interval (Student's t over the runs) of the paired difference from the uniform configurations.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from scipy import stats

from rfquant_jax.config import settings
from rfquant_jax.evaluate.evaluator import Accuracy
from rfquant_jax.report.tables import table
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.problem import Problem
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.confirm import search_parts
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.measure import Measure
from rfquant_jax.tasks.propose import candidate_evaluator
from rfquant_jax.tasks.workdir import CONFIG_FILE, read_json, write_json

_RUNS = flags.DEFINE_list("runs", None, "workdirs of trained runs", required=True)
_RULES = flags.DEFINE_list("rules", [], "numbers of the rules to compare, from 1; none: all")
_IMAGES = flags.DEFINE_enum("images", "confirm", ["confirm", "test"], "to measure accuracies on")
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")
_CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "their recipe")

# name -> fields of config.search
RULES: dict[str, dict] = {
    "paper": {"algorithm": "paper"},
    "error, min-max": {"metric": "error"},
    "cross-entropy, max": {"metric": "cross_entropy", "normalize": "max"},
    "cross-entropy, min-max": {"metric": "cross_entropy"},
    "divergence, min-max": {"metric": "divergence"},
    "divergence, min-max, 32 images": {"metric": "divergence", "batch_size": 32},
    "divergence, min-max, joint moves": {"metric": "divergence", "joint": True},
    "integer, cross-entropy": {"algorithm": "integer", "metric": "cross_entropy"},
    "integer, divergence": {"algorithm": "integer", "metric": "divergence"},
    "evolution, divergence": {
        "algorithm": "evolution",
        "metric": "divergence",
        "population": 20,
        "generations": 16,
        "keep": 5,
    },
    "random, divergence": {"algorithm": "random", "metric": "divergence", "evaluations": 400},
}


def chosen() -> list[str]:
    """Names of the rules to compare."""
    for number in map(int, _RULES.value):
        if not 0 < number <= len(RULES):
            raise SystemExit(f"--rules={number}: there are {len(RULES)}")
    numbers = map(int, _RULES.value or range(1, len(RULES) + 1))
    return [list(RULES)[number - 1] for number in numbers]


def compare(folder: str) -> list[dict]:
    """One row for each rule and budget."""
    stored = ConfigDict(read_json(Path(folder) / CONFIG_FILE))
    config = _CONFIG.value.copy_and_resolve_references()
    config.update({"model": stored["model"], "seed": stored["seed"]})
    config.checkpoint, config.tasks = folder, ("search",)
    with tempfile.TemporaryDirectory() as workdir:
        return _compare(Run(config, workdir), folder)


def _compare(run: Run, folder: str) -> list[dict]:
    trained = networks.coupled(run)
    measure = Measure(run, trained.pure)
    images = run.data.test if _IMAGES.value == "test" else search_parts(run)[1]
    known: dict[bytes, Accuracy] = {}

    def row(rule: str, number: int, configuration: np.ndarray, **figures) -> dict:
        key = configuration.tobytes()
        if key not in known:
            known[key] = measure.quantized(images, trained.params, configuration)
        accuracy = known[key]
        found = {"top1": accuracy.top1_percent, "cross_entropy": accuracy.mean_loss}
        text = run.budgets[number].text
        return {"run": folder, "rule": rule, "budget": text} | figures | found

    rows, made = [], {}
    for number, budget in enumerate(run.budgets):
        [(_, uniform)] = budget.uniform(run.knobs)
        rows.append(row("uniform", number, uniform, evaluations=0, seconds=0.0))
    for rule in chosen():
        fields = RULES[rule]
        found, figures = _search(run, trained, fields, made)
        print(f"{folder}: {rule}: {figures['seconds']:.0f} s", flush=True)
        rows += [row(rule, number, c, **figures) for number, c in enumerate(found)]
    return rows


def _evaluator(run: Run, trained: networks.Trained, made: dict[int, CandidateEvaluator]):
    """The compiled evaluation with the batches that the run's config asks for."""
    size = run.config.search.batch_size
    if size not in made:
        made[size] = candidate_evaluator(run, trained, "error")
        made[size].by("divergence")(run.blueprint.space.uniform(4, 4)[None], 0)  # compiles
    return made[size].by(settings.search_metric(run.config))


def _search(
    run: Run, trained: networks.Trained, fields: dict, made: dict[int, CandidateEvaluator]
) -> tuple[list[np.ndarray], dict]:
    """The first configuration for each budget, and what finding all of them took."""
    config = run.config.copy_and_resolve_references()
    config.search.update(fields)
    evaluate = _evaluator(Run(config, run.workdir), trained, made)
    spent = 0

    def counted(configurations: np.ndarray, iteration: int) -> np.ndarray:
        nonlocal spent
        spent += len(configurations)
        return evaluate(configurations, iteration)

    algorithm = settings.search_algorithm(config, len(run.knobs.space), lambda move, after: None)
    start = time.monotonic()
    found = algorithm(Problem(run.knobs, tuple(run.budgets), counted, config.seed))
    figures = {"evaluations": spent, "seconds": time.monotonic() - start}
    return [configurations[0] for configurations in found], figures


def summarize(rows: list[dict]) -> list[dict]:
    """A row a rule: means over budgets and runs, by budget, and the difference from uniform."""
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    top1 = {(r["rule"], r["run"], r["budget"]): r["top1"] for r in rows}
    shown = []
    for rule in ("uniform", *chosen()):
        own = [row for row in rows if row["rule"] == rule]
        line = {"rule": rule} | {
            budget: f"{np.mean([top1[rule, run, budget] for run in runs]):.2f}"
            for budget in budgets
        }
        line["mean"] = f"{np.mean([row['top1'] for row in own]):.2f}"
        differences = [
            np.mean([top1[rule, run, b] - top1["uniform", run, b] for b in budgets]) for run in runs
        ]
        line["difference"] = f"{np.mean(differences):+.2f}"
        if len(runs) > 1 and rule != "uniform":
            error = np.std(differences, ddof=1) / np.sqrt(len(runs))
            line["difference"] += f" ± {stats.t.ppf(0.975, len(runs) - 1) * error:.2f}"
        for name in ("evaluations", "seconds"):
            line[name] = f"{np.mean([row[name] for row in own]):.0f}"
        shown.append(line)
    return shown


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    rows = []
    for folder in _RUNS.value:
        rows += compare(folder)
        print(f"{folder} is done", flush=True)
        if _OUT.value:
            write_json(Path(_OUT.value), rows)
    shown = summarize(rows)
    print(table(shown, {name: name for name in shown[0]}))


if __name__ == "__main__":
    app.run(main)
