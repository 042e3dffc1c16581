"""An operation on a quantized input that keeps the input for its backward pass, not the quantized.

The input is kept in any case, or is quickly made from what is: for the gradients of the activation
function and of the BatchNorm before. Its quantized values, and what the gradient of the step size
is made of, would be two more copies of every activation.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from rfquant_jax.ops.ordering import after, alone

Quantize = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Operation = Callable[[jax.Array, jax.Array], jax.Array]


def on_quantized(quantize: Quantize, operation: Operation) -> Callable[..., jax.Array]:
    """`operation(quantize(x, step, bits), kernel)` as a function of `(x, step, bits, kernel)`.

    Values and gradients are those of that expression; the backward pass quantizes x again.

    Args:
      quantize: differentiable in x and step (float32[]); bits is an int32[].
      operation: differentiable in both arguments.
    """

    @jax.custom_vjp
    def whole(x, step, bits, kernel):
        return operation(quantize(x, step, bits), kernel)

    def forward(*arguments):
        return whole(*arguments), arguments

    def backward(arguments, g):
        x, step, bits, kernel = arguments
        step = after(step, g)
        # By itself: merged with the copy that a convolution's gradient needs of its operand, with
        # images innermost, it takes 4 times as long as both in turn (64 x 32 x 32 x 16, 2 cores).
        quantized = alone(lambda: quantize(x, step, bits), g)
        d_quantized, d_kernel = jax.vjp(operation, quantized, kernel)[1](g)
        _, differentiate = jax.vjp(lambda *a: quantize(*a, bits), x, step)
        return (*differentiate(d_quantized), None, d_kernel)

    whole.defvjp(forward, backward)
    return whole
