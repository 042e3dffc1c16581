"""Compiling for another backend, and lowering for devices that need not exist."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import rfquant_jax
from rfquant_jax.nn.precision import compute_type
from rfquant_jax.runtime.backend import backend, compiling_for
from rfquant_jax.runtime.devices import REPLICATED, SHARDED, Compiled, make_mesh
from rfquant_jax.train.step import default_strategy


def test_the_choices_of_another_backend_hold_inside_the_block_alone():
    assert (backend(), default_strategy()) == ("cpu", "loop")
    with compiling_for("gpu"):
        assert (backend(), default_strategy()) == ("gpu", "scan")
        assert compute_type("auto") == jax.numpy.bfloat16
    assert (backend(), default_strategy()) == ("cpu", "loop")
    assert compute_type("auto") == np.float32


def test_no_other_file_asks_jax_for_the_backend():
    package = Path(rfquant_jax.__file__).parent
    asking = [p for p in package.rglob("*.py") if "default_backend()" in p.read_text()]
    assert [path.name for path in asking] == ["backend.py"]


@pytest.fixture
def program():
    """Adds a number to a sharded array; one argument is a dictionary, and may lack a value."""

    def add(whole, part):
        return {"sum": part["x"] + whole}, None

    of_part = {"x": SHARDED, "y": REPLICATED}
    return Compiled(add, make_mesh(4), (REPLICATED, of_part), ({"sum": SHARDED}, None))


def test_a_program_is_lowered_for_its_mesh_from_shapes(program):
    part = {"x": jax.ShapeDtypeStruct((8, 3), np.float32), "y": None}
    lowered = program.lower(np.float32(1), part)
    whole, sharded = jax.tree.leaves(lowered.compile().input_shardings)
    assert (whole.spec, sharded.spec) == (PartitionSpec(), PartitionSpec("data"))
    assert re.findall(r"tensor<(8x3xf32)>", lowered.as_text())
    assert lowered.out_info[0]["sum"].shape == (8, 3)
    assert program.traces == 1
