"""The additive model of log(divergence): features, fit, posterior, cross-validation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS, Space
from rfquant_jax.search.design import profile_configurations
from rfquant_jax.search.surrogate import (
    FLOOR,
    FOLDS,
    STRENGTHS,
    Encoding,
    cross_validate,
    distances,
    fit,
    log_divergence,
)
from rfquant_jax.search.variables import make_search_space
from tests.search.landscapes import additive_terms, divergence, everything, space_of

UNEVEN = Space(("a", "b"), (8, 4, 2), np.asarray([[1, 1, 1], [1, 1, 0]], bool))


PAIRS = [(w, a) for w in (8, 4, 2) for a in (8, 4, 2)]


def test_features_by_hand():
    """Weights of a at 8 4 2, of b at 8 4, activations likewise; two columns at 8 4 2; pairs."""
    configurations = np.asarray([[[4, 2], [8, 4]], [[8, 8], [8, 8]]])
    found = Encoding(make_search_space(UNEVEN), reach=0.5)(configurations)
    first = [0, 1, 0, 1, 0, 0, 0, 1, 0, 1] + [0.5, 0.5, 0, 0, 0.5, 0.5]
    second = [1, 0, 0, 1, 0, 1, 0, 0, 1, 0] + [1, 0, 0, 1, 0, 0]
    first += [0, 0.5, 0] + [0, 0, 0.5] + [0, 0, 0]  # one layer at (8, 4), one at (4, 2)
    second += [1, 0, 0] + [0, 0, 0] + [0, 0, 0]  # two layers at (8, 8)
    np.testing.assert_array_equal(found, [first, second])


def test_tied_layers_have_one_variable_in_the_features():
    search_space = make_search_space(UNEVEN, groups=[("both", "a", "b")])
    found = Encoding(search_space)(np.asarray([[[4, 8], [4, 8]]]))
    pairs = [0, 0, 0] + [2, 0, 0] + [0, 0, 0]  # both layers count
    np.testing.assert_array_equal(found, [[0, 1, 1, 0] + [0, 1, 0, 1, 0, 0] + pairs])


def test_terms_by_hand():
    coefficients = np.arange(25.0)
    found = Encoding(make_search_space(UNEVEN), reach=0.5).terms(coefficients)
    pairs = [((w, a), 8.0 + place / 2) for place, (w, a) in enumerate(PAIRS)]
    assert found.pairs == dict(pairs)
    assert found.variables == (
        {8: 0 + 5.0, 4: 1 + 5.5, 2: 2 + 6.0},
        {8: 3 + 5.0, 4: 4 + 5.5},
        {8: 5 + 6.5, 4: 6 + 7.0, 2: 7 + 7.5},
        {8: 8 + 6.5, 4: 9 + 7.0},
    )


@given(seed=st.integers(0, 10**6), same_bits=st.sampled_from([(), ("l0", "l1")]))
def test_terms_add_up_to_what_is_predicted(seed, same_bits):
    search_space = make_search_space(
        space_of(3), groups=[("weights", "l0", "l2")], same_bits=same_bits
    )
    rng = np.random.default_rng(seed)
    encoding = Encoding(search_space, reach=0.7)
    coefficients = rng.normal(size=encoding([search_space.lowest]).shape[1])
    configurations = np.stack([search_space.sample(rng) for _ in range(5)])
    terms = encoding.terms(coefficients)
    summed = [
        sum(
            term[variable.read(c)]
            for variable, term in zip(search_space.variables, terms.variables, strict=True)
        )
        + sum(terms.pairs[w, a] for w, a in c)
        for c in configurations
    ]
    np.testing.assert_allclose(encoding(configurations) @ coefficients, summed)


def test_distances_count_tied_layers_once():
    search_space = make_search_space(space_of(3), groups=[("both", "l0", "l1")])
    centre = search_space.uniform(4, 4)
    other = np.asarray([[5, 4], [5, 4], [4, 2]], np.int32)
    assert distances(
        np.stack([centre, other, search_space.lowest]), centre, search_space
    ).tolist() == [0, 2, 4]


def sample_of_a_profile(seed=0, layers=4, count=120, noise=0.0):
    search_space = make_search_space(space_of(layers))
    configurations = profile_configurations(search_space, count, seed)[1:]  # without the largest
    values = np.log(divergence(additive_terms(seed, layers), configurations))
    values += noise * np.random.default_rng(seed).normal(size=len(values))
    return search_space, configurations, values


@given(seed=st.integers(0, 10**4), width=st.sampled_from([1.0, 3.0, 1e9]))
def test_an_additive_model_is_found_where_there_is_one(seed, width):
    search_space, configurations, values = sample_of_a_profile(seed)
    centre = seed % len(values)
    model = fit(
        Encoding(search_space),
        configurations,
        values,
        configurations[centre],
        values[centre],
        strength=1e-7,
        width=width,
    )
    rng = np.random.default_rng(seed)
    others = np.stack([search_space.sample(rng) for _ in range(50)])
    truth = np.log(divergence(additive_terms(seed, 4), others))
    np.testing.assert_allclose(model.predict(others), truth, atol=2e-3)
    growths = additive_terms(seed, 4)
    for variable in search_space.variables:
        alone = model.predict([variable.assign(others[0], bits) for bits in variable.allowed])
        grown = alone - alone[0]
        np.testing.assert_allclose(grown, growths[variable.layers[0], variable.column], atol=2e-3)


@given(seed=st.integers(0, 10**4), strength=st.sampled_from(STRENGTHS))
def test_the_model_is_exact_at_its_centre(seed, strength):
    search_space, configurations, values = sample_of_a_profile(seed, noise=1.0)
    centre = configurations[7]
    model = fit(
        Encoding(search_space), configurations, values, centre, 12.5, strength=strength, width=2.0
    )
    assert model.predict([centre])[0] == 12.5
    # Nowhere else, as the measurements contradict each other.
    assert np.abs(model.predict(configurations) - values).max() > 0.1


def independent_fit(encoding, configurations, values, centre, value, strength, width):
    """Least squares of stacked rows: those of the measurements, and those of the ridge."""
    features = encoding(configurations) - encoding([centre])
    changed = (configurations != centre).sum(axis=(1, 2))  # nothing is tied
    weights = np.exp(-changed / width)
    ridge = strength * weights.mean()
    rows = np.concatenate(
        [features * np.sqrt(weights)[:, None], np.sqrt(ridge) * np.eye(features.shape[1])]
    )
    target = np.concatenate([(values - value) * np.sqrt(weights), np.zeros(features.shape[1])])
    mean = np.linalg.lstsq(rows, target, rcond=None)[0]
    left = values - value - features @ mean
    variance = (weights * left**2).sum() / weights.sum()
    return mean, variance * np.linalg.inv(rows.T @ rows)


@pytest.mark.parametrize("width", [1.5, 8.0])
@pytest.mark.parametrize("reach", [0.0, 1.0])
def test_mean_and_posterior_are_those_of_weighted_ridge_regression(width, reach):
    search_space, configurations, values = sample_of_a_profile(2, noise=0.4)
    encoding, centre = Encoding(search_space, reach), configurations[11]
    model = fit(encoding, configurations, values, centre, values[11], strength=0.1, width=width)
    mean, covariance = independent_fit(
        encoding, configurations, values, centre, values[11], 0.1, width
    )
    np.testing.assert_allclose(model.mean, mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.root @ model.root.T, covariance, rtol=1e-6, atol=1e-9)


def test_samples_are_drawn_from_the_posterior():
    search_space, configurations, values = sample_of_a_profile(4, noise=0.3)
    encoding = Encoding(search_space)
    model = fit(encoding, configurations, values, configurations[0], values[0], strength=1, width=4)
    normal = np.random.default_rng(9).standard_normal(len(model.mean))
    expected = encoding.terms(model.mean + model.root @ normal)
    assert model.sample(np.random.default_rng(9)) == expected
    assert expected != model.terms


def test_measurements_count_less_the_further_they_are():
    """What only far ones say, a narrow fit does not hear."""
    search_space = make_search_space(space_of(6))
    configurations = profile_configurations(search_space, 200, 1)[1:]
    centre = search_space.uniform(4, 4)
    far = distances(configurations, centre, search_space) > 6
    values = np.where(far, (configurations[:, 0, WEIGHTS] == 3) * 3.0, 0.0)
    moved = np.array(centre)
    moved[0, WEIGHTS] = 3
    narrow, wide = (
        fit(Encoding(search_space), configurations, values, centre, 0.0, strength=0.1, width=width)
        for width in (0.5, 1e9)
    )
    assert abs(narrow.predict([moved])[0]) < 0.1
    assert wide.predict([moved])[0] > 1


def test_a_bit_width_that_was_never_seen_of_a_layer_takes_the_shared_term():
    search_space = make_search_space(space_of(3))
    configurations = everything(make_search_space(space_of(3), pins=[("l2", (6, 6))]))
    values = (6.0 - configurations).sum(axis=(1, 2))  # one for each bit less, in any layer
    unseen = search_space.uniform(6, 6)
    unseen[2, ACTIVATIONS] = 4
    shared, alone = (
        fit(
            Encoding(search_space, reach),
            configurations,
            values,
            search_space.uniform(6, 6),
            0.0,
            strength=0.01,
            width=1e9,
        ).predict([unseen])[0]
        for reach in (1.0, 0.0)
    )
    assert alone == pytest.approx(0, abs=1e-9)
    assert 1.0 < shared < 2.0


def direct_ridge(features, target, new, strength):
    mean = features.mean(0)
    centred = features - mean
    hessian = centred.T @ centred + strength * np.eye(features.shape[1])
    coefficients = np.linalg.solve(hessian, centred.T @ (target - target.mean()))
    return target.mean() + (new - mean) @ coefficients


@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_cross_validation_equals_a_direct_ridge(noise):
    search_space, configurations, values = sample_of_a_profile(3, count=93, noise=noise)
    found = cross_validate(Encoding(search_space), configurations, values)
    features, folds = Encoding(search_space)(configurations), np.arange(len(values)) % FOLDS
    errors, predictions = [], []
    for strength in STRENGTHS:
        predicted = np.zeros(len(values))
        for fold in range(FOLDS):
            held = folds == fold
            predicted[held] = direct_ridge(features[~held], values[~held], features[held], strength)
        errors.append(np.mean((predicted - values) ** 2))
        predictions.append(predicted)
    best = int(np.argmin(errors))
    assert found.strength == STRENGTHS[best]
    np.testing.assert_allclose(found.predicted, predictions[best], rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(found.measured, values)
    assert found.r2 == pytest.approx(1 - errors[best] / values.var())
    ranks, guessed = (stats.rankdata(v) for v in (values, predictions[best]))
    assert found.rank_correlation == pytest.approx(np.corrcoef(ranks, guessed)[0, 1])


def test_noise_asks_for_a_stronger_ridge():
    quiet, loud = (
        cross_validate(Encoding(search_space), configurations, values)
        for search_space, configurations, values in (
            sample_of_a_profile(3, noise=noise) for noise in (0.0, 3.0)
        )
    )
    assert quiet.strength < loud.strength
    assert quiet.r2 > 0.99
    assert loud.r2 < 0.7


def test_values_that_do_not_differ_are_explained_by_nothing():
    search_space, configurations, _ = sample_of_a_profile()
    found = cross_validate(
        Encoding(search_space), configurations, np.full(len(configurations), -2.0)
    )
    assert (found.r2, found.rank_correlation) == (0.0, 0.0)
    np.testing.assert_allclose(found.predicted, -2.0)


def test_what_is_not_a_number_counts_as_the_worst():
    found = log_divergence(np.asarray([0.0, np.nan, 2.0, np.inf, 0.5, -np.inf]))
    np.testing.assert_allclose(found, np.log(np.asarray([0, 2, 2, 2, 0.5, 2]) + FLOOR))
    np.testing.assert_allclose(log_divergence(np.full(3, np.nan)), np.log(FLOOR))


@given(values=st.lists(st.floats(allow_nan=True, width=32), max_size=6))
def test_the_logarithm_is_always_a_number(values):
    """A divergence is not negative, but rounding may leave a little less than 0."""
    assert np.isfinite(log_divergence(np.asarray(values))).all()
