"""The training loop around a step that only writes down what it is given."""

import contextlib
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.data.sources import ArraySource
from rfquant_jax.errors import Interrupted
from rfquant_jax.quant.space import Space
from rfquant_jax.report.log import RunLog
from rfquant_jax.train import save_clock
from rfquant_jax.train.diagnose import Finding
from rfquant_jax.train.loop import TrainingLoop, split_batch
from rfquant_jax.train.plan import Plan
from rfquant_jax.train.save_clock import SaveClock
from rfquant_jax.train.scheduler import SchedulerConfig
from rfquant_jax.train.state import StepInputs, StepReport, TrainState
from tests.conftest import mesh_of, pipeline

CANDIDATES = (4, 3, 2)
IMAGES, BATCH = 13, 4  # three steps an epoch
PLAN = Plan(
    task="train",
    epochs=6,
    seed=3,
    lr=1.0,
    min_lr=0.0,
    warmup_epochs=2,
    eval_every=4,
    log_every=2,
    damping=1.0,
    damping_start_epoch=3,
    step_size_lr=0.5,
    scheduler=SchedulerConfig(0, 2, 2, 1.0, 0.5, 0.0),  # epochs 1, 3 and 5; half of the layers
)


class WritingStep:
    """Stands for `TrainStep`: counts in its parameter, remembers its arguments.

    Args:
      bad: numbers of the steps, from 1, whose second loss is not finite.
      floored: step sizes that each step keeps at the floor.
    """

    def __init__(self, bad=(), floored=0):
        self.mesh = mesh_of(1)
        self.calls, self.diagnosed = [], []
        self._bad, self._floored = bad, floored

    def init(self, params):
        return TrainState(params, {"s": jnp.zeros((1, 1))}, {}, params, {"s": jnp.zeros(1)})

    def inputs(self, masks, key, **rates):
        # Two layers: the max pass, then 2 and 3 bits for weights, 4 and 2 for activations.
        ran = np.asarray([[[4, 4], [4, 4]], [[2, 4], [3, 2]]], np.int32)
        self._given = np.array(masks[0]), rates, tuple(jax.random.key_data(key).tolist())
        return StepInputs(ran, np.asarray([[2, 2], [2, 2]]), **rates, key=key)

    def __call__(self, state, parts, inputs, teachers):
        labels = np.concatenate([part["label"] for part in parts]).tolist()
        self.calls.append((labels, *self._given, len(parts), teachers))
        bad = len(self.calls) in self._bad
        metrics = [{"loss": np.asarray([1.0])}, {"loss": np.asarray([np.nan if bad else 3.0])}]
        report = StepReport(np.asarray([bad, bad, False, False]), np.int32(self._floored))
        if bad:
            return state, metrics, report
        params = {"count": state.params["count"] + 1}
        return state._replace(params=params, ema_params=params), metrics, report

    def diagnose(self, state, taken):
        self.diagnosed.append((float(state.params["count"]), taken.number))
        return Finding(1, 0, np.asarray([[4, 3], [2, 4]], np.int32), "the kernel of b")


class MemoryCheckpoints:
    """Stands for `Checkpoints`: everything that was saved, by step."""

    def __init__(self):
        self.saved = {}

    latest = property(lambda self: max(self.saved, default=None))

    def save(self, step, **content):
        self.saved.setdefault(step, content)

    def about(self, step):
        return self.saved[step]["about"]

    def restore_ema(self, step, template):
        return self.saved[step]["ema"]

    def restore_state(self, step, template):
        return self.saved[step]["state"]

    def wait(self):
        pass


class Meter:
    """Stands for `InstabilityMeter`: the second layer is the more turbulent one."""

    def __call__(self, params, mask):
        return np.asarray([0.0, 1.0])

    def shares(self, params, mask):
        return np.asarray([[0.5, 0.25, 0.125], [0.75, 0.5, 1.0]])


class StopAt:
    """Stands for `StopSignal`: a signal comes during a certain step."""

    def __init__(self, step, number):
        self._step, self._number = step, number

    requested = property(lambda self: len(self._step.calls) == self._number)

    def check(self):
        if self.requested:
            raise Interrupted


def train(folder, checkpoints, *, plan=PLAN, stop_at=None, teacher=None, step=None):
    """Trains two layers, of which the second is the more turbulent; returns the step's calls."""
    source = ArraySource(np.zeros((IMAGES, 1, 1, 1), np.uint8), np.arange(IMAGES))
    batches = pipeline().training(source, BATCH, seed=plan.seed)
    step = step or WritingStep()
    log = RunLog(folder)
    trainer = TrainingLoop(
        plan,
        step,
        batches,
        Space(("a", "b"), CANDIDATES, np.ones((2, 3), bool)),
        checkpoints=checkpoints,
        log=log,
        stop=StopAt(step, stop_at),
        score=lambda params, stats: {"x": float(params["count"]), "y": 0.0},
        meter=Meter(),
        teacher=teacher,
    )
    with contextlib.closing(log):
        trainer.run({"count": jnp.zeros(())})
    return step.calls


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    checkpoints = MemoryCheckpoints()
    return train(tmp_path_factory.mktemp("loop"), checkpoints), checkpoints


def test_every_epoch_sees_every_image_at_most_once_in_another_order(undisturbed):
    labels = [call[0] for call in undisturbed[0]]
    assert len(labels) == 18
    epochs = [[x for step in labels[i : i + 3] for x in step] for i in range(0, 18, 3)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_every_step_has_a_random_key_of_its_own(undisturbed):
    assert len({call[3] for call in undisturbed[0]}) == 18


def test_masks_change_before_the_first_step_of_an_epoch(undisturbed):
    # Half of two layers: "b", the more turbulent, loses its 2 bits from epoch 1 on.
    frozen = [not call[1].all() for call in undisturbed[0]]
    assert frozen == [False] * 3 + [True] * 15
    assert undisturbed[0][3][1].tolist() == [[True, True, True], [True, True, False]]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A training that freezes in epoch 1 and 3 and releases before epoch 4, the fifth of six."""
    folder, checkpoints = tmp_path_factory.mktemp("released"), MemoryCheckpoints()
    plan = replace(PLAN, scheduler=replace(PLAN.scheduler, release_from=0.6))
    return folder, plan, checkpoints, train(folder, checkpoints, plan=plan)


def test_everything_frozen_is_released_before_the_first_step_of_an_epoch(released):
    calls = released[3]
    assert [not call[1].all() for call in calls] == [False] * 3 + [True] * 9 + [False] * 6
    assert released[2].about(18)["masks"] == [[[1, 1, 1]] * 2] * 2


def test_a_release_is_reported_once_with_the_layers_it_releases(released):
    folder, _, checkpoints, _ = released
    history = checkpoints.about(18)["history"]
    assert [(record["epoch"], record["ratio"]) for record in history] == [
        (1, 0.5),
        (3, 0.5),
        (4, 0.0),
    ]
    assert history[2]["changes"] == [{"layer": "b", "bits": 2, "change": "released", "metric": 1.0}]
    assert (
        "epoch 4: 0 of 2 layers frozen for the rest of training" in (folder / "log.txt").read_text()
    )


@pytest.mark.parametrize("stop_at", [12, 13])
def test_a_training_stopped_at_its_release_goes_on_with_the_same_masks(released, tmp_path, stop_at):
    _, plan, through, calls = released
    checkpoints = MemoryCheckpoints()
    with pytest.raises(Interrupted):
        train(tmp_path, checkpoints, plan=plan, stop_at=stop_at)
    resumed = train(tmp_path, checkpoints, plan=plan)
    masks = [call[1].tolist() for call in resumed]
    assert masks == [call[1].tolist() for call in calls[stop_at:]]
    assert checkpoints.about(18)["history"] == through.about(18)["history"]


def test_rates_are_those_of_the_epoch(undisturbed):
    learning = [call[2]["lr"] for call in undisturbed[0]]
    damping = [call[2]["damping"] for call in undisturbed[0]]
    cosine = [0.5 * (1 + np.cos(np.pi * e / 6)) for e in range(6)]
    expected = [0.0, 0.5, *cosine[2:]]
    np.testing.assert_allclose(learning, np.repeat(expected, 3), atol=1e-6)
    assert damping[:12] == [0.0] * 12
    assert 0 < damping[12] < damping[15] < 1


def test_what_is_evaluated_and_saved_when(undisturbed):
    checkpoints = undisturbed[1]
    # After epochs 4 and 6; the score is the mean over the evaluated configurations.
    assert {step: saved["score"] for step, saved in checkpoints.saved.items()} == {12: 6.0, 18: 9.0}
    about = checkpoints.about(12)
    assert about["masks"][0] == [[1, 1, 1], [1, 1, 0]]
    assert [record["epoch"] for record in about["history"]] == [1, 3]
    assert about["images_per_step"] == BATCH
    assert about["total_steps"] == 18


def test_checkpoints_by_steps_come_between_those_of_evaluations(tmp_path):
    checkpoints = MemoryCheckpoints()
    train(tmp_path, checkpoints, plan=replace(PLAN, save_every_steps=4))
    scores = {step: saved["score"] for step, saved in checkpoints.saved.items()}
    assert scores == {4: None, 8: None, 12: 6.0, 16: None, 18: 9.0}


def test_checkpoints_by_time_count_from_the_last_one(tmp_path, monkeypatch):
    """The clock moves on by 40 seconds whenever it is looked at after a step."""
    now = itertools.count(0, 40)
    monkeypatch.setattr(save_clock, "time", SimpleNamespace(monotonic=lambda: next(now)))
    clock = SaveClock(minutes=1.0)  # starts at 0
    assert not clock.due  # 40
    assert clock.due  # 80
    clock.restart()  # 120
    assert [clock.due, clock.due] == [False, True]
    assert not SaveClock(minutes=0.0).due

    checkpoints = MemoryCheckpoints()
    train(tmp_path, checkpoints, plan=replace(PLAN, save_every_minutes=1.0))
    scores = {step: saved["score"] for step, saved in checkpoints.saved.items()}
    assert scores[12] == 6.0
    assert [step for step in scores if step < 12] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("stop_at", [1, 3, 5, 12])
def test_a_stopped_training_goes_on_with_the_very_same_steps(undisturbed, tmp_path, stop_at):
    checkpoints = MemoryCheckpoints()
    with pytest.raises(Interrupted):
        train(tmp_path, checkpoints, stop_at=stop_at)
    assert checkpoints.latest == stop_at
    resumed = train(tmp_path, checkpoints)
    expected = undisturbed[0][stop_at:]
    assert len(resumed) == len(expected)
    for mine, theirs in zip(resumed, expected, strict=True):
        assert mine[0] == theirs[0]
        np.testing.assert_array_equal(mine[1], theirs[1])
        assert mine[2:4] == theirs[2:4]
    about = checkpoints.about(18)
    assert about["history"] == undisturbed[1].about(18)["history"]
    assert float(checkpoints.saved[18]["ema"]["params"]["count"]) == 18


def test_micro_batches_and_their_teachers(tmp_path):
    plan = Plan(**PLAN.__dict__ | {"accumulate": 2})
    asked = []

    def teacher(images):
        asked.append(images.shape)
        return f"logits {len(asked)}"

    calls = train(tmp_path, MemoryCheckpoints(), plan=plan, teacher=teacher)
    assert calls[0][4] == 2
    assert asked[:2] == [(2, 1, 1, 1)] * 2
    assert calls[1][5] == ["logits 3", "logits 4"]


def test_a_batch_is_cut_in_order():
    parts = split_batch({"label": np.arange(6), "image": np.arange(6) * 10}, 3)
    assert [part["label"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert parts[2]["image"].tolist() == [40, 50]


def lines(folder, event):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record.get("event") == event]


def test_each_evaluation_tells_what_was_sampled_since_the_one_before(released):
    first, second = lines(released[0], "interference")
    assert [first["step"], second["step"]] == [12, 18]
    assert first["bits"] == [4, 3, 2]
    assert first["layers"] == ["a", "b"]
    assert first["passes"] == 12
    assert first["weights"] == [[0, 0, 12], [0, 12, 0]]
    assert first["activations"] == [[12, 0, 0], [0, 0, 12]]
    assert second["passes"] == 6
    assert second["weights"] == [[0, 0, 6], [0, 6, 0]]
    assert first["near_boundary"] == [[0.5, 0.25, 0.125], [0.75, 0.5, 1.0]]
    assert [first["smallest"], second["smallest"]] == [[2, 3], [2, 2]]


def test_a_stopped_training_counts_its_passes_as_if_it_had_not_stopped(released, tmp_path):
    checkpoints = MemoryCheckpoints()
    with pytest.raises(Interrupted):
        train(tmp_path, checkpoints, plan=released[1], stop_at=7)
    train(tmp_path, checkpoints, plan=released[1])
    assert lines(tmp_path, "interference") == lines(released[0], "interference")
