"""Networks whose weights are mostly in dense layers."""

import itertools

import jax.numpy as jnp
from flax import nnx


class Mlp(nnx.Module):
    """Two dense layers over the last axis."""

    def __init__(self, width, hidden, rngs):
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.gelu(self.up(x)))


class MixerBlock(nnx.Module):
    def __init__(self, tokens, width, rngs):
        self.norm1, self.norm2 = (nnx.LayerNorm(width, rngs=rngs) for _ in range(2))
        self.tokens, self.channels = Mlp(tokens, 8, rngs), Mlp(width, 2 * width, rngs)

    def __call__(self, x):
        x = x + self.tokens(self.norm1(x).swapaxes(1, 2)).swapaxes(1, 2)
        return x + self.channels(self.norm2(x))


class Attention(nnx.Module):
    """Self-attention of several heads; its products are computed in float."""

    def __init__(self, width, heads, rngs):
        self.heads = heads
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        batch, tokens, width = x.shape
        q, k, v = (
            part.reshape(batch, tokens, self.heads, -1) for part in jnp.split(self.qkv(x), 3, -1)
        )
        scores = jnp.einsum("nqhc,nkhc->nhqk", q, k) / (width // self.heads) ** 0.5
        mixed = jnp.einsum("nhqk,nkhc->nqhc", nnx.softmax(scores), v)
        return self.out(mixed.reshape(batch, tokens, width))


class VitBlock(nnx.Module):
    def __init__(self, tokens, width, rngs):
        self.norm1, self.norm2 = (nnx.LayerNorm(width, rngs=rngs) for _ in range(2))
        self.attention, self.mlp = Attention(width, 2, rngs), Mlp(width, 2 * width, rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class OfPatches(nnx.Module):
    """Patches of 2x2 pixels, blocks over their tokens, and a classifier of the mean token."""

    def __init__(self, block, shape, classes, rngs, width=8):
        height, columns, channels = shape
        tokens = height // 2 * (columns // 2)
        self.patches = nnx.Conv(channels, width, (2, 2), 2, padding="VALID", rngs=rngs)
        self.places = nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (tokens, width)))
        self.blocks = nnx.List([block(tokens, width, rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x)
        x = x.reshape(len(x), -1, x.shape[-1]) + self.places[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Perceptron(nnx.Module):
    """Dense layers alone; the first reads the image."""

    def __init__(self, shape, classes, rngs):
        pixels = shape[0] * shape[1] * shape[2]
        widths = (pixels, 16, 12, 8)
        pairs = itertools.pairwise(widths)
        self.hidden = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.head(x)


def mixer(shape, classes, rngs):
    return OfPatches(MixerBlock, shape, classes, rngs)


def vit(shape, classes, rngs):
    return OfPatches(VitBlock, shape, classes, rngs)
