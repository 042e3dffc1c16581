"""The scheduler: its metric, its timing, and what freezing does to the masks."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.quant.sampling import sample_step
from rfquant_jax.quant.space import Space, smallest_bits
from rfquant_jax.train import scheduler
from rfquant_jax.train.scheduler import InstabilityMeter, SchedulerConfig, freeze

PUBLISHED = SchedulerConfig(
    start_epoch=5, period=2, late_period=15, late_from=0.72, ratio_min=0.2, ratio_amplitude=0.15
)
B = (6, 5, 4, 3, 2)


def test_published_firing_epochs():
    fired = [e for e in range(150) if PUBLISHED.fires(e, 150)]
    assert fired[:3] == [7, 9, 11]
    # 72 % of 150 epochs are 108; then every 15th
    assert [e for e in fired if e > 100] == [101, 103, 105, 107, 119, 134, 149]


def test_nothing_is_frozen_from_the_share_of_the_epochs_that_releases():
    # 0.55 * 40 is 22.000000000000004 in floating point, and epoch 22 must not wait for another.
    timing = replace(PUBLISHED, release_from=0.55)
    assert [e for e in range(40) if timing.has_released(e, 40)] == list(range(22, 40))
    assert [e for e in range(40) if timing.fires(e, 40)] == [7, 9, 11, 13, 15, 17, 19, 21]
    assert not any(PUBLISHED.has_released(e, 150) for e in range(150))
    assert not any(replace(PUBLISHED, release_from=0.0).fires(e, 150) for e in range(150))


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (5, 0.5),
        (7, 0.2 + 0.15 * (1 + np.cos(np.pi / 75))),
        (81, 0.2 + 0.15 * (1 + np.cos(np.pi * 38 / 75))),
    ],
)
def test_published_ratios(epoch, expected):
    assert PUBLISHED.ratio(epoch, 150) == pytest.approx(expected)


def test_unstable_share_by_hand():
    # step 1, 3 bits: codes -4..3; unstable if further than 0.375 from the nearest integer
    w = jnp.asarray([0.0, 0.37, 0.38, 0.5, -1.6, 2.62, 3.4, 9.0, -3.6, -4.4])
    #                no   no    yes   yes  yes   yes   clipped to 3, twice; yes; clipped to -4
    share = scheduler.unstable_share(w, jnp.float32(1), 3, 0.25)
    assert share == pytest.approx(5 / 10)


def numpy_metric(kernel, steps, allowed):
    terms = []
    for s, b, has in zip(steps, B, allowed, strict=True):
        if has:
            v = np.clip(kernel.astype(np.float64) / s, -(2 ** (b - 1)), 2 ** (b - 1) - 1)
            terms.append(np.mean(np.abs(v - np.rint(v)) > 0.375) / b)
    return np.mean(terms)


def test_the_metric_equals_float64(functional, coupled, space):
    mask = space.full_mask.copy()
    mask[1, 4] = False
    got = InstabilityMeter(functional, 0.25)(functional.params, mask)
    for i, layer in enumerate(
        [coupled.conv, coupled.projection[0], coupled.expand, coupled.depthwise]
    ):
        steps = np.asarray(layer.weight_quantizer.step[...])
        expected = numpy_metric(np.asarray(layer.kernel[...]), steps, mask[i])
        assert got[i] == pytest.approx(expected, rel=1e-5), layer.name


def test_the_metric_is_traced_once_for_all_masks(functional, space):
    meter = InstabilityMeter(functional, 0.25)
    for frozen in range(4):
        mask = space.full_mask.copy()
        mask[frozen, 0] = False
        meter(functional.params, mask)
    assert meter.traces == 1


@pytest.fixture
def four():
    """Four layers; the second is depthwise."""
    mask = np.ones((4, 5), bool)
    mask[1, 4] = False
    return Space(("a", "dw", "c", "d"), B, mask)


def test_two_firings_in_a_row_release_what_is_no_longer_turbulent(four):
    first, _ = freeze(np.asarray([3.0, 4.0, 1.0, 2.0]), four, 0.5, split_candidates=True)
    assert smallest_bits(first, B).tolist() == [3, 4, 2, 2]
    second, _ = freeze(np.asarray([3.0, 0.0, 5.0, 1.0]), four, 0.5, split_candidates=True)
    assert smallest_bits(second, B).tolist() == [3, 3, 3, 2]
    changed = scheduler.changes(first, second, four, [3.0, 0.0, 5.0, 1.0])
    assert changed == [
        {"layer": "dw", "bits": 3, "change": "released", "metric": 0.0},
        {"layer": "c", "bits": 2, "change": "frozen", "metric": 5.0},
    ]


def test_ties_go_to_the_earlier_layer_and_the_count_is_floored(four):
    mask, _ = freeze(np.ones(4), four, 0.74, split_candidates=True)
    assert smallest_bits(mask, B).tolist() == [3, 4, 2, 2]


def test_a_sole_bit_width_is_never_frozen():
    one = Space(("a",), B, np.asarray([[0, 0, 1, 0, 0]], bool))
    mask, _ = freeze(np.ones(1), one, 1.0, split_candidates=True)
    assert mask.tolist() == one.full_mask.tolist()


@pytest.mark.parametrize("split", [True, False])
def test_activations_follow_only_where_masks_are_shared(four, split):
    weights, activations = freeze(np.asarray([1.0, 0, 0, 0]), four, 0.25, split_candidates=split)
    assert not weights[0, 4]
    assert activations[0, 4] == split


def test_activations_with_candidates_of_their_own_lose_only_those():
    """Weights may take 6, 4 or 2 bits; activations 6 or 4, 4 alone in the last layer."""
    weights = np.asarray([[1, 1, 1], [1, 1, 0], [1, 1, 0]], bool)
    activations = np.asarray([[1, 1, 0], [1, 1, 0], [0, 1, 0]], bool)
    space = Space(("a", "b", "c"), (6, 4, 2), weights, activations, ((6, 4, 2), (6, 4)))
    frozen = [[1, 1, 0], [1, 0, 0], [1, 0, 0]]
    for split, left in ((True, activations.tolist()), (False, [[1, 1, 0], [1, 0, 0], [0, 1, 0]])):
        masks = freeze(np.ones(3), space, 1.0, split_candidates=split)
        assert masks.tolist() == [frozen, left]
    np.testing.assert_array_equal(
        freeze(np.ones(3), space, 0.0, split_candidates=False), space.full_masks
    )


@given(
    metric=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_a_frozen_bit_width_is_never_sampled(metric, ratio, seed):
    import jax

    space = Space(("a", "b", "c", "d"), B, np.ones((4, 5), bool))
    weights, activations = freeze(np.asarray(metric), space, ratio, split_candidates=False)
    assert np.sum(weights != space.full_mask) == int(ratio * 4 + 1e-9)
    drawn = np.asarray(sample_step(jax.random.key(seed), weights, activations, B, 3))
    for column, mask in enumerate((weights, activations)):
        for layer in range(4):
            allowed = {b for b, has in zip(B, mask[layer], strict=True) if has}
            assert set(drawn[:, layer, column].tolist()) <= allowed
