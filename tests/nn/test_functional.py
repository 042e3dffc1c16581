"""Modules are replaced under every name that they can be reached by."""

from flax import nnx

from rfquant_jax.nn.functional import module_at, replace_modules


class Holder(nnx.Module):
    def __init__(self):
        self.a, self.b, self.kept = (nnx.Linear(1, 1, rngs=nnx.Rngs(i)) for i in range(3))
        self.chain = nnx.Sequential(self.b, nnx.relu, self.a)
        self.plain = nnx.data([self.a, (self.b, {"deep": self.a}), self.kept])
        self.sizes = (1, 2)


def test_every_reference_is_replaced_and_nothing_else():
    holder = Holder()
    a, b = holder.a, holder.b
    assert module_at(holder, ("chain", "layers", 0)) is b
    new_a, new_b = nnx.Linear(2, 2, rngs=nnx.Rngs(3)), nnx.Linear(3, 3, rngs=nnx.Rngs(4))
    kept, chain = holder.kept, holder.chain
    replace_modules(holder, {("a",): new_a, ("chain", "layers", 0): new_b})
    assert (holder.a, holder.b, holder.kept) == (new_a, new_b, kept)
    assert holder.chain is chain
    assert [holder.chain.layers[i] for i in range(3)] == [new_b, nnx.relu, new_a]
    assert holder.plain[0] is new_a
    assert holder.plain[1][0] is new_b
    assert holder.plain[1][1]["deep"] is new_a
    assert holder.plain[2] is kept
    assert holder.sizes == (1, 2)
    found = [module for _, module in nnx.iter_modules(holder)]
    assert a not in found
    assert b not in found
