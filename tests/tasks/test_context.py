"""What a run derives from its config: data, and which checkpoints fit it."""

import numpy as np
import pytest
from PIL import Image

from configs import quickstart
from rfquant_jax.checkpoint.checkpoints import PRETRAIN
from rfquant_jax.errors import CheckpointError, ConfigError
from rfquant_jax.tasks.run import Run


def run_of(folder, images, **fields):
    config = quickstart.get_config()
    config.data.name, config.data.path, config.data.image_size = "folder", str(images), 8
    config.data.mean, config.data.std = (0.5,), (0.5,)
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    return Run(config, folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Class folders alone, 10 images in each."""
    folder = tmp_path_factory.mktemp("images")
    for name in "ab":
        (folder / name).mkdir()
        for i in range(10):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / name / f"{i}.png")
    return folder


def test_a_checkpoint_belongs_to_its_held_out_test_images(tmp_path, images):
    first = {"data.val_fraction": 0.25}
    with run_of(tmp_path, images, **first).checkpoints(PRETRAIN, write=True) as kept:
        kept.save(1, ema={"a": np.ones(2)}, state={"b": np.ones(2)}, about={}, score=1.0)
    assert run_of(tmp_path, images, **first).checkpoints(PRETRAIN).best == 1
    for fields, said in (
        ({"data.val_fraction": 0.5}, "its data: val_fraction is 0.25, this run's is 0.5"),
        (first | {"data.split_seed": 1}, "its data: split_seed is 0, this run's is 1"),
    ):
        with pytest.raises(CheckpointError) as error:
            run_of(tmp_path, images, **fields).checkpoints(PRETRAIN).about(1)
        assert said in str(error.value)


def test_errors_about_held_out_images_name_the_field(tmp_path, images):
    with pytest.raises(ConfigError, match=r"class folders alone need data\.val_fraction"):
        _ = run_of(tmp_path, images).data
    with pytest.raises(ConfigError, match=r"config\.data\.val_fraction = 0\.01: must leave images"):
        _ = run_of(tmp_path, images, **{"data.val_fraction": 0.01}).data
