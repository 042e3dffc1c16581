"""Terms of the coupled loss on logits and features; `passes.py` weights them and adds them up.

Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543). Terms on weights are in `damping.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from rfquant_jax.ops.ordering import apart, unless_skipped
from rfquant_jax.ops.sums import row_axes, row_sums, total


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy, float32[], of logits[N, C] against int labels[N].

    Args:
      smoothing: label smoothing, the share of the target spread evenly over all classes.
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits.astype(jnp.float32), targets))


def distillation(teacher_logits: jax.Array, logits: jax.Array) -> jax.Array:
    """Batch mean of KL(softmax(teacher) || softmax(student)), float32[]; both logits are [N, C].

    The search has a divergence of its own, `search.metrics.divergence`.
    """
    student = jax.nn.log_softmax(logits.astype(jnp.float32))
    teacher = jax.nn.log_softmax(teacher_logits.astype(jnp.float32))
    return jnp.mean(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1))


def information_distortion(
    features: Mapping[str, jax.Array],
    features_max: Mapping[str, jax.Array],
    names: Sequence[str],
    at_smallest: jax.Array,
) -> jax.Array:
    """Information distortion mitigation, float32[].

    The sum of MSE(F, F_max) over the layers that run at their smallest allowed weight bit-width. F
    are the features of a layer in this pass, F_max those in the max pass, without gradient.

    Args:
      features: F by layer name, in any float dtype.
      features_max: F_max by layer name.
      names: names of the searched layers, in the order of `at_smallest`.
      at_smallest: bool[L], whether a layer runs at its smallest allowed weight bit-width; traced.
    """
    errors = (
        _mean_square(features[name], features_max[name], at_smallest[index])
        for index, name in enumerate(names)
    )
    return total(errors)


@jax.custom_vjp
def _mean_square(own: jax.Array, of_max: jax.Array, counts: jax.Array) -> jax.Array:
    """Mean of (F - F_max)^2 if `counts` (bool[]), else 0; no gradient for F_max.

    Returns float32 of the shape of `ops.sums.row_sums`: terms, which are to be added.

    The backward pass recomputes the difference from F and F_max, which are in memory anyway.
    Autodiff would save the difference as a residual: one more copy of every feature.
    """

    def made():
        squares = jnp.square(own.astype(jnp.float32) - of_max.astype(jnp.float32))
        return row_sums(squares) / own.size

    return unless_skipped(counts, made)


def _mean_square_forward(*arguments):
    return _mean_square(*arguments), arguments


def _mean_square_backward(arguments, g):
    (own, of_max), counts = (a.astype(jnp.float32) for a in arguments[:2]), arguments[2]
    # `apart`: otherwise XLA would compute the difference once, in the forward pass, and keep it.
    difference = own - of_max * apart(jnp.ones(()), g)
    slope = jnp.expand_dims(g, row_axes(own)) * (2 / own.size) * difference
    # `where` instead of a product: if `counts` is False, features may be NaN, and 0 * NaN is NaN.
    slope = jnp.where(counts, slope, 0)
    return slope.astype(arguments[0].dtype), jnp.zeros_like(arguments[1]), None


_mean_square.defvjp(_mean_square_forward, _mean_square_backward)
