"""A run whose activations have candidates of their own, from training to the exported file."""

import json
import re

import pytest

from tests.launch.conftest import SHRUNK, assert_one_line, read

ARGUMENTS = [
    *SHRUNK,
    "--config.quant.candidates=(6,4,2)",
    "--config.quant.activation_candidates=(6,4)",
]
WIDTHS = {(w, a) for w in (6, 4, 2) for a in (6, 4)}


@pytest.fixture(scope="module")
def workdir(launch, finished, tmp_path_factory):
    """Coupled training of another run's network, then all that follows."""
    workdir = tmp_path_factory.mktemp("activations") / "run"
    done = launch(
        *ARGUMENTS,
        "--config.tasks=train,search,evaluate,export",
        f"--config.checkpoint={finished[0]}",
        "--config.search.budgets=0.95*w4a4,0.85*w4a4",
        "--config.search.same_bits=('*.conv2',)",
        "--config.export.formats=('integer','onnx')",
        f"--workdir={workdir}",
    )
    assert done.returncode == 0, done.stderr
    return workdir


def test_every_pass_and_every_level_has_candidates_of_activations(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    levels = {key for line in lines for key in line if re.match(r"held_out/w\d", key)}
    assert levels == {"held_out/w6a6", "held_out/w4a4", "held_out/w2a4"}
    records = [line for line in lines if line.get("event") == "interference"]
    assert records[-1]["bits"] == [6, 4, 2]
    assert records[-1]["passes"] > 0
    for record in records:
        assert all(sum(row) == record["passes"] for row in record["activations"])
        assert all(row[2] == 0 for row in record["activations"])
    # The scheduler freezes 2 bits of weights, which activations do not have.
    changes = [c for line in lines if line.get("event") == "scheduler" for c in line["changes"]]
    assert {change["bits"] for change in changes} == {2}


def test_searched_and_uniform_configurations_have_candidates(workdir):
    for file in ("0.95xw4a4.json", "0.85xw4a4.json"):
        found = read(workdir / "search" / file)
        assert {tuple(bits) for bits in found["layers"].values()} <= WIDTHS
        assert found["bitops_g"] <= found["budget_g"]
        equal = [bits for name, bits in found["layers"].items() if name.endswith(".conv2")]
        assert equal
        assert all(weights == activations for weights, activations in equal)
    curve = read(workdir / "frontier.json")
    assert [uniform["name"] for uniform in curve["uniform"]] == ["w6a6", "w4a4", "w2a4"]
    for point in curve["points"]:
        assert {tuple(bits) for bits in point["layers"].values()} <= WIDTHS
    growth = read(workdir / "sensitivity.json")["growth"]
    assert {tuple(row) for row in growth["activations"].values()} == {("6", "4")}
    header = json.loads((workdir / "search" / "profile.jsonl").read_text().splitlines()[0])
    assert (header["candidates"], header["activation_candidates"]) == ([6, 4, 2], [6, 4])


def test_winners_are_exported_and_the_report_names_the_candidates(workdir):
    content = read(workdir / "export.json")["configurations"]
    for name in ("0.95xw4a4", "0.85xw4a4"):
        assert content[name]["verified"] is True
        assert content[name]["layers"] == read(workdir / "search" / f"{name}.json")["layers"]
    assert "Candidates of activations" in (workdir / "report.html").read_text()


def test_a_checkpoint_belongs_to_its_candidates(launch, workdir, tmp_path):
    arguments = [*SHRUNK, "--config.quant.candidates=(6,4,2)", "--config.tasks=search"]
    refused = launch(*arguments, f"--config.checkpoint={workdir}", f"--workdir={tmp_path}")
    assert_one_line(refused, "activation_candidates is [6, 4], this run's is None")


def test_the_costs_of_uniform_configurations(launch, tmp_path):
    done = launch(*ARGUMENTS, "--config.tasks=cost", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^w\d+a\d+", done.stdout, re.M) == ["w6a6", "w4a4", "w2a4"]
    wrong = [*ARGUMENTS, "--config.tasks=cost", "--config.configuration=w4a2"]
    refused = launch(*wrong, f"--workdir={tmp_path}")
    assert_one_line(refused, "2 is not one of (6, 4), the candidates of activations")
