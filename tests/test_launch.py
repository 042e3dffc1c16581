"""The command line from end to end, on a shrunken quickstart."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from rfquant_jax.run import Run
from rfquant_jax.tasks import networks

LAUNCH = Path(__file__).resolve().parents[1] / "launch.py"
SHRUNK = [
    "--config.model.options.width=8",
    "--config.pretrain.epochs=2",
    "--config.train.epochs=4",
    "--config.train.eval_every=2",
    "--config.train.log_every=5",
    "--config.scheduler.start_epoch=0",
    "--config.losses.damping_start_epoch=1",
    "--config.quant.calibration_batches=2",
    "--config.search.budgets=1.05*w4a4,1.05*w2a2",
    "--config.search.max_iterations_per_layer=2",
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Processes of one device that share what they compile."""
    return os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }


@pytest.fixture(scope="module")
def launch(environment):
    def run(*arguments, **changes):
        return subprocess.run(
            [sys.executable, str(LAUNCH), *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment | changes,
            timeout=400,
        )

    return run


@pytest.fixture(scope="module")
def finished(launch, tmp_path_factory):
    """The workdir and the output of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    done = launch(*SHRUNK, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def read(path):
    return json.loads(path.read_text())


def trained_arrays(workdir):
    run = Run(ConfigDict(read(workdir / "config.json")), workdir)
    trained = networks.coupled(run)
    return {k: np.asarray(v) for k, v in (trained.params | trained.stats).items()}


def test_a_run_leaves_everything_in_its_workdir(finished):
    workdir, output = finished
    results = read(workdir / "results.json")
    assert 0 <= results["full_precision"]["top1"] <= 100
    kinds = [(row["kind"], row["name"]) for row in results["rows"]]
    assert kinds == [
        ("uniform", "w4a4"),
        ("searched", "1.05*w4a4"),
        ("uniform", "w2a2"),
        ("searched", "1.05*w2a2"),
    ]
    for row in results["rows"]:
        assert row["bitops_g"] <= row["budget_g"]
        assert row["images"] == 500
        assert f"{row['top1']:.2f}" in output
    searched = [read(p) for p in sorted((workdir / "search").glob("*.json"))]
    assert [s["budget"] for s in searched] == ["1.05*w2a2", "1.05*w4a4"]
    for found in searched:
        assert len(found["layers"]) == 8
        assert found["bitops_g"] <= found["budget_g"]
        assert any(name.startswith("uniform") for name in found["confirmed"])
        assert len(found["confirmed"]) >= 2
        best = min(found["confirmed"].values(), key=lambda a: (-a["top1"], a["cross_entropy"]))
        assert found["confirmed"][found["source"]] == best
    assert searched[1]["trace"][0]["phase"] == "weights"
    assert read(workdir / "config.json")["train"]["epochs"] == 4
    assert list((workdir / "tensorboard").iterdir())
    assert (workdir / "log.txt").read_text().count("\n") > 10


def test_metrics_tell_of_training_scheduler_and_search(finished):
    records = [json.loads(t) for t in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert {r["task"] for r in records} == {"pretrain", "train", "search"}
    fired = [r for r in records if r.get("event") == "scheduler"]
    assert [r["epoch"] for r in fired] == [1, 3]
    assert fired[0]["changes"][0]["change"] == "frozen"
    assert fired[0]["changes"][0]["bits"] == 2
    scored = [r for r in records if "held_out/mean" in r and r["task"] == "train"]
    three = [f"held_out/w{b}a{b}" for b in (6, 4, 2)]
    for record in scored:
        assert record["held_out/mean"] == pytest.approx(np.mean([record[name] for name in three]))
    losses = [r["loss"] for r in records if r["task"] == "train" and "loss" in r]
    assert len(losses) == 12  # 60 steps, a line every 5


def test_the_checkpoint_keeps_masks_and_their_history(finished):
    workdir, _ = finished
    run = Run(ConfigDict(read(workdir / "config.json")), workdir)
    checkpoints = run.checkpoints("train")
    about = checkpoints.about(checkpoints.latest)
    checkpoints.close()
    assert [record["epoch"] for record in about["history"]] == [1, 3]
    assert np.shape(about["masks"]) == (2, 8, 5)


def test_a_finished_run_says_so_and_prints_its_table(launch, finished):
    workdir, output = finished
    before = (workdir / "results.json").read_bytes()
    again = launch(*SHRUNK, f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    for task in ("pretrain", "train", "search", "evaluate"):
        assert f"{task}: finished before" in again.stdout
    table = output[output.index("configuration ") :]
    assert table in again.stdout
    assert (workdir / "results.json").read_bytes() == before


def test_the_workdir_of_another_run_is_refused(launch, finished):
    done = launch(*SHRUNK, f"--workdir={finished[0]}", "--config.optimizer.lr=0.02")
    assert_one_line(done, "belongs to another run: config.optimizer.lr was 0.04 and is 0.02")


@pytest.mark.parametrize(("number", "task"), [(signal.SIGTERM, "train"), (signal.SIGINT, "search")])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    environment, launch, finished, tmp_path, number, task
):
    command = [sys.executable, str(LAUNCH), *SHRUNK, f"--workdir={tmp_path}"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and f'"task": "{task}"' in metrics.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "results.json").exists()

    if task == "train":
        two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        other = launch(*SHRUNK, f"--workdir={tmp_path}", **two)
        assert_one_line(other, "was trained with 64 images a step; batch_size, accumulate and devi")
    done = launch(*SHRUNK, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    if task == "train":
        assert re.search(r"train: goes on after step \d+", done.stdout)
    else:
        assert re.search(r"search: goes on after [1-9]\d* recorded iterations", done.stdout)
    assert read(tmp_path / "results.json") == read(finished[0] / "results.json")
    for name in ("1.05xw4a4.json", "1.05xw2a2.json"):
        assert read(tmp_path / "search" / name) == read(finished[0] / "search" / name)
    undisturbed = trained_arrays(finished[0])
    for name, values in trained_arrays(tmp_path).items():
        np.testing.assert_array_equal(values, undisturbed[name], err_msg=name)
    steps = [
        json.loads(text)["step"]
        for text in metrics.read_text().splitlines()
        if '"train"' in text and '"loss"' in text
    ]
    assert steps == list(range(5, 61, 5)), "no line is missing and none stands twice"


def test_one_configuration_can_be_evaluated_by_itself(launch, finished):
    workdir, _ = finished
    results = read(workdir / "results.json")
    file = workdir / "search" / "1.05xw2a2.json"
    for configuration, row in ((file, results["rows"][3]), ("w4a4", results["rows"][0])):
        done = launch(
            *SHRUNK,
            f"--workdir={workdir}",
            "--config.tasks=evaluate",
            f"--config.configuration={configuration}",
        )
        assert done.returncode == 0, done.stderr
        name = "w4a4" if configuration == "w4a4" else str(file.with_suffix("")).strip("/")
        written = read(workdir / "evaluations" / f"{name.replace('/', '_')}.json")
        assert written["top1"] == row["top1"]
        assert written["bitops_g"] == row["bitops_g"]


def test_searching_in_the_checkpoint_of_another_run(launch, finished, tmp_path):
    done = launch(
        *SHRUNK,
        "--config.tasks=search,evaluate",
        f"--config.checkpoint={finished[0]}",
        "--config.search.budgets=0.02MB",
        f"--workdir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "search" / "0.02MB.json")
    assert found["size_mb"] <= 0.02
    assert found["budget_g"] is None
    assert "searched 0.02MB" in done.stdout
    assert not (tmp_path / "checkpoints").exists()


def test_two_devices_micro_batches_and_a_teacher(launch, finished, tmp_path):
    arguments = [
        *SHRUNK,
        f"--config.checkpoint={finished[0]}",
        f"--config.distillation.teacher={finished[0]}",
        "--config.train.batch_size=16",
        "--config.train.accumulate=2",
        "--config.train.epochs=2",
        f"--workdir={tmp_path}",
    ]
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = launch(*arguments, "--config.tasks=train,evaluate", **two)
    assert done.returncode == 0, done.stderr
    # Nothing was searched: every uniform configuration is evaluated, and nothing is final.
    assert [f"uniform w{b}a{b}" in done.stdout for b in (6, 5, 4, 3, 2)] == [True] * 5
    assert not (tmp_path / "results.json").exists()
    # What two devices trained, one device evaluates.
    one = launch(*arguments, "--config.tasks=train,evaluate")
    assert "train: finished before, at step 30" in one.stdout
    assert one.returncode == 0, one.stderr
    assert table_of(one.stdout) == table_of(done.stdout)


def table_of(output):
    return output[output.index("configuration  ") :]


def test_the_cost_of_a_configuration_needs_nothing(launch, tmp_path):
    done = launch(
        "--config.tasks=cost", "--config.configuration=w4a2", f"--workdir={tmp_path / 'x'}"
    )
    assert done.returncode == 0, done.stderr
    # The quickstart's network by hand: 8x8 digits, widths 24, 48, 96, three stages of one block.
    full = 64 * 9 * 24 * 24 * 2
    strided = 16 * 9 * 24 * 48 + 16 * 9 * 48 * 48 + 16 * 24 * 48
    last = 4 * 9 * 48 * 96 + 4 * 9 * 96 * 96 + 4 * 48 * 96
    fixed = 64 * (64 * 9 * 24 + 96 * 10)
    assert f"{(8 * (full + strided + last) + fixed) / 1e9:.6g}" in done.stdout
    assert not (tmp_path / "x").exists()


def assert_one_line(done, said):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.optimizer.lrr=1"], "did you mean config.optimizer.lr?"),
        (["--config.train.epochs=many"], "--config.train.epochs=many: invalid literal for int"),
        (["--workdri=x"], "Did you mean: workdir"),
        (["stray"], "unknown argument 'stray'"),
        (["--config=missing.py"], "there is no such Python file"),
        (["--config.tasks=fly"], "must be among pretrain, train, search, evaluate, cost"),
        (["--config.devices=3"], "must be 0 (all) or at most 1"),
        (["--config.quant.rules=(('layre1.*', (4,)),)"], "'layre1.*' matches no searched layer"),
        (["--config.search.budgets=0.001G"], "0.001G cannot be reached; configurations of this"),
        (
            ["--config.search.batch_size=400"],
            "must not exceed the 162 held-out images to propose on",
        ),
        (["--config.train.batch_size=4000"], "there are only 973 training images"),
        (["--config.tasks=search"], "has no train checkpoint"),
        (["--config.tasks=evaluate"], "has no pretrain checkpoint"),
        (["--config.tasks=search", "--config.checkpoint=nowhere"], "config.checkpoint=nowhere"),
        (["--config.tasks=evaluate", "--config.configuration=w9a9"], "9 is not one of"),
        (["--config.distillation.teacher=nowhere"], "nowhere/config.json: cannot be read"),
        (["--config.model.name=typo", "--config.tasks=pretrain"], "must be one of cifar_resnet14"),
        (["--config.pretrained=no.npz"], "config.pretrained: no.npz: there is no such file"),
        (["--config.model.options.width=0"], "must be a whole number of at least 1"),
        (["--config.quant.signed=('layre1.*',)"], "config.quant.signed: 'layre1.*' matches none"),
        (["--config.quant.candidates=('a','b')"], "every entry must be a whole number"),
        (["--config.data.std=abc"], "every entry must be a number"),
        (["--config.search.confirm_fraction=0.001"], "config.search.confirm_fraction = 0.001"),
    ],
)
def test_a_mistake_is_said_in_one_line_before_any_work(launch, tmp_path, arguments, said):
    done = launch(*arguments, f"--workdir={tmp_path / 'new'}")
    assert_one_line(done, said)
    assert done.stdout == ""
    assert not (tmp_path / "new").exists()


def test_the_checkpoint_of_another_network_is_refused(launch, finished, tmp_path):
    arguments = ["--config.tasks=search", f"--config.checkpoint={finished[0]}"]
    done = launch(*arguments, f"--workdir={tmp_path / 'new'}")
    assert_one_line(done, "its options: width is 8, the config's is 24")


def test_a_checkpoint_that_was_trained_on_the_held_out_images_is_refused(
    launch, finished, tmp_path
):
    changed = ["--config.tasks=search", "--config.data.split_seed=5"]
    arguments = [*SHRUNK, *changed, f"--config.checkpoint={finished[0]}"]
    done = launch(*arguments, f"--workdir={tmp_path / 'new'}")
    assert_one_line(done, "its data: split_seed is 0, the config's is 5")


def test_a_teachers_folder_without_a_trained_network_is_refused(launch, finished, tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for content, said in (
        ("[1]", "is not a run's"),
        ("{}", "is missing"),
        (None, "has no pretrain"),
    ):
        text = (finished[0] / "config.json").read_text() if content is None else content
        (teacher / "config.json").write_text(text)
        done = launch(f"--config.distillation.teacher={teacher}", f"--workdir={tmp_path / 'new'}")
        assert_one_line(done, said)
        assert "config.distillation.teacher" in done.stderr


def test_results_of_an_earlier_network_are_not_taken_for_todays(launch, finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    truth = read(workdir / "results.json")
    # As if training had gone on to another checkpoint since search and evaluation.
    for path in [*(workdir / "search").glob("*.json"), workdir / "results.json"]:
        path.write_text(path.read_text().replace("checkpoints/train/", "checkpoints/train/9"))
    done = launch(*SHRUNK, f"--workdir={workdir}", "--config.tasks=evaluate")
    assert done.returncode == 0, done.stderr
    assert "uniform w6a6" in done.stdout
    assert "searched" not in done.stdout
    done = launch(*SHRUNK, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "search: finished before" not in done.stdout
    assert "evaluate: finished before" not in done.stdout
    assert read(workdir / "results.json") == truth


def test_help_explains_every_field(launch):
    done = launch("--help")
    assert done.returncode == 0
    assert "python launch.py" in done.stdout
    assert "--config.optimizer.lr=0.04" in done.stdout
    assert "peak learning rate of SGD" in done.stdout


def test_weights_from_a_file_are_evaluated_as_they_are(launch, finished, tmp_path):
    """The trained full-precision network, written as PyTorch would, has the same accuracy."""
    run = Run(ConfigDict(read(finished[0] / "config.json")), finished[0])
    trained = networks.full_precision(run)
    names = {"scale": "weight", "mean": "running_mean", "var": "running_var", "kernel": "weight"}
    tensors = {}
    for name, values in (trained.params | trained.stats).items():
        layer, _, part = name.rpartition(".")
        values = np.asarray(values)
        if part == "kernel":
            values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T
        tensors[f"{layer}.{names.get(part, part)}"] = values
    np.savez(tmp_path / "weights.npz", **tensors)
    as_they_are = [
        f"--config.pretrained={tmp_path / 'weights.npz'}",
        "--config.pretrain.epochs=0",
        "--config.pretrain.warmup_epochs=0",
        "--config.tasks=pretrain,evaluate",
        f"--workdir={tmp_path / 'run'}",
    ]
    done = launch(*SHRUNK, *as_they_are)
    assert done.returncode == 0, done.stderr
    accuracy = read(finished[0] / "results.json")["full_precision"]["top1"]
    assert re.search(rf"^full precision .* {accuracy:.2f}$", done.stdout, re.MULTILINE)
    again = launch(*SHRUNK, *as_they_are)
    assert "pretrain: finished before, at step 0" in again.stdout
    assert table_of(again.stdout) == table_of(done.stdout)
