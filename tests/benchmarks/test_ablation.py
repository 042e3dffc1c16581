"""The ablation's configurations and its statistics."""

import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.ablation import (
    MIXED,
    PUBLISHED,
    VARIANTS,
    Runs,
    interval,
    mixed,
    run_seed,
    summarize,
)
from configs import default
from rfquant_jax.config.fields import leaves
from rfquant_jax.errors import UserError
from rfquant_jax.quant.space import Space

B = (6, 5, 4, 3, 2)


def test_variants_name_fields_and_start_from_the_published_values():
    published = dict(leaves(default.get_config()))
    assert {name: published[name] for name in PUBLISHED} == PUBLISHED
    for changes in VARIANTS.values():
        assert changes.keys() <= PUBLISHED.keys()
    assert len({tuple(sorted(changes.items())) for changes in VARIANTS.values()}) == len(VARIANTS)


def test_mixed_configurations_lie_around_their_mean():
    mask = np.ones((400, 5), bool)
    mask[::2, 4] = False
    space = Space(tuple(map(str, range(400))), B, mask)
    for mean in MIXED:
        drawn = np.asarray(mixed(space, mean))
        assert drawn.shape == (12, 400, 2)
        assert np.all(drawn[:, ::2] >= 3)
        # Rounded to 2 at the least, a draw is 2 + (draws above 2.5): here for the odd layers.
        rng = np.random.default_rng(0)
        expected = np.clip(np.rint(rng.normal(mean, 0.8, 200_000)), 2, 6).mean()
        assert drawn[:, 1::2].mean() == pytest.approx(expected, abs=0.03)
        np.testing.assert_array_equal(drawn, mixed(space, mean))


def test_intervals_are_students():
    # t(0.975, 3) = 3.182446; the standard error of 1, 2, 3, 4 is 1.290994 / 2.
    assert interval([1, 2, 3, 4]) == pytest.approx((2.5, 2.054260))
    assert interval([3]) == (3.0, None)


def test_differences_are_paired_by_seed():
    figures = {
        "published": [{"2 bits": 80.0}, {"2 bits": 90.0}, {"2 bits": 70.0}],
        "other": [{"2 bits": 82.0}, {"2 bits": 91.0}, {"2 bits": 73.0}],
    }
    rows = summarize(figures)
    assert [row["variant"] for row in rows] == ["published", "other", "other - published"]
    # Differences 2, 1 and 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653.
    assert rows[2]["2 bits"] == pytest.approx((2.0, 4.302653 / np.sqrt(3)))


SETTINGS = {"arguments": ["--config.train.epochs=2"], "starts": ""}


def test_finished_runs_are_not_repeated_and_incomplete_seeds_do_not_count(tmp_path, monkeypatch):
    launched = []
    monkeypatch.setattr(
        ablation, "_launch", lambda workdir, *arguments: launched.append((workdir, arguments))
    )
    monkeypatch.setattr(ablation, "figures_of", lambda workdir: {"2 bits": float(len(launched))})

    def run(seed, variants):
        runs, folder = Runs(tmp_path / "runs.jsonl", SETTINGS), tmp_path / f"seed{seed}"
        run_seed(seed, folder, folder / "start", variants, ["--config.train.epochs=2"], runs)
        return runs

    run(0, ["published", "idm"])
    assert [workdir.name for workdir, _ in launched] == ["start", "published", "idm"]
    assert all("--config.train.epochs=2" in arguments for _, arguments in launched)
    assert f"--config.checkpoint={tmp_path / 'seed0' / 'start'}" in launched[2][1]
    assert "--config.scheduler.enabled=False" in launched[2][1]
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"seed": 1, "variant": "published", "figu')  # killed while it was written
    runs = run(0, ["published", "idm"])
    assert len(launched) == 3
    assert runs.figures(1, "published") is None
    runs = run(1, ["idm"])
    assert [workdir.name for workdir, _ in launched[3:]] == ["start", "idm"]
    assert runs.paired([0, 1], ["published", "idm"]) == {
        "published": [{"2 bits": 2.0}],
        "idm": [{"2 bits": 3.0}],
    }
    assert runs.paired([0, 1], ["idm"]) == {"idm": [{"2 bits": 3.0}, {"2 bits": 5.0}]}


def test_a_network_from_elsewhere_is_not_trained_again(tmp_path, monkeypatch):
    launched = []
    monkeypatch.setattr(
        ablation, "_launch", lambda workdir, *arguments: launched.append((workdir, arguments))
    )
    monkeypatch.setattr(ablation, "figures_of", lambda workdir: {"2 bits": 1.0})
    runs = Runs(tmp_path / "runs.jsonl", SETTINGS)
    run_seed(3, tmp_path / "seed3", tmp_path / "other" / "seed3", ["idm"], [], runs)
    ((workdir, arguments),) = launched
    assert workdir == tmp_path / "seed3" / "idm"
    assert f"--config.checkpoint={tmp_path / 'other' / 'seed3'}" in arguments


def test_runs_with_other_settings_are_kept_and_refused(tmp_path):
    Runs(tmp_path / "runs.jsonl", SETTINGS).add(0, "idm", 12.34, {"2 bits": 1.0})
    before = (tmp_path / "runs.jsonl").read_text()
    with pytest.raises(UserError, match="other settings"):
        Runs(tmp_path / "runs.jsonl", SETTINGS | {"arguments": []})
    assert (tmp_path / "runs.jsonl").read_text() == before
    for settings in (SETTINGS, None):
        assert Runs(tmp_path / "runs.jsonl", settings).figures(0, "idm") == {"2 bits": 1.0}
    assert (tmp_path / "runs.jsonl").read_text() == before
    with pytest.raises(UserError, match="no finished runs"):
        Runs(tmp_path / "other.jsonl", None)
