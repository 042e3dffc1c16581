"""Searches of a trained network by other algorithms, budgets and restrictions."""

import base64
import csv
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN
from rfquant_jax.evaluate.measure import Measure
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.dispatch import perform
from rfquant_jax.tasks.measure import measured
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.search import confirmation
from rfquant_jax.tasks.search_images import split_held_out
from tests.launch.conftest import SHRUNK, assert_one_line, copy_without_search, read
from tests.quick_to_compile import xla_flags

SMALL = [
    *SHRUNK,
    "--config.tasks=search",
    "--config.search.population=8",
    "--config.search.generations=2",
    "--config.search.keep=2",
]


def assert_pictures(workdir, *names):
    for name in names:
        height, width, _ = cv2.imread(str(workdir / name)).shape
        assert height > 300, name
        assert width > 600, name


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("paper", "evolution")]


@pytest.mark.parametrize("algorithm", ["greedy", "random", *SLOW])
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
        if algorithm in ("greedy", "paper"):
            assert {move["phase"] for move in found["trace"]} <= {"weights", "activations"}
            assert {move["layer"] for move in found["trace"]} <= set(found["layers"])
    assert algorithm not in ("greedy", "paper") or found["trace"]
    assert_pictures(tmp_path, "bits.png", "frontier.png")
    # Without a profile there is no model of the network.
    for name in ("frontier.json", "sensitivity.json", "surrogate.json"):
        assert not (tmp_path / name).exists()
    assert re.search(r"1\.05\*w3a3: within reach are 0\.\d+ GBitOPs to 0\.\d+ GBitOPs", done.stdout)


def test_a_search_on_a_profile_says_what_the_network_is_like(finished):
    workdir, output = finished
    layers = read(workdir / "search" / "1.05xw2a2.json")["layers"]
    curve = read(workdir / "frontier.json")
    assert curve["cost"] == "bitops_g"
    costs = [point["bitops_g"] for point in curve["points"]]
    assert len(costs) > 10
    by_name = {row["name"]: row for row in curve["uniform"]}
    assert list(by_name) == ["w6a6", "w5a5", "w4a4", "w3a3", "w2a2"]
    assert costs[0] == by_name["w2a2"]["bitops_g"]
    assert costs[-1] == by_name["w6a6"]["bitops_g"]
    confirmed = [n for n, point in enumerate(curve["points"]) if point["confirmed"]]
    assert len(confirmed) == 3
    assert (confirmed[0], confirmed[-1]) == (0, len(costs) - 1)
    for row in [*curve["uniform"], *(curve["points"][n] for n in confirmed)]:
        low, high = row["confirmed"]["top1_interval"]
        assert 0 <= low <= row["confirmed"]["top1"] <= high <= 100
    assert curve["points"][0]["confirmed"] == by_name["w2a2"]["confirmed"]
    model = read(workdir / "surrogate.json")
    assert model["configurations"] == len(model["held_out"]) == 30  # 31 less the largest
    measured, predicted = np.asarray(model["held_out"]).T
    explained = 1 - np.mean((measured - predicted) ** 2) / measured.var()
    assert model["r2"] == pytest.approx(explained, abs=1e-3)
    ranks = [values.argsort().argsort() for values in (measured, predicted)]
    assert model["rank_correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=5e-3)
    assert f"the surrogate explains {100 * model['r2']:.0f} % of the variance" in output
    alone = read(workdir / "sensitivity.json")
    assert alone["base"] == {layer: [4, 4] for layer in layers}
    for what in ("weights", "activations"):
        assert list(alone["growth"][what]) == list(layers)
        for growth in alone["growth"][what].values():
            assert growth["6"] == 0
            assert list(growth) == ["6", "5", "4", "3", "2"]
    assert_pictures(workdir, "bits.png", "frontier.png", "sensitivity.png")


def test_a_budget_in_milliseconds_with_pins_and_groups(launch, finished, tmp_path):
    """The table makes one layer alone expensive: 9 ms a bit of weight above 2."""
    layers = list(read(finished[0] / "search" / "1.05xw2a2.json")["layers"])
    costly, pinned, *tied = (layers[i] for i in (0, 1, 3, 4))
    table = tmp_path / "latency.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "w_bits", "a_bits", "milliseconds"])
        for layer in layers:
            for w in (6, 5, 4, 3, 2):
                for a in (6, 5, 4, 3, 2):
                    writer.writerow([layer, w, a, 9 * (w - 2) if layer == costly else 1])
    arguments = [
        *SMALL,
        f"--config.checkpoint={finished[0]}",
        f"--config.search.latency_table={table}",
        f"--config.search.pins=(('{pinned}', (4, 3)),)",
        f"--config.search.groups=(('both', '{tied[0]}', '{tied[1]}'),)",
    ]
    # Everything but the costly layer's weights costs 1 a layer, whatever the bits.
    least = len(layers) - 1
    done = launch(*arguments, f"--config.search.budgets={least}ms", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "run" / "search" / f"{least}ms.json")
    assert found["layers"][costly][0] == 2
    assert found["layers"][pinned] == [4, 3]
    assert found["layers"][tied[0]] == found["layers"][tied[1]]
    assert found["budget_ms"] == least
    curve = read(tmp_path / "run" / "frontier.json")
    assert curve["cost"] == "latency_ms"
    costs = [point["latency_ms"] for point in curve["points"]]
    assert (costs[0], costs[-1]) == (least, least + 36)
    refused = launch(
        *arguments, f"--config.search.budgets={least - 1}ms", f"--workdir={tmp_path / 'no'}"
    )
    assert_one_line(refused, f"cost from {least} ms to {least + 36} ms")


def test_frozen_bit_widths_are_left_out_where_that_is_asked(launch, finished, tmp_path):
    """Some layers of the shared run end without 2 bits, which other searches may give them."""
    run = Run(ConfigDict(read(finished[0] / "config.json")), finished[0])
    masks, space = networks.coupled(run).masks, run.plan.space
    assert (space.full_mask & ~masks).any()
    assert masks.all(axis=2).any()
    smallest = np.asarray(
        [[min(np.asarray(space.candidates)[left]) for left in column] for column in masks]
    )
    arguments = [*SMALL, f"--config.checkpoint={finished[0]}", "--config.search.use_frozen=False"]
    arguments.append(f"--workdir={tmp_path}")
    refused = launch(*arguments, "--config.search.budgets=1*w2a2")
    assert_one_line(
        refused, "config.search.budgets: 1*w2a2 cannot be reached; configurations of th"
    )
    budget = f"--config.search.budgets={1.0001 * run.costs.bitops_g(smallest.T)}G"
    arguments[-1] = f"--workdir={tmp_path / 'run'}"
    done = launch(*arguments, budget)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "run" / "search").glob("*G.json")
    assert list(read(file)["layers"].values()) == smallest.T.tolist()
    # Another process evaluates what this one found, against the same uniform configuration.
    done = launch(*arguments, budget, "--config.tasks=evaluate")
    assert done.returncode == 0, done.stderr
    uniform, searched = read(tmp_path / "run" / "results.json")["rows"]
    assert searched["gain"]["over"] == uniform["name"] == read(file)["gain"]["over"]
    assert uniform["bitops_g"] == searched["bitops_g"]
    assert searched["gain"]["cross_entropy"] == 0


def test_tasks_share_a_network_until_its_checkpoint_changes(finished, tmp_path):
    config = ConfigDict(read(finished[0] / "config.json"))
    config.tasks, config.checkpoint = ("search", "evaluate"), str(finished[0])
    run = Run(config, tmp_path)
    perform(run)
    run.close()
    known = run.measured[TRAIN]
    assert known.measure.evaluator.traces == {"measure": 1, "count": 1}
    assert run.measured[PRETRAIN].measure.evaluator.traces == {"measure": 0, "count": 1}
    assert measured(run, TRAIN) is known
    run.measured[TRAIN] = replace(known, trained=replace(known.trained, origin="another"))
    assert measured(run, TRAIN).trained.origin == known.trained.origin
    assert measured(run, TRAIN) is not known


def test_outcomes_are_found_once_for_a_checkpoint(finished, tmp_path, monkeypatch):
    config = ConfigDict(read(finished[0] / "config.json"))
    config.tasks, config.checkpoint = ("search",), str(finished[0])
    run = Run(config, tmp_path)
    coupled = measured(run, TRAIN)
    images = split_held_out(config, run.data.held_out).confirming
    space = run.plan.space
    configuration, another = space.uniform(4, 4), space.uniform(4, 4)
    configuration[-1], another[-1] = (3, 5), (5, 3)  # not confirmed by the other run
    first = confirmation(run, coupled, images)
    outcomes = first(configuration)
    assert len(outcomes.labels) == len(images) == 324
    asked = []

    def counted(self, *what):
        asked.append(what)
        return outcomes

    monkeypatch.setattr(Measure, "outcomes", counted)
    for again in (first(configuration), confirmation(run, coupled, images)(configuration)):
        for name in ("loss", "top1", "top5", "labels"):
            np.testing.assert_array_equal(getattr(again, name), getattr(outcomes, name))
    confirmation(run, coupled, images)(space.uniform(3, 3))  # in the other run's file
    assert asked == []
    confirmation(run, coupled, images)(another)
    assert len(asked) == 1
    other = replace(coupled, trained=replace(coupled.trained, origin="another"))
    confirmation(run, other, images)(configuration)
    assert len(asked) == 2


def test_the_winner_is_chosen_on_the_half_that_did_not_propose_it(finished):
    """Recomputed from the images' outcomes in the workdir."""
    workdir, _ = finished
    run = Run(ConfigDict(read(workdir / "config.json")), workdir)
    images, space = split_held_out(run.config, run.data.held_out), run.plan.space
    assert [len(part) for part in images.proposing] == [162, 162]
    unseen = dict(zip("AB", images.unseen, strict=True))
    np.testing.assert_array_equal(unseen["A"], ~unseen["B"])
    for half, part in zip("AB", images.proposing, strict=True):
        assert sorted(part.indices) == np.flatnonzero(~unseen[half]).tolist()
    lines = (workdir / "search" / "confirmed.jsonl").read_text().splitlines()[1:]
    losses = {}
    for line in map(json.loads, lines):
        rows = np.frombuffer(base64.b64decode(line["outcomes"]), "<f4").reshape(4, 324)
        losses[line["configuration"]] = rows[0].astype(float)
    profile = [
        json.loads(t) for t in (workdir / "search" / "profile.jsonl").read_text().splitlines()
    ]
    values = {(line["part"], line["configuration"]): line["divergence"] for line in profile[1:]}
    for file in ("1.05xw4a4.json", "1.05xw2a2.json"):
        found = read(workdir / "search" / file)
        budget = next(b for b in run.budgets if b.text == found["budget"])
        # The best that was measured on each half within the budget.
        best = {
            half: min(
                (c for p, c in values if p == part and budget.fits(space.decode(c))),
                key=lambda c, part=part: values[part, c],
            )
            for part, half in enumerate("AB")
        }
        uniform = [name for name in found["confirmed"] if name.startswith("uniform ")]
        loss = {name: losses[space.encode(space.parse(name.split()[1]))] for name in uniform}
        pooled = {
            name: np.concatenate([(losses[best[h]] - other)[unseen[h]] for h in "AB"]).mean()
            for name, other in loss.items()
        }
        over = f"uniform {found['gain']['over']}"
        if max(pooled.values()) < 0:
            alone = {h: (losses[best[h]] - loss[uniform[0]])[unseen[h]].mean() for h in "AB"}
            winner = best[min(alone, key=alone.get)]
            assert found["gain"]["cross_entropy"] == pytest.approx(pooled[over])
        else:
            name = min(uniform, key=lambda name: loss[name].mean())
            winner = space.encode(space.parse(name.split()[1]))
            assert found["source"] == name
            difference = (loss[name] - loss[over]).mean()
            assert found["gain"]["cross_entropy"] == pytest.approx(difference, abs=1e-12)
        assert space.encode(space.from_json(found)) == winner


def test_four_devices_find_what_one_finds(launch, finished, tmp_path):
    """Batches are never split, and configurations wait for each other.

    The programs of one and of four devices are compiled apart: where rounding differs, a code may
    flip, and with it the divergence of a configuration a little.
    """
    folder = copy_without_search(finished[0], tmp_path / "copy")
    four = {"XLA_FLAGS": xla_flags(4)}
    done = launch(*SHRUNK, "--config.tasks=search", f"--workdir={folder}", **four)
    assert done.returncode == 0, done.stderr
    for name in ("1.05xw4a4.json", "1.05xw2a2.json"):
        found, expected = (read(w / "search" / name) for w in (folder, finished[0]))
        assert found["profile"].pop("length") == expected["profile"].pop("length")
        assert found.pop("profile").keys() == expected.pop("profile").keys()
        assert found == expected
    profiles = []
    for workdir in (folder, finished[0]):
        lines = (workdir / "search" / "profile.jsonl").read_text().splitlines()
        profiles.append([json.loads(line) for line in lines[1:]])
    for one, other in zip(*profiles, strict=True):
        assert (one["part"], one["configuration"]) == (other["part"], other["configuration"])
        assert one["divergence"] == pytest.approx(other["divergence"], rel=1e-3)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.search.pins=(('nothing', (4, 4)),)", "config.search.pins = 'nothing': matches"),
        ("--config.search.groups=(('both', 'no*'),)", "config.search.groups = 'no*': matches"),
        ("--config.search.same_bits=('no*',)", "config.search.same_bits = 'no*': matches none of"),
        ("--config.search.latency_table=nowhere.csv", "nowhere.csv: cannot be read"),
        ("--config.search.budgets=3ms", "config.search.budgets = '3ms': must be a number of GBit"),
        ("--config.search.algorithm=integer", "= 'integer': must be trust_region, greedy, paper"),
        (
            "--config.search.algorithm=magic",
            "must be trust_region, greedy, paper, evolution or random",
        ),
    ],
)
def test_a_mistake_about_the_search_is_said_in_one_line(launch, finished, tmp_path, argument, said):
    workdir = tmp_path / "new"
    checkpoint = f"--config.checkpoint={finished[0]}"
    done = launch(*SMALL, checkpoint, argument, f"--workdir={workdir}")
    assert_one_line(done, said)
    assert not workdir.exists()
