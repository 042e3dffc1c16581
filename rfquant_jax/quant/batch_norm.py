"""BatchNorm with one bank of parameters and statistics for each pair of bit-widths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.nn import batch_norm
from rfquant_jax.nn.features import mark_feature
from rfquant_jax.quant.layers import Bits, pick, slot


class SwitchableBatchNorm(nnx.Module):
    """BatchNorm with a bank of parameters and statistics for each (weight, activation) bit-width.

    All arrays are float32[|Bw|, |Ba|, C]; every bank is initialised from the plain BatchNorm.

    Args:
      candidates: Bw, the bit-widths of weights, largest first.
      activation_candidates: Ba, those of input activations; empty: Bw.
    """

    def __init__(
        self,
        plain: nnx.BatchNorm,
        *,
        layer: str,
        index: int,
        candidates: tuple[int, ...],
        bits: tuple[int, int],
        activation_candidates: tuple[int, ...] = (),
    ):
        self.layer, self.index = layer, index
        self.columns = candidates, activation_candidates or candidates
        self.epsilon, self.momentum = plain.epsilon, plain.momentum
        self.use_running_average = False
        self.bits = Bits(jnp.asarray(bits, jnp.int32))

        def banks(kind: type[nnx.Variable], values: nnx.Variable | None):
            if values is None:
                return None
            shape = (*map(len, self.columns), plain.num_features)
            return kind(jnp.broadcast_to(values[...], shape).astype(jnp.float32))

        self.scale, self.bias = banks(nnx.Param, plain.scale), banks(nnx.Param, plain.bias)
        self.mean, self.var = banks(nnx.BatchStat, plain.mean), banks(nnx.BatchStat, plain.var)

    def bank(self) -> tuple[jax.Array, jax.Array]:
        """Indices of the active bank, int32[] each."""
        weight_bits, input_bits = self.bits[...]
        weights, activations = self.columns
        return slot(weight_bits, weights), slot(input_bits, activations)

    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
        del use_running_average  # the attribute is the mode, see `nn.batch_norm.BatchNorm`
        weights, activations = self.bank()
        row = weights * len(self.columns[1]) + activations

        def own(banks: nnx.Variable | None) -> jax.Array | None:
            return None if banks is None else pick(_rows(banks), row)

        scale, bias = own(self.scale), own(self.bias)
        if self.use_running_average:
            mean, variance = own(self.mean), own(self.var)
            y = batch_norm.normalize(x, mean, variance, scale, bias, self.epsilon)
        else:
            y, mean, variance = batch_norm.normalize_batch(x, scale, bias, self.epsilon)
            self._move(self.mean, row, mean)
            self._move(self.var, row, batch_norm.unbiased(variance, x))
        mark_feature(self.layer, y)
        return y

    def _move(self, banks: nnx.BatchStat, row: jax.Array, batch: jax.Array) -> None:
        rows = _rows(banks)
        moved = batch_norm.move_average(pick(rows, row), batch, self.momentum)
        if rows.shape[0] == 1:
            rows = moved
        else:
            rows = jax.lax.dynamic_update_index_in_dim(
                rows, moved, row, axis=0, allow_negative_indices=False
            )
        banks.set_value(rows.reshape(banks.shape))


def _rows(banks: nnx.Variable) -> jax.Array:
    """All banks as float32[|Bw| |Ba|, C], so that reading a bank takes one index: a slice."""
    return banks[...].reshape(-1, banks.shape[-1])
