"""The ablation's configurations and its statistics."""

import numpy as np
import pytest

from benchmarks.ablation import MIXED, PUBLISHED, VARIANTS, interval, mixed, summarize
from configs import default
from rfquant_jax.config.fields import leaves
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


def test_differences_are_paired_by_seed():
    figures = {
        "published": [{"2 bits": 80.0}, {"2 bits": 90.0}, {"2 bits": 70.0}],
        "other": [{"2 bits": 82.0}, {"2 bits": 91.0}, {"2 bits": 73.0}],
    }
    rows = summarize(figures)
    assert [row["variant"] for row in rows] == ["published", "other", "other - published"]
    # Differences 2, 1 and 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653.
    assert rows[2]["2 bits"] == pytest.approx((2.0, 4.302653 / np.sqrt(3)))
