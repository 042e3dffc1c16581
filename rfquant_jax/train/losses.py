"""The terms of the coupled loss that read network outputs (method, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from rfquant_jax.models.late import after


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy, float32[], of logits[N, C] against int labels[N].

    Args:
      smoothing: share of the target spread evenly over all classes.
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits.astype(jnp.float32), targets))


def distillation(teacher_logits: jax.Array, logits: jax.Array) -> jax.Array:
    """Batch mean of KL(softmax(teacher) || softmax(student)), float32[]; both logits are [N, C]."""
    student = jax.nn.log_softmax(logits.astype(jnp.float32))
    teacher = jax.nn.log_softmax(teacher_logits.astype(jnp.float32))
    return jnp.mean(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1))


def information_distortion(
    features: Mapping[str, jax.Array],
    features_max: Mapping[str, jax.Array],
    names: Sequence[str],
    at_smallest: jax.Array,
) -> jax.Array:
    """Sum over layers at their smallest weight bit-width of MSE(F, F_max), float32[].

    Args:
      features, features_max: by layer name, of this pass and of the max pass, in any float type.
      names: the searched layers in the order of `at_smallest`.
      at_smallest: bool[L], traced.
    """
    total = jnp.zeros(())
    for index, name in enumerate(names):
        error = _mean_square(features[name], features_max[name])
        total = total + jnp.where(at_smallest[index], error, 0.0)
    return total


@jax.custom_vjp
def _mean_square(own: jax.Array, of_max: jax.Array) -> jax.Array:
    """Mean of (F - F_max)^2, float32[]; F_max is a constant.

    Its gradient is made of both features, which are there in any case. Their difference would
    otherwise be kept until then, one more copy of every feature.
    """
    return jnp.mean(jnp.square(own.astype(jnp.float32) - of_max.astype(jnp.float32)))


def _mean_square_forward(own, of_max):
    return _mean_square(own, of_max), (own, of_max)


def _mean_square_backward(features, g):
    own, of_max = (feature.astype(jnp.float32) for feature in features)
    slope = g * (2 / own.size) * (own - of_max * after(jnp.ones(()), g))
    return slope.astype(features[0].dtype), jnp.zeros_like(features[1])


_mean_square.defvjp(_mean_square_forward, _mean_square_backward)
