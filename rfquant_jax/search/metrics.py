"""What the search compares configurations by.

These are not the loss terms of `train/losses.py`, although two have the same formula: a change of
the training loss must not change what the search measures or what a stored profile means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

# metric(logits float32[N, C], labels int[N], logits of the largest configuration float32[N, C])
Metric = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def error(logits: jax.Array, labels: jax.Array, reference: jax.Array) -> jax.Array:
    """Top-1 error, float32[], from 0 to 1; NaN if a logit is not finite."""
    # argmax alone would return class 0 for NaN.
    finite = jnp.all(jnp.isfinite(logits))
    return jnp.where(finite, jnp.mean(jnp.argmax(logits, -1) != labels), jnp.nan)


def cross_entropy(logits: jax.Array, labels: jax.Array, reference: jax.Array) -> jax.Array:
    """Mean cross-entropy with the labels in nats, float32[]."""
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def divergence(logits: jax.Array, labels: jax.Array, reference: jax.Array) -> jax.Array:
    """Mean of KL(softmax(reference) || softmax(logits)) over the batch in nats, float32[].

    It does not use the labels, so label noise does not affect it.
    """
    own, of_largest = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
    return jnp.mean(jnp.sum(jnp.exp(of_largest) * (of_largest - own), axis=-1))


# In the order of the evaluation's columns.
METRICS: Mapping[str, Metric] = {
    "error": error,
    "cross_entropy": cross_entropy,
    "divergence": divergence,
}
