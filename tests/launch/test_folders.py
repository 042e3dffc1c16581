"""From a folder of images to classes for other images, bad files included."""

import csv
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.launch.conftest import SHRUNK, assert_one_line, read, save_as_pytorch

CLASSES = {"blue": 2, "green": 1, "red": 0}  # name -> the channel that is bright
OPTIONS = [
    *SHRUNK,
    "--config.data.name=folder",
    "--config.data.image_size=16",
    "--config.data.resize=18",
    "--config.data.augmentation=resized_crop",
    "--config.data.search_fraction=0.4",
    "--config.data.max_bad_fraction=0.05",
    "--config.pretrain.batch_size=16",
    "--config.pretrain.epochs=6",
    "--config.train.batch_size=16",
    "--config.evaluate.batch_size=16",
    "--config.search.batch_size=16",
]


def paint(path, channel, seed, form="JPEG"):
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(18, 40)), int(rng.integers(18, 40)), 3)
    pixels = rng.integers(0, 100, size, np.uint8)
    pixels[..., channel] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, form)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """90 + 18 images, of which one of each part cannot be read."""
    root = tmp_path_factory.mktemp("colors")
    for part, count in (("train", 30), ("val", 6)):
        for name, channel in CLASSES.items():
            for i in range(count):
                paint(root / part / name / f"{i:02}.jpg", channel, i + 100 * channel)
    whole = (root / "train" / "red" / "07.jpg").read_bytes()
    (root / "train" / "red" / "07.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "val" / "blue" / "03.jpg").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def trained(launch, folder, tmp_path_factory):
    """The workdir and the output of the whole chain on these images."""
    workdir = tmp_path_factory.mktemp("runs") / "colors"
    arguments = [*OPTIONS, f"--config.data.path={folder}", f"--workdir={workdir}"]
    done = launch(*arguments)
    # One in 18 is more than the fraction allowed.
    assert_one_line(done, "config.data.max_bad_fraction = 0.05: at most 0 of 18 images may be bad")
    assert "blue/03.jpg: is empty" in done.stderr
    done = launch(*arguments, "--config.data.max_bad_fraction=0.1")
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_the_whole_chain_runs_on_a_folder_and_names_bad_files(trained, folder):
    workdir, _ = trained
    log = (workdir / "log.txt").read_text()
    assert f"skipped image 1 of 90: {folder}/train/red/07.jpg: cannot be decoded" in log
    assert f"skipped image 1 of 18: {folder}/val/blue/03.jpg: is empty" in log
    results = read(workdir / "results.json")
    assert {row["images"] for row in results["rows"]} == {17}
    assert results["full_precision"]["top1"] > 50


def test_too_many_bad_files_lose_nothing_already_done(trained):
    """The fixture's first start failed in the evaluation; the second one had nothing to train."""
    _, output = trained
    assert "pretrain: finished before" in output
    assert "search: finished before, for 2 budgets" in output


def test_other_images_are_classified(launch, trained, folder, tmp_path):
    others = tmp_path / "others"
    for i, (name, channel) in enumerate(CLASSES.items()):
        paint(others / "deep" / f"{name}.png", channel, 900 + i, "PNG")
    (others / "broken.jpg").write_bytes(b"no image")
    strange = os.fsdecode(b"caf\xe9.png")  # no UTF-8
    (others / "deep" / "red.png").rename(others / "deep" / strange)
    truth = {"deep/blue.png": "blue", "deep/green.png": "green", f"deep/{strange}": "red"}
    arguments = [
        *OPTIONS,
        "--config.tasks=predict",
        f"--config.data.path={folder}",
        f"--config.predict.images={others}",
        "--config.predict.top=2",
        f"--workdir={trained[0]}",
    ]
    tables = {}
    for configuration in ("", "w4a4"):
        done = launch(*arguments, f"--config.configuration={configuration}")
        assert done.returncode == 0, done.stderr
        assert "broken.jpg: cannot be decoded" in done.stdout
        assert "3 of 4 images classified" in done.stdout
        with (trained[0] / "predictions.csv").open(errors="surrogateescape") as file:
            tables[configuration] = list(csv.reader(file))
    for rows in tables.values():
        assert rows[0] == ["image", "class_1", "probability_1", "class_2", "probability_2"]
        assert rows[1] == ["broken.jpg"]
        assert sorted(row[0] for row in rows[2:]) == sorted(truth)
        for row in rows[2:]:
            first, second = float(row[2]), float(row[4])
            assert first >= second >= 0
            assert 0.5 < first + second <= 1.0001
            assert {row[1], row[3]} < set(CLASSES)
        hits = sum(truth[row[0]] == row[1] for row in rows[2:])
        assert hits >= 2  # of three very different colors
    assert tables[""] != tables["w4a4"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.tasks=predict"], "config.predict.images = ''"),
        (["--config.tasks=predict", "--config.predict.images=nowhere"], "cannot be read"),
        (["--config.tasks=cost", "--config.data.num_classes=4"], "no checkpoint"),
        (["--config.data.num_classes=4"], "config.data.num_classes = 4: does not agree"),
        (["--config.data.path=nowhere"], "must be a folder that holds train and val"),
    ],
)
def test_a_mistake_about_images_is_said_in_one_line(launch, folder, tmp_path, arguments, said):
    workdir = tmp_path / "new"
    done = launch(*OPTIONS, f"--config.data.path={folder}", *arguments, f"--workdir={workdir}")
    if said == "no checkpoint":  # costs need neither images nor checkpoints
        assert done.returncode == 0, done.stderr
        return
    assert_one_line(done, said)
    assert not workdir.exists()


def test_weights_alone_can_teach_and_be_trained_from(launch, trained, folder, tmp_path):
    """A teacher whose run only evaluated weights, and a student that starts from them."""
    weights = tmp_path / "weights.npz"
    save_as_pytorch(trained[0], weights)
    common = [
        *OPTIONS,
        f"--config.data.path={folder}",
        "--config.data.max_bad_fraction=0.1",
        f"--config.pretrained={weights}",
        "--config.pretrain.epochs=0",
        "--config.pretrain.warmup_epochs=0",
    ]
    teacher = tmp_path / "teacher"
    done = launch(*common, "--config.tasks=evaluate", f"--workdir={teacher}")
    assert done.returncode == 0, done.stderr
    assert f"full precision: {weights}, not trained further" in done.stdout
    accuracy = f"{read(trained[0] / 'results.json')['full_precision']['top1']:.2f}"
    assert re.search(rf"full precision +{accuracy}", done.stdout)
    log = teacher / "log.txt"
    before = log.read_text()
    student = [
        *common,
        f"--config.distillation.teacher={teacher}",
        "--config.train.epochs=2",
        f"--workdir={tmp_path / 'student'}",
    ]
    done = launch(*student, "--config.tasks=train")
    assert done.returncode == 0, done.stderr
    assert log.read_text() == before  # the teacher's folder is not the student's
    assert (tmp_path / "student" / "checkpoints" / "train").is_dir()
    assert not (tmp_path / "student" / "checkpoints" / "pretrain").exists()
    # What was trained is there without the weights, too, but for their row of the table.
    weights.rename(tmp_path / "elsewhere.npz")
    done = launch(*student, "--config.tasks=train,evaluate", "--config.configuration=w4a4")
    assert done.returncode == 0, done.stderr
    assert "train: finished before" in done.stdout


def test_weights_of_other_classes_are_no_network_yet(launch, folder, finished, tmp_path):
    """Their classifier would be random: nothing to evaluate or to learn from."""
    weights = tmp_path / "digits.npz"
    save_as_pytorch(finished[0], weights)
    tensors = dict(np.load(weights))
    tensors["conv1.weight"] = np.repeat(tensors["conv1.weight"], 3, axis=1)
    np.savez(weights, **tensors)
    done = launch(
        *OPTIONS,
        f"--config.data.path={folder}",
        f"--config.pretrained={weights}",
        "--config.pretrain.epochs=0",
        "--config.pretrain.warmup_epochs=0",
        "--config.tasks=evaluate",
        f"--workdir={tmp_path / 'x'}",
    )
    assert_one_line(done, "has other classes, so linear.bias, linear.weight would be random")


def test_other_validation_images_are_evaluated_afresh(launch, trained, folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "val" / "blue" / "03.jpg").unlink()
    arguments = [*OPTIONS, "--config.tasks=evaluate", f"--workdir={trained[0]}"]
    same = launch(*arguments, f"--config.data.path={folder}", "--config.data.max_bad_fraction=0.1")
    assert "evaluate: finished before" in same.stdout
    afresh = launch(*arguments, f"--config.data.path={other}")
    assert afresh.returncode == 0, afresh.stderr
    assert "evaluate: finished before" not in afresh.stdout
