"""The metrics of the search: their values, and their independence of the training loss."""

import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.search import evaluator
from rfquant_jax.search.metrics import METRICS
from rfquant_jax.train import losses

LOGITS = np.asarray([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0], [1.0, 1.5, -2.0]])
REFERENCE = np.asarray([[1.0, 0.0, 0.5], [0.5, 2.0, 0.0], [2.0, -1.0, 0.0]])
LABELS = np.asarray([0, 2, 1])


def measured(name, logits=LOGITS):
    arrays = (jnp.asarray(x, jnp.float32) for x in (logits, REFERENCE))
    logits, reference = arrays
    return float(METRICS[name](logits, jnp.asarray(LABELS), reference))


def log_probabilities(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_their_values():
    logs, of_largest = log_probabilities(LOGITS), log_probabilities(REFERENCE)
    assert measured("error") == pytest.approx(1 / 3)  # argmax is 0, 1, 1
    assert measured("cross_entropy") == pytest.approx(-logs[[0, 1, 2], LABELS].mean(), rel=1e-6)
    divergence = (np.exp(of_largest) * (of_largest - logs)).sum(1).mean()
    assert measured("divergence") == pytest.approx(divergence, rel=1e-6)
    assert measured("divergence", REFERENCE) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("name", METRICS)
def test_a_logit_that_is_not_finite_gives_nan(name):
    logits = LOGITS.copy()
    logits[1, 1] = np.nan
    assert np.isnan(measured(name, logits))


@pytest.mark.parametrize("name", METRICS)
def test_another_training_loss_leaves_them_alone(name, monkeypatch):
    before = measured(name)
    for term in ("distillation", "cross_entropy"):
        monkeypatch.setattr(losses, term, lambda *_: jnp.zeros(()))
    assert measured(name) == before > 0
    assert not hasattr(evaluator, "losses")
