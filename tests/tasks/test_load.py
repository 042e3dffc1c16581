"""A network taken from the folder of a run predicts what the run's evaluation counts."""

import numpy as np
import pytest
from ml_collections import ConfigDict

import rfquant_jax as rfq
from configs import default
from rfquant_jax.config import settings
from rfquant_jax.tasks import evaluate, train
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import CONFIG_FILE


def config_of_a_small_run():
    """Three searched convolutions of few channels, quantized without coupled training."""
    config = default.get_config()
    config.devices, config.compilation_cache = 1, ""
    config.model.name, config.model.options = "cifar_resnet8", ConfigDict({"width": 2})
    config.data.name, config.data.image_size, config.data.resize = "digits", 0, 0
    config.data.augmentation, config.data.crop_padding, config.data.flip = "pad", 0, False
    config.data.mean, config.data.std = (0.31,), (0.38,)
    config.data.search_fraction = 0.25
    config.pretrain.epochs, config.pretrain.warmup_epochs = 1, 0
    config.pretrain.batch_size, config.pretrain.ema_decay = 64, 0.9
    config.train.epochs, config.train.batch_size = 0, 64
    config.quant.candidates, config.quant.calibration_batches = (4, 2), 2
    config.search.budgets, config.configuration = "1*w4a4", "w4a2"
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run, its folder, and what it says of w4a2."""
    folder = tmp_path_factory.mktemp("run")
    run = Run(config_of_a_small_run(), folder)
    train.pretrain(run)
    train.train(run)
    result = evaluate.evaluate(run)
    run.close()
    return run, folder, result


def arrays(part):
    records = [part[i] for i in range(len(part))]
    return np.stack([r["image"] for r in records]), np.asarray([r["label"] for r in records])


def right(model, part):
    images, labels = arrays(part)
    return int((np.asarray(model(images)).argmax(-1) == labels).sum())


def test_its_predictions_are_those_of_the_evaluation(finished):
    run, folder, result = finished
    model = rfq.load(folder, "w4a2", devices=1)
    assert (model.configuration == [4, 2]).all()
    assert right(model, run.data.test) == round(result["top1"] / 100 * 500)
    assert result["images"] == 500


def test_the_images_of_the_run_need_not_be_there(finished, monkeypatch):
    run, folder, result = finished
    seed = settings.derived_seed(run.config, "recalibration")  # the evaluation's batches
    held_out = list(run.pipeline.full(run.data.held_out, 128, 7000, seed=seed))

    def gone(config):
        raise AssertionError("the run's data were opened")

    monkeypatch.setattr("rfquant_jax.data.load", gone)
    model = rfq.load(folder, result, recalibrate=held_out, devices=1)  # its JSON names the layers
    assert right(model, run.data.test) == round(result["top1"] / 100 * 500)


def test_a_folder_without_a_network_is_refused(finished, tmp_path):
    with pytest.raises(rfq.UserError, match="has no readable checkpoint of a coupled network"):
        rfq.load(tmp_path, "w4a4")
    _, folder, _ = finished
    assert (folder / CONFIG_FILE).exists()
    with pytest.raises(rfq.UserError, match=r"3 is not one of \(4, 2\)"):
        rfq.load(folder, "w3a3")
