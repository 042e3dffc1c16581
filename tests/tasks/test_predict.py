"""Prediction without the images that a network was trained on."""

import csv
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import quickstart
from rfquant_jax.errors import ConfigError, UserError
from rfquant_jax.nn.functional import write_arrays
from rfquant_jax.tasks import dispatch
from rfquant_jax.tasks.run import Run
from tests.tasks.test_train import averages

CLASSES = ("cat", "dog", "eel")


def run_of(folder, tasks, **fields):
    config = quickstart.get_config()
    config.model.name, config.model.options.width = "cifar_resnet8", 4
    config.data.name, config.data.image_size = "folder", 8
    config.data.mean, config.data.std = (0.5,), (0.25,)
    config.data.val_fraction = 0.2
    config.pretrain.epochs, config.pretrain.batch_size, config.devices = 1, 8, 1
    config.pretrain.ema_decay, config.pretrain.warmup_epochs = 0.0, 0
    with config.unlocked():
        config.update_from_flattened_dict({"tasks": tasks} | fields)
    return Run(config, folder)


def paint(folder, count, seed):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return images


def painted_classes(tmp_path_factory):
    """A folder of a few images of every class."""
    root = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(CLASSES):
        paint(root / name, 12, seed)
    return root


def table(workdir):
    with (workdir / "predictions.csv").open() as file:
        return list(csv.reader(file))[1:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose images are gone."""
    root = painted_classes(tmp_path_factory)
    workdir = tmp_path_factory.mktemp("runs") / "run"
    run = run_of(workdir, ("pretrain",), **{"data.path": str(root)})
    dispatch.perform(run)
    run.close()
    shutil.rmtree(root)
    return workdir


def test_prediction_in_full_precision_needs_no_images(trained, tmp_path):
    images = paint(tmp_path / "new", 5, 9)
    fields = {"predict.images": str(tmp_path / "new"), "predict.top": 3, "data.path": "gone"}
    run = run_of(trained, ("predict",), **fields)
    dispatch.perform(run)
    network = run.network
    run.close()
    write_arrays(network, arrays(trained))
    network.eval()
    logits = np.asarray(network((images / 255 - 0.5) / 0.25), np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for i, row in enumerate(table(trained)):
        assert row[0] == f"{i}.png"
        found = dict(zip(row[1::2], map(float, row[2::2]), strict=True))
        np.testing.assert_allclose([found[c] for c in CLASSES], expected[i], atol=2e-6)


@pytest.fixture(scope="module")
def coupled(tmp_path_factory):
    """A run with a coupled network, evaluated at w4a4, and its images."""
    root = painted_classes(tmp_path_factory)
    workdir = tmp_path_factory.mktemp("runs") / "run"
    tasks = {("pretrain", "train"): "", ("evaluate",): "w4a4"}
    for asked, configuration in tasks.items():
        run = quantized(workdir, asked, root, configuration)
        dispatch.perform(run)
        run.close()
    return workdir, root


def quantized(workdir, tasks, images, configuration, **fields):
    coupled = {"train.epochs": 0, "train.batch_size": 8, "quant.candidates": (4, 2)}
    more = {"data.path": str(images), "configuration": configuration}
    return run_of(workdir, tasks, **(coupled | more | fields))


def predicted(workdir, images, new, configuration):
    fields = {"predict.images": str(new), "predict.top": 3}
    run = quantized(workdir, ("predict",), images, configuration, **fields)
    try:
        dispatch.perform(run)
    finally:
        run.close()
    return table(workdir)


def test_quantized_it_takes_the_statistics_of_the_evaluation(coupled, tmp_path):
    workdir, root = coupled
    paint(tmp_path / "new", 5, 9)
    (file,) = (workdir / "statistics").iterdir()
    without = predicted(workdir, "gone", tmp_path / "new", "w4a4")
    file.rename(tmp_path / file.name)
    with_images = predicted(workdir, root, tmp_path / "new", "w4a4")
    assert without == with_images
    assert len({tuple(row[1:]) for row in without}) == 5
    copy = dict(np.load(tmp_path / file.name))
    assert len(copy) == 15  # mean and variance of seven BatchNorms, and the checksum
    name = next(name for name in copy if name.endswith("mean"))
    copy[name] = copy[name] + 1
    for damaged in (lambda: np.savez(file, **copy), lambda: file.write_bytes(b"PK")):
        damaged()
        assert predicted(workdir, root, tmp_path / "new", "w4a4") == with_images
        with pytest.raises(UserError, match=r"config\.data\.path = 'gone': must be a folder"):
            predicted(workdir, "gone", tmp_path / "new", "w4a4")
    (tmp_path / file.name).rename(file)


def test_statistics_are_of_one_configuration_and_its_settings(coupled, tmp_path):
    workdir, _ = coupled
    paint(tmp_path / "new", 1, 9)
    said = "unless the task evaluate has run for the same configuration"
    with pytest.raises(UserError, match=said):
        predicted(workdir, "gone", tmp_path / "new", "w2a4")
    fields = {"predict.images": str(tmp_path / "new"), "checkpoint": str(workdir)}
    elsewhere = quantized(tmp_path / "run", ("predict",), "gone", "w4a4", **fields)
    dispatch.check(elsewhere)
    for other, value in (("evaluate.recalibration_images", 3), ("evaluate.augment", True)):
        changed = fields | {other: value}
        with pytest.raises(UserError, match=said):
            dispatch.check(quantized(tmp_path / "run", ("predict",), "gone", "w4a4", **changed))


def arrays(workdir):
    """The moving average of a run, by the network's own names."""
    kept = averages(workdir, "pretrain")
    return {name.split(".", 1)[1]: jnp.asarray(value) for name, value in kept.items()}


def test_quantized_it_asks_for_the_images_of_recalibration(trained, tmp_path):
    paint(tmp_path / "new", 1, 9)
    fields = {"predict.images": str(tmp_path / "new"), "configuration": "w4a4"}
    with pytest.raises(ConfigError, match=r"data\.path = 'gone': must be a folder that holds"):
        dispatch.check(run_of(trained, ("predict",), **fields, **{"data.path": "gone"}))


def test_imported_weights_without_images_have_numbered_classes(tmp_path):
    fields = {
        "data.num_classes": 3,
        "data.val_fraction": 0.0,
        "pretrain.epochs": 0,
        "pretrained": "weights.npz",
    }
    run = run_of(tmp_path / "run", ("predict",), **fields)
    assert run.data.class_names == ("0", "1", "2")
    assert run.image_shape == (8, 8, 3)
    with pytest.raises(ConfigError, match=r"data\.path = ''"):
        _ = run_of(tmp_path / "run", ("evaluate",), **fields).data
