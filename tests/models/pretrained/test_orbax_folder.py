"""The state of a JAX user's own network, saved by orbax, and what does not fit."""

import shutil

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from rfquant_jax.errors import UserError
from rfquant_jax.models.pretrained.files import read_weights
from rfquant_jax.models.pretrained.load import load_weights
from rfquant_jax.models.pretrained.orbax_folder import MARK


class Network(nnx.Module):
    """Layers in a list, normalization, random numbers and a parameter of its own."""

    def __init__(self, seed, classes=3):
        rngs = nnx.Rngs(seed)
        self.blocks = nnx.List([nnx.Conv(2, 4, (3, 3), rngs=rngs)])
        self.norm, self.scale = nnx.BatchNorm(4, rngs=rngs), nnx.Param(jnp.full(4, seed + 0.5))
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(4, classes, rngs=rngs)


WEIGHTS = (nnx.Param, nnx.BatchStat)


def whole(net):
    return nnx.state(net)


def arrays(net):
    return nnx.to_pure_dict(nnx.state(net, WEIGHTS))


def flat(net):
    found = nnx.to_flat_state(nnx.state(net, WEIGHTS))
    return {"/".join(map(str, path)): variable[...] for path, variable in found}


def in_training(net):
    """With an optimizer's state of the same names, and statistics apart."""
    params, stats = nnx.state(net, nnx.Param, nnx.BatchStat)
    parts = {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(stats)}
    return {**parts, "opt_state": nnx.to_pure_dict(params), "step": 7}


def averaged(net):
    return {"model": arrays(Network(9)), "ema": arrays(net), "step": 7}


def save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    return path


@pytest.mark.parametrize("tree", [whole, arrays, flat, in_training, averaged])
def test_a_state_is_loaded_whatever_it_was_saved_in(tmp_path, tree):
    source, network, said = Network(1), Network(2), []
    source.norm.mean.set_value(jnp.arange(4.0))
    path = save(tmp_path / "state", tree(source))
    assert load_weights(network, "mine", read_weights(path, said.append)) == []
    for mine, theirs in (
        (network.blocks[0].kernel, source.blocks[0].kernel),
        (network.norm.mean, [0, 1, 2, 3]),
        (network.scale, [1.5] * 4),
        (network.head.bias, source.head.bias),
    ):
        np.testing.assert_array_equal(mine[...], np.asarray(theirs))
    expected = {
        in_training: "its 'params', of batch_stats, opt_state, params, step",
        averaged: "its 'ema', of ema, model, step",
    }
    assert said == [f"weights: {path}: {expected[tree]}" for _ in range(tree in expected)]


def test_a_step_of_a_checkpoint_manager_is_one_state(tmp_path):
    source, network = Network(1), Network(2)
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(5, args=ocp.args.StandardSave(nnx.state(source, WEIGHTS)))
        manager.wait_until_finished()
    load_weights(network, "mine", read_weights(tmp_path / "run" / "5"))
    np.testing.assert_array_equal(network.scale[...], [1.5] * 4)
    with pytest.raises(UserError, match="run: holds checkpoints by step: name the folder of one"):
        read_weights(tmp_path / "run")


def test_what_is_missing_left_over_or_of_another_shape_is_named(tmp_path):
    state = arrays(Network(1))
    del state["scale"]
    state["gain"] = np.zeros(2, np.float32)
    state["head"]["bias"] = np.zeros(4, np.float32)
    state["norm"]["mean"] = np.zeros(5, np.float32)
    network = Network(2)
    with pytest.raises(UserError) as error:
        load_weights(network, "mine", read_weights(save(tmp_path / "state", state)))
    assert str(error.value) == (
        "`weights` does not fit mine: missing: scale; left over: gain; "
        "of another shape: norm.mean [5] instead of [4]"
    )
    np.testing.assert_array_equal(network.scale[...], [2.5] * 4)


def damaged(folder, how):
    if how == "no array":
        shutil.rmtree(folder / "d")
        shutil.rmtree(folder / "ocdbt.process_0")
    elif how == "cut":
        path = folder / MARK
        path.write_bytes(path.read_bytes()[:50])
    elif how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        (folder / "manifest.ocdbt").write_bytes(b"\x1b[2J")


@pytest.mark.parametrize("how", ["no array", "cut", "empty", "manifest"])
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, how):
    folder = save(tmp_path / "state", arrays(Network(1)))
    damaged(folder, how)
    with pytest.raises(UserError) as error:
        read_weights(folder)
    said = str(error.value)
    assert said.startswith(f"`weights`: {folder}: ")
    assert said.isprintable()
    assert len(said) < 100 + len(str(folder))
    if how == "no array":
        assert said.endswith("cannot be read (an array is damaged or missing: NOT_FOUND)")


def test_a_folder_that_claims_more_than_it_can_hold_is_refused(tmp_path):
    folder = save(tmp_path / "state", {"a": np.zeros((2**13, 2**13), np.float32)})
    with pytest.raises(UserError, match=r"state: .*claims to hold 268435456 bytes in a file of"):
        read_weights(folder)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=f"is a folder, but no checkpoint of orbax, .* {MARK}"):
        read_weights(tmp_path)
