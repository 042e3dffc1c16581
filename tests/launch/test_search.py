"""Searches of a trained network by other algorithms, budgets and restrictions."""

import csv
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from rfquant_jax.tasks import networks
from rfquant_jax.tasks.confirm import Confirmation
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.measure import Measure
from tests.launch.conftest import SHRUNK, assert_one_line, read

SMALL = [
    *SHRUNK,
    "--config.tasks=search",
    "--config.search.population=8",
    "--config.search.generations=2",
    "--config.search.evaluations=20",
    "--config.search.refinement_rounds=2",
    "--config.search.sensitivity_batches=1",
    "--config.search.keep=2",
    "--config.search.frontier_points=3",
]


@pytest.mark.parametrize("algorithm", ["paper", "integer", "evolution", "random"])
def test_every_algorithm_searches_a_network(launch, finished, tmp_path, algorithm):
    arguments = [
        *SMALL,
        f"--config.search.algorithm={algorithm}",
        f"--config.checkpoint={finished[0]}",
        "--config.search.budgets=1.05*w3a3,0.9*w4a4:MB",
        f"--workdir={tmp_path}",
    ]
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr
    for file, unit in (("1.05xw3a3.json", "bitops_g"), ("0.9xw4a4_MB.json", "size_mb")):
        found = read(tmp_path / "search" / file)
        limit = found["budget_g" if unit == "bitops_g" else "budget_mb"]
        assert found[unit] <= limit
        assert any(name.startswith(algorithm) for name in found["confirmed"])
        assert any(name.startswith("uniform w") for name in found["confirmed"])
        for figures in found["confirmed"].values():
            low, high = figures["top1_interval"]
            assert 0 <= low <= figures["top1"] <= high <= 100
    whole = read(tmp_path / "frontier.json")
    assert 1 <= len(whole["points"]) <= 3
    costs = [point["bitops_g"] for point in whole["points"]]
    assert costs == sorted(costs)
    assert whole["rank_correlation"] is None or -1 <= whole["rank_correlation"] <= 1
    for picture in ("bits.png", "frontier.png", "sensitivity.png"):
        height, width, _ = cv2.imread(str(tmp_path / picture)).shape
        assert height > 300, picture
        assert width > 600, picture
    alone = read(tmp_path / "sensitivity.json")
    layers = read(tmp_path / "search" / "1.05xw3a3.json")["layers"]
    assert alone["base"] == {layer: [5, 5] for layer in layers}
    for what in ("weights", "activations"):
        assert list(alone["growth"][what]) == list(layers)
        for growth in alone["growth"][what].values():
            assert growth["5"] == 0
            assert len(growth) == 5
    assert re.search(r"1\.05\*w3a3: within reach are 0\.\d+ GBitOPs to 0\.\d+ GBitOPs", done.stdout)


def test_a_budget_in_milliseconds_with_pins_and_groups(launch, finished, tmp_path):
    """The table makes the first layer alone expensive: 9 ms a bit of weight above 2."""
    layers = list(read(finished[0] / "search" / "1.05xw2a2.json")["layers"])
    table = tmp_path / "latency.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "w_bits", "a_bits", "milliseconds"])
        for layer in layers:
            for w in (6, 5, 4, 3, 2):
                for a in (6, 5, 4, 3, 2):
                    cost = 9 * (w - 2) if layer == layers[0] else 1
                    writer.writerow([layer, w, a, cost])
    arguments = [
        *SMALL,
        f"--config.checkpoint={finished[0]}",
        "--config.search.algorithm=integer",
        f"--config.search.latency_table={table}",
        f"--config.search.pins=(('{layers[1]}', (4, 3)),)",
        f"--config.search.groups=(('both', '{layers[2]}', '{layers[3]}'),)",
    ]
    # Everything but the first layer's weights costs 1 a layer, whatever the bits.
    reached = f"--config.search.budgets={len(layers) - 1}ms"
    done = launch(*arguments, reached, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "run" / "search" / f"{len(layers) - 1}ms.json")
    assert found["layers"][layers[0]][0] == 2
    assert found["layers"][layers[1]] == [4, 3]
    assert found["layers"][layers[2]] == found["layers"][layers[3]]
    assert found["budget_ms"] == len(layers) - 1
    refused = launch(
        *arguments, f"--config.search.budgets={len(layers) - 2}ms", f"--workdir={tmp_path / 'no'}"
    )
    assert_one_line(refused, f"cost from {len(layers) - 1} ms to {len(layers) - 1 + 36} ms")


def test_frozen_bit_widths_are_left_out_where_that_is_asked(launch, finished, tmp_path):
    """Some layers of the shared run end without 2 bits, which other searches may give them."""
    run = Run(ConfigDict(read(finished[0] / "config.json")), finished[0])
    masks = networks.coupled(run).masks
    frozen = ~masks.all(axis=2)
    assert frozen.any()
    assert not frozen.all()
    arguments = [*SMALL, f"--config.checkpoint={finished[0]}", "--config.search.use_frozen=False"]
    arguments += ["--config.search.algorithm=integer", f"--workdir={tmp_path}"]
    refused = launch(*arguments, "--config.search.budgets=1*w2a2")
    assert_one_line(
        refused, "config.search.budgets: 1*w2a2 cannot be reached; configurations of th"
    )
    cheapest = run.costs.bitops_g(np.where(frozen, 3, 2).T)
    budget = f"--config.search.budgets={1.0001 * cheapest}G"
    done = launch(*arguments, budget, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "run" / "search").glob("*G.json")
    assert list(read(file)["layers"].values()) == np.where(frozen, 3, 2).T.tolist()


def test_confirmed_accuracies_are_found_once_for_a_checkpoint(finished, tmp_path, monkeypatch):
    config = ConfigDict(read(finished[0] / "config.json"))
    config.tasks, config.checkpoint = ("search",), str(finished[0])
    run = Run(config, tmp_path)
    trained = networks.coupled(run)
    configuration = run.blueprint.space.uniform(4, 4)
    first = Confirmation(run, trained)
    accuracy = first(configuration)
    assert accuracy.images == len(first.images)
    asked = []
    monkeypatch.setattr(Measure, "quantized", lambda self, *what: asked.append(what) or accuracy)
    assert first(configuration) == Confirmation(run, trained)(configuration) == accuracy
    assert asked == []
    Confirmation(run, trained)(run.blueprint.space.uniform(3, 3))
    assert len(asked) == 1
    other = replace(trained, origin="another")
    Confirmation(run, other)(configuration)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.search.pins=(('nothing', (4, 4)),)", "config.search.pins = 'nothing': matches"),
        ("--config.search.groups=(('both', 'no*'),)", "config.search.groups = 'no*': matches"),
        ("--config.search.latency_table=nowhere.csv", "nowhere.csv: cannot be read"),
        ("--config.search.budgets=3ms", "config.search.budgets = '3ms': must be a number of GBit"),
        ("--config.search.algorithm=magic", "must be greedy, paper, integer, evolution or random"),
    ],
)
def test_a_mistake_about_the_search_is_said_in_one_line(launch, finished, tmp_path, argument, said):
    workdir = tmp_path / "new"
    checkpoint = f"--config.checkpoint={finished[0]}"
    done = launch(*SMALL, checkpoint, argument, f"--workdir={workdir}")
    assert_one_line(done, said)
    assert not workdir.exists()
