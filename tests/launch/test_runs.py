"""Whole runs of the command line, and what they leave behind."""

import json
import re
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from rfquant_jax.tasks.run import Run
from tests.launch.conftest import SHRUNK, read, save_as_pytorch, table_of
from tests.quick_to_compile import xla_flags


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
        assert row["cross_entropy"] > 0
        assert f"{row['top1']:.2f}" in output
    uniform = {row["name"]: row for row in results["rows"] if row["kind"] == "uniform"}
    for row in results["rows"]:
        if row["kind"] == "searched":
            assert row["budget"] == row["name"]
            # A mean of paired differences is the difference of the means.
            gain, other = row["gain"], uniform[row["gain"]["over"]]
            assert gain["top1"] == pytest.approx(row["top1"] - other["top1"])
            difference = row["cross_entropy"] - other["cross_entropy"]
            assert gain["cross_entropy"] == pytest.approx(difference, abs=1e-6)
            for name in ("top1", "cross_entropy"):
                low, high = gain[f"{name}_interval"]
                assert low <= gain[name] <= high
    searched = [read(p) for p in sorted((workdir / "search").glob("1.05x*.json"))]
    assert [s["budget"] for s in searched] == ["1.05*w2a2", "1.05*w4a4"]
    for found in searched:
        assert len(found["layers"]) == 6
        assert found["bitops_g"] <= found["budget_g"]
        assert any(name.startswith("uniform") for name in found["confirmed"])
        assert len(found["confirmed"]) >= 2
        assert found["source"] in found["confirmed"]
        assert found["evaluations"] <= 12
        # Of the uniform ones none has less cross-entropy than the one that is compared with.
        assert found["gain"]["cross_entropy"] <= 0
    assert read(workdir / "config.json")["train"]["epochs"] == 4
    assert list((workdir / "tensorboard").iterdir())
    assert (workdir / "log.txt").read_text().count("\n") > 10


def test_metrics_tell_of_training_and_scheduler(finished):
    records = [json.loads(t) for t in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert {r["task"] for r in records} == {"pretrain", "train"}
    fired = [r for r in records if r.get("event") == "scheduler"]
    assert [r["epoch"] for r in fired] == [1, 3]
    assert fired[0]["changes"][0]["change"] == "frozen"
    assert fired[0]["changes"][0]["bits"] == 2
    scored = [r for r in records if "held_out/mean" in r and r["task"] == "train"]
    levels = [f"held_out/w{b}a{b}" for b in (6, 5, 4, 3, 2)]
    for record in scored:
        assert record["held_out/mean"] == pytest.approx(np.mean([record[name] for name in levels]))
    losses = [r["loss"] for r in records if r["task"] == "train" and "loss" in r]
    assert len(losses) == 12  # 60 steps, a line every 5
    told = [r for r in records if r.get("event") == "interference"]
    assert [r["step"] for r in told] == [r["step"] for r in scored]
    for record in told:
        assert record["passes"] == 90  # 30 steps of 3 random passes between evaluations
        for row in record["weights"] + record["activations"]:
            assert sum(row) == 90


def test_the_checkpoint_keeps_masks_and_their_history(finished):
    workdir, _ = finished
    run = Run(ConfigDict(read(workdir / "config.json")), workdir)
    checkpoints = run.checkpoints("train")
    about = checkpoints.about(checkpoints.latest)
    checkpoints.close()
    assert [record["epoch"] for record in about["history"]] == [1, 3]
    assert np.shape(about["masks"]) == (2, 6, 5)


def test_a_finished_run_says_so_and_prints_its_table(launch_alone, finished):
    workdir, output = finished
    before = (workdir / "results.json").read_bytes()
    again = launch_alone(*SHRUNK, f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    for task in ("pretrain", "train", "search", "evaluate"):
        assert f"{task}: finished before" in again.stdout
    table = output[output.index("full precision: top-1 ") :]
    assert table.count("\n1.05*w") == 2
    assert table in again.stdout
    assert (workdir / "results.json").read_bytes() == before


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
        "--config.search.budgets=25KB",
        f"--workdir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "search" / "25KB.json")
    assert found["size_mb"] <= 25 / 1024
    assert found["budget_mb"] == 25 / 1024
    assert found["budget_g"] is None
    assert re.search(rf"^25KB +\S+ +{found['size_mb']:.6g} ", done.stdout, re.MULTILINE)
    assert not (tmp_path / "checkpoints").exists()
    # It starts from a copy of the other run's profile, and only adds to it.
    before = (finished[0] / "search" / "profile.jsonl").read_text()
    evaluations = before.count("\n") - 1
    assert (tmp_path / "search" / "profile.jsonl").read_text().startswith(before)
    assert found["profile"]["length"] == evaluations
    assert f"; {evaluations} evaluations available" in done.stdout


def test_two_devices_micro_batches_and_a_teacher(launch, finished, tmp_path):
    arguments = [
        *SHRUNK,
        f"--config.checkpoint={finished[0]}",
        f"--config.distillation.teacher={finished[0]}",
        "--config.train.batch_size=64",
        "--config.train.accumulate=2",
        "--config.train.epochs=2",
        f"--workdir={tmp_path}",
    ]
    two = {"XLA_FLAGS": xla_flags(2)}
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


def test_the_cost_of_a_configuration_needs_nothing(launch, tmp_path):
    done = launch(
        "--config.tasks=cost", "--config.configuration=w4a2", f"--workdir={tmp_path / 'x'}"
    )
    assert done.returncode == 0, done.stderr
    # The quickstart's network by hand: 8x8 digits, two blocks that halve the sides. Depthwise
    # layers never go below 3 bits, also not for activations.
    pointwise = 64 * (16 * 8 + 8 * 32) + 16 * (32 * 12 + 12 * 48 + 48 * 12 + 12 * 48)
    pointwise += 4 * (48 * 20 + 20 * 80 + 80 * 20 + 20 * 96)
    depthwise = 9 * (64 * 16 + 16 * (32 + 48) + 4 * (48 + 80))
    fixed = 64 * (64 * 9 * 16 + 96 * 10)
    assert f"{(8 * pointwise + 12 * depthwise + fixed) / 1e9:.6g}" in done.stdout
    # The first bottleneck: codes of 16 channels in, a float32 result of 8 channels out, 8x8 each.
    peak = 64 * 16 + 4 * 64 * 8
    assert f"peak activation memory: {peak} bytes for one image" in done.stdout
    assert not (tmp_path / "x").exists()


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


def test_help_explains_every_field(launch_alone):
    done = launch_alone("--help")
    assert done.returncode == 0
    assert "python launch.py" in done.stdout
    assert "--config.optimizer.lr=0.04" in done.stdout
    assert "peak learning rate of SGD" in done.stdout


def test_weights_from_a_file_are_evaluated_as_they_are(launch, finished, tmp_path):
    """The trained full-precision network, written as PyTorch would, has the same accuracy."""
    save_as_pytorch(finished[0], tmp_path / "weights.npz")
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
