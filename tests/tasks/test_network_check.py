"""A network that does not fit the images is refused by every task."""

import pytest
from flax import nnx

from configs import quickstart
from rfquant_jax import models
from rfquant_jax.errors import RunFailure, UserError
from rfquant_jax.tasks import dispatch
from rfquant_jax.tasks.network_check import warn_if_not_quantizable
from rfquant_jax.tasks.run import Run


class Fixed(nnx.Module):
    """A network of 1,000 logits, whatever the number of classes, at one or at all positions."""

    def __init__(self, num_classes, channels, rngs, dense=False):
        self.stem = nnx.Conv(channels, 2, (3, 3), rngs=rngs)
        self.conv = nnx.Conv(2, 2, (3, 3), rngs=rngs)
        self.head = nnx.Linear(2, 1000, rngs=rngs)
        self.dense = dense

    def __call__(self, x):
        x = self.conv(self.stem(x))
        return self.head(x if self.dense else x.mean((1, 2)))


def run_of(monkeypatch, folder, task, **options):
    monkeypatch.setitem(models.REGISTRY, "fixed", models.Architecture(Fixed, ("dense",)))
    config = quickstart.get_config()
    config.tasks, config.model.name, config.devices = (task,), "fixed", 1
    config.model.options.update(options)
    return Run(config, folder / "run")


@pytest.mark.parametrize("task", ["cost", "pretrain", "train", "search", "evaluate", "predict"])
def test_another_number_of_logits_is_refused_by_every_task(monkeypatch, tmp_path, task):
    with pytest.raises(UserError) as error:
        dispatch.check(run_of(monkeypatch, tmp_path, task))
    said = "the network returns 1000 logits, but there are 10 classes: both numbers must be equal"
    assert str(error.value) == said


def test_logits_at_several_positions_do_not_fit_images_of_one_label(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"logits of shape .8, 8, 1000. for one image, at several"):
        dispatch.check(run_of(monkeypatch, tmp_path, "cost", dense=True))


class Unusual(nnx.Module):
    """A network that trains in full precision, but has a layer that cannot be quantized."""

    def __init__(self, num_classes, channels, rngs):
        self.stem = nnx.Conv(channels, 2, (3, 3), rngs=rngs)
        self.conv = nnx.ConvTranspose(2, 2, (3, 3), rngs=rngs)
        self.head = nnx.Linear(2, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.head(self.conv(self.stem(x)).mean((1, 2)))


def test_pretraining_warns_of_a_network_that_train_refuses(monkeypatch, tmp_path):
    monkeypatch.setitem(models.REGISTRY, "unusual", models.Architecture(Unusual))
    config = quickstart.get_config()
    config.tasks, config.model.name, config.devices = ("pretrain",), "unusual", 1
    config.pretrain.epochs, config.pretrain.warmup_epochs = 1, 0
    run = Run(config, tmp_path / "run")
    dispatch.perform(run)
    run.close()
    log = (tmp_path / "run" / "log.txt").read_text()
    said = "warning: the task train will refuse this network: layer conv is an nnx.ConvTranspose"
    assert said in log
    assert "pretrain: epoch 0" in log


class Strided(nnx.Module):
    """A network that trains in full precision, but whose code fails with quantized layers."""

    def __init__(self, num_classes, channels, rngs):
        self.stem = nnx.Conv(channels, 2, (3, 3), rngs=rngs)
        self.conv = nnx.Conv(2, 2, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(2, num_classes, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        step = self.conv.strides
        return self.head((self.conv(x) + x[:, ::step, ::step]).mean((1, 2)))


FAILS = "the network runs, but not with quantized layers in training mode: TypeError: "


@pytest.mark.parametrize("tasks", [("cost",), ("train",), ("pretrain", "train"), ("search",)])
def test_a_network_that_cannot_be_coupled_is_refused_before_work(monkeypatch, tmp_path, tasks):
    monkeypatch.setitem(models.REGISTRY, "strided", models.Architecture(Strided))
    config = quickstart.get_config()
    config.tasks, config.model.name, config.devices = tasks, "strided", 1
    with pytest.raises(RunFailure) as error:
        dispatch.perform(Run(config, tmp_path / "run"))
    assert str(error.value).startswith(FAILS)
    assert "(test_network_check.py, line " in str(error.value)
    assert not (tmp_path / "run").exists()


def test_pretraining_alone_warns_of_a_network_that_cannot_be_coupled(monkeypatch, tmp_path):
    monkeypatch.setitem(models.REGISTRY, "strided", models.Architecture(Strided))
    config = quickstart.get_config()
    config.tasks, config.model.name, config.devices = ("pretrain",), "strided", 1
    (tmp_path / "run").mkdir()
    run = Run(config, tmp_path / "run")
    warn_if_not_quantizable(run)
    run.close()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"warning: the task train will refuse this network: {FAILS}" in log


class Unbuilt(nnx.Module):
    def __init__(self, num_classes, rngs):
        self.stem = nnx.Conv(1, 2, (3, 3), rngs=rngs)


class Listed(nnx.Module):
    """Its layers are in a list of Python, which flax refuses since 0.12 at length."""

    def __init__(self, num_classes, channels, rngs):
        self.layers = [nnx.Conv(channels, 2, (3, 3), rngs=rngs)]


def test_layers_in_a_list_of_python_are_refused_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(models.REGISTRY, "listed", models.Architecture(Listed))
    config = quickstart.get_config()
    config.tasks, config.model.name, config.devices = ("cost",), "listed", 1
    with pytest.raises(RunFailure) as error:
        dispatch.perform(Run(config, tmp_path / "run"))
    said = str(error.value)
    assert said.startswith(
        "config.model.name=listed: its constructor fails: ValueError: Found data"
    )
    assert "should not contain data values. (test_network_check.py, line " in said
    assert said.endswith("); hold modules in an nnx.List or nnx.Dict")


def test_a_constructor_that_fails_is_one_line_without_a_traceback(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(models.REGISTRY, "unbuilt", models.Architecture(Unbuilt))
    config = quickstart.get_config()
    config.tasks, config.model.name, config.devices = ("cost",), "unbuilt", 1
    with pytest.raises(RunFailure) as error:
        dispatch.perform(Run(config, tmp_path / "run"))
    said = "config.model.name=unbuilt: its constructor fails: TypeError: Unbuilt.__init__() got an"
    assert str(error.value).startswith(said)
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
