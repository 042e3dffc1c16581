"""What the task `cost` prints, and what it shares with the log of `train`."""

import pytest
from flax import nnx

from configs import quickstart
from rfquant_jax import models
from rfquant_jax.tasks import coupled_start, dispatch
from rfquant_jax.tasks.run import Run

SAID = (
    "no BatchNorm directly follows conv: no scale, bias and statistics are switched with the "
    "bit-widths there",
    "GroupNorm norm: one scale and bias for all bit-widths, and no statistics to recalibrate",
)


class Grouped(nnx.Module):
    def __init__(self, num_classes, channels, rngs):
        self.stem = nnx.Conv(channels, 2, (3, 3), rngs=rngs)
        self.conv = nnx.Conv(2, 2, (3, 3), rngs=rngs)
        self.norm = nnx.GroupNorm(2, num_groups=1, rngs=rngs)
        self.head = nnx.Linear(2, num_classes, rngs=rngs)

    def __call__(self, x, train):
        return self.head(self.norm(self.conv(self.stem(x))).mean((1, 2)))


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setitem(models.REGISTRY, "grouped", models.Architecture(Grouped))
    config = quickstart.get_config()
    config.tasks, config.model.name, config.devices = ("cost",), "grouped", 1
    return Run(config, tmp_path / "run")


def test_costs_are_printed_with_what_is_not_switched(run, capsys):
    dispatch.perform(run)
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line.split() for line in lines if line.startswith("w4a4"))
    # 64 places: 9 * 1 * 2 weights of the stem and 2 * 10 of the head with 8 bits, 9 * 2 * 2 with 4
    assert float(row[1]) == pytest.approx((64 * 64 * 18 + 64 * 20 + 16 * 64 * 36) / 1e9, rel=1e-5)
    assert tuple(lines[-2:]) == SAID


class NoCheckpoints:
    latest = None


def test_training_says_the_same_once(run, monkeypatch):
    def stop(run):
        raise KeyboardInterrupt

    run.workdir.mkdir()
    monkeypatch.setattr(coupled_start.networks, "full_precision", stop)
    with pytest.raises(KeyboardInterrupt):
        coupled_start.coupled_start(run, None, NoCheckpoints(), untrained=False)
    run.close()
    log = (run.workdir / "log.txt").read_text()
    assert [log.count(line) for line in SAID] == [1, 1]
