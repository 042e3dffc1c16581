"""What must never come back in the programs that XLA makes for GPUs; needs jax[cuda13]."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_topology
from benchmarks.gpu_compile import compare, step_peak

ROOT = Path(__file__).resolve().parents[2]
NEEDS_PLUGIN = pytest.mark.skipif(not gpu_topology.is_installed(), reason=gpu_topology.INSTALL)


def environment():
    """Without the flags of the tests, which switch optimizations off and add fake devices."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("XLA", "JAX"))
    }


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.gpu_compile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())


def compiled(folder, *arguments):
    output = folder / "numbers.json"
    done = run("--quick", "--batch=8", *arguments, f"--output={output}")
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    return {row["program"]: row for row in found["programs"]}, found["steps"]


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory):
    """A step, an evaluation and a search of ResNet-20 on 8 H100s."""
    asked = "--network=cifar_resnet20", "--devices=8", "--program=scan,evaluate,search"
    return compiled(tmp_path_factory.mktemp("resnet20"), *asked)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """A plain step of ResNet18, which has a max-pool."""
    asked = "--network=resnet18", "--size=64", "--program=plain"
    return compiled(tmp_path_factory.mktemp("resnet18"), *asked)


@pytest.mark.slow
@NEEDS_PLUGIN
def test_one_all_reduce_a_step_on_8_devices(resnet20):
    programs, _ = resnet20
    assert programs["scan: whole"]["all_reduces"] == programs["scan: whole"]["collectives"] == 1
    assert {row["collectives"] for name, row in programs.items() if name != "scan: whole"} == {0}


@pytest.mark.slow
@NEEDS_PLUGIN
@pytest.mark.parametrize("group", ["scan", "evaluate", "search"])
def test_no_convolution_has_float32_operands(resnet20, group):
    rows = [row for name, row in resnet20[0].items() if name.startswith(group)]
    found = [types for row in rows for types in row["convolutions"]]
    assert found
    assert not [types for types in found if "f32" in types.partition("->")[0].split(",")]


@pytest.mark.slow
@NEEDS_PLUGIN
def test_backward_passes_neither_scatter_nor_sort(resnet20, resnet18):
    for row in (resnet20[0]["scan: whole"], resnet18[0]["plain: one_pass"]):
        assert row["convolutions"]
        assert (row["scatters"], row["sorts"]) == (0, 0), row["program"]


@pytest.mark.slow
@NEEDS_PLUGIN
def test_the_figures_of_a_step_are_those_of_its_programs(resnet18):
    programs, [step] = resnet18
    one_pass, update = programs["plain: one_pass"], programs["plain: update"]
    assert step["kernels"] == sum(
        row["kernels"] for name, row in programs.items() if name != "plain: buffers"
    )
    # The state of the optimizer and the averages are beside the arguments of a pass.
    assert step["peak_bytes"] > one_pass["peak_bytes"] > one_pass["argument_bytes"]
    assert step["peak_bytes"] >= update["peak_bytes"] > one_pass["argument_bytes"]


def test_the_peak_of_a_step_includes_what_a_program_does_not_take():
    one_pass = {"program": "loop: one_pass", "argument_bytes": 50, "peak_bytes": 90}
    update = {"program": "loop: update", "argument_bytes": 40, "peak_bytes": 45}
    # 30 bytes of the state that a pass does not take: 50 + 30 belong to the step.
    assert step_peak([one_pass, update], 30) == 90 + 30
    assert step_peak([one_pass, update | {"peak_bytes": 85}], 30) == 85 + (50 + 30 - 40)
    whole = {"program": "scan: whole", "argument_bytes": 80, "peak_bytes": 120}
    sample = {"program": "scan: sample", "argument_bytes": 1, "peak_bytes": 2}
    assert step_peak([sample, whole], 0) == 120


def test_ratios_are_to_as_many_plain_steps_as_there_are_passes():
    rows = [
        {"step": "plain", "roof_s": 2.0, "peak_bytes": 100},
        {"step": "scan", "roof_s": 9.0, "peak_bytes": 130},
    ]
    compare(rows, 4)
    assert "over_plain" not in rows[0]
    assert (rows[1]["over_plain"], rows[1]["peak_over_plain"]) == (9 / 8, 1.3)


def test_without_the_plugin_one_line_says_how_to_install_it():
    if gpu_topology.is_installed():
        pytest.skip("the plugin is installed")
    done = run("--program=plain")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"benchmarks.gpu_compile {gpu_topology.INSTALL}"
