"""Bad steps in the training loop: what is told of them, and when they end it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rfquant_jax.errors import RunFailure
from rfquant_jax.quant.space import Space
from rfquant_jax.train.diagnose import IMAGES, Finding
from rfquant_jax.train.nonfinite_guard import short
from tests.train.test_loop import CANDIDATES, PLAN, MemoryCheckpoints, WritingStep, train

# Evaluated and saved after steps 12 and 18; metrics after every second step.
STOPPING = replace(PLAN, max_bad_steps=3, remedy="lower config.optimizer.lr = 1")


def records(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def failing(folder, step, plan=STOPPING):
    checkpoints = MemoryCheckpoints()
    with pytest.raises(RunFailure) as failure:
        train(folder, checkpoints, plan=plan, step=step)
    return str(failure.value), checkpoints


def test_bad_steps_in_a_row_end_the_training_and_nothing_is_saved(tmp_path):
    step = WritingStep(bad={14, 15, 16})
    said, checkpoints = failing(tmp_path, step)
    assert said == (
        "train: step 16: the loss of pass 2 is not finite, and updates were skipped for 3 steps in "
        "a row (`max_bad_steps`); pass 2 of 2 (configuration abca): first non-finite "
        "value: the kernel of b; checkpoints are unaffected; lower config.optimizer.lr = 1"
    )
    assert list(checkpoints.saved) == [12]
    # 13 good steps before: the state is the one that the bad step started from.
    assert step.diagnosed == [(13.0, 16)]
    told = [r for r in records(tmp_path) if r.get("event") == "failure"]
    assert [told[0][name] for name in ("step", "number", "place")] == [16, 1, "the kernel of b"]
    assert told[0]["configuration"] == {"a": [4, 3], "b": [2, 4]}
    assert '{"a": [4, 3], "b": [2, 4]}' in (tmp_path / "log.txt").read_text()


def test_a_good_step_between_them_starts_the_count_anew(tmp_path):
    step, checkpoints = WritingStep(bad={1, 2, 4, 5, 7, 17, 18}), MemoryCheckpoints()
    train(tmp_path, checkpoints, plan=STOPPING, step=step)
    assert list(checkpoints.saved) == [12, 18]
    assert step.diagnosed == []
    assert float(checkpoints.saved[18]["ema"]["params"]["count"]) == 18 - 7
    events = [r for r in records(tmp_path) if r.get("event") == "bad_step"]
    assert [(r["step"], r["in_a_row"]) for r in events] == [
        (1, 1), (2, 2), (4, 1), (5, 2), (7, 1), (17, 1), (18, 2)
    ]  # fmt: skip
    assert all(r["passes"] == [2] and r["not_finite"] == "loss" for r in events)
    log = (tmp_path / "log.txt").read_text()
    line = "train: step 5: the loss of pass 2 is not finite; update skipped (2 of 3 in a"
    assert line in log


@pytest.mark.parametrize("most", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("first", [1, 2, 8])
@pytest.mark.parametrize("log_every", [1, 50])
def test_the_state_that_is_diagnosed_is_the_one_that_the_last_bad_step_started_from(
    tmp_path, most, first, log_every
):
    plan = replace(STOPPING, max_bad_steps=most, log_every=log_every, eval_every=6)
    step = WritingStep(bad=range(first, first + most))  # all later steps are good
    _, checkpoints = failing(tmp_path, step, plan)
    assert step.diagnosed == [(first - 1.0, first + most - 1)]
    assert not checkpoints.saved


def test_reports_are_read_two_steps_later(tmp_path, monkeypatch):
    """So that the host need not wait; with bad ones in a row it waits."""
    step, read = WritingStep(bad={5, 6}), []
    plan = replace(STOPPING, log_every=50, eval_every=6)
    monkeypatch.setattr(
        "rfquant_jax.train.nonfinite_guard.jax.device_get",
        lambda x: (read.append(len(step.calls)) if hasattr(x, "failed") else None, x)[1],
    )
    train(tmp_path, MemoryCheckpoints(), plan=plan, step=step)
    # Step 5 is read at 7, and 6 and 7 with it; from step 8 on two later; the end reads the rest.
    assert read == [3, 4, 5, 6, 7, 7, 7, *range(10, 19), 18, 18]


def test_what_happened_since_the_last_metrics_is_counted(tmp_path):
    step = WritingStep(bad={3, 5, 6}, floored=2)
    train(tmp_path, MemoryCheckpoints(), plan=replace(STOPPING, log_every=4), step=step)
    found = [r for r in records(tmp_path) if "bad_steps" in r]
    assert [(r["step"], r["bad_steps"]) for r in found] == [
        (4, 1), (8, 2), (12, 0), (16, 0), (18, 0)
    ]  # fmt: skip
    assert [r["floored_step_sizes"] for r in found] == [8, 8, 8, 8, 4]
    said = (tmp_path / "log.txt").read_text().splitlines()
    told = [line.split("train: ")[1] for line in said if "step sizes fell" in line]
    assert [line.split(" times")[0] for line in told] == [
        f"step sizes fell to their lower bound, 1e-08, {count}" for count in (8, 8, 8, 8, 4)
    ]
    assert told[0].endswith("lower `step_size_lr`")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Finding(None, 0, None, None), "each of its passes and gradients is finite when rerun"),
        (
            Finding(0, 1, np.full((2, 2), 4), None),
            "(configuration w4a4) is finite when rerun alone",
        ),
        (
            Finding(0, 1, np.full((2, 2), 4), IMAGES),
            "first non-finite value: the images; checkpoints are unaffected; check",
        ),
    ],
)
def test_what_cannot_be_repeated_is_said_honestly(tmp_path, found, said):
    step = WritingStep(bad={1, 2, 3})
    step.diagnose = lambda state, taken: found
    assert said in failing(tmp_path, step)[0]


def test_long_configurations_are_cut_short():
    space = Space(tuple(map(str, range(40))), CANDIDATES, np.ones((40, 3), bool))
    mixed = np.asarray([[4, 2]] * 39 + [[3, 2]])
    assert short(space, mixed) == "ac" * 24 + "..."
    assert short(space, mixed[:39]) == "w4a2"
