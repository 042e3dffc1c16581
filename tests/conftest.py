"""Eight fake processor devices for every test, and a small network that has every kind of layer."""

import gc
import os
from pathlib import Path

from tests.quick_to_compile import NOTHING_OPTIMISED, xla_flags

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(devices=8)}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ[NOTHING_OPTIMISED] = "1"
# The same programs are compiled again and again, by several files and the processes they start:
# all of them share what was compiled, also by the tests of another day, and not with the user.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# An entry that another process is still writing is compiled a second time, that is all.
os.environ["PYTHONWARNINGS"] = "ignore:Error reading persistent compilation cache:UserWarning"

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import settings
from jax.extend.core import jaxprs_in_params

from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.transforms import Centre
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.features import Feature
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.quant import convert
from rfquant_jax.quant.space import Space
from rfquant_jax.runtime.compilation_cache import prune
from rfquant_jax.runtime.devices import make_mesh

settings.register_profile("project", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("project")

# Tracing makes so many objects that looking through all those of the libraries for garbage again
# and again takes a seventh of its time.
gc.freeze()
gc.set_threshold(50_000, 20, 50)

IMAGE_SHAPE = (6, 6, 2)
CLASSES = 5


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):  # once, before the workers begin
        prune(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))


# The files that take longest, so that no worker begins one of them when all else is done.
LONGEST_FIRST = (
    "train/test_step.py",
    "launch/test_stopping.py",
    "test_readme.py",
    "launch/test_processes.py",
    "launch/test_search.py",
    "launch/test_export.py",
    "config/test_recipes.py",
    "launch/test_folders.py",
    "launch/test_runs.py",
    "train/test_bad_steps.py",
    "test_api.py",
    "launch/test_mistakes.py",
    "launch/test_machine.py",
    "test_package.py",
)


def pytest_collection_modifyitems(items):
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))  # others stay in their order


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """Indices of image folders are kept where they do not outlive the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Programs for eight devices are large: those of a file end with it."""
    yield
    jax.clear_caches()
    gc.collect()


class TinyNet(nnx.Module):
    """A stem, a residual block with a projection, a linear bottleneck, a depthwise layer."""

    def __init__(self, rngs: nnx.Rngs, dropout: float = 0.0):
        def conv(c_in, c_out, size, **options):
            return nnx.Conv(c_in, c_out, (size, size), use_bias=False, rngs=rngs, **options)

        self.stem, self.stem_bn = conv(2, 4, 3), BatchNorm(4, rngs=rngs)
        self.conv = conv(4, 6, 3, strides=(2, 2), padding=[(1, 1), (1, 1)])
        self.bn = BatchNorm(6, rngs=rngs)
        self.feature = Feature("conv")
        self.projection = nnx.List([conv(4, 6, 1, strides=(2, 2)), BatchNorm(6, rngs=rngs)])
        self.expand, self.expand_bn = conv(6, 8, 1), BatchNorm(8, rngs=rngs)
        self.expand_feature = Feature("expand")
        self.depthwise = conv(8, 8, 3, feature_group_count=8)
        self.depthwise_bn = BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.fc = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem_bn(self.stem(x)))
        y = self.feature(self.bn(self.conv(x)))
        x = y + self.projection[1](self.projection[0](x))  # no activation: may be negative
        x = self.expand_feature(nnx.relu(self.expand_bn(self.expand(x))))
        x = nnx.relu(self.depthwise_bn(self.depthwise(x)))
        return self.fc(self.dropout(x.mean((1, 2))))


SEARCHED = ("conv", "projection.0", "expand", "depthwise")


@pytest.fixture(scope="session")
def plain():
    """A freshly initialised TinyNet."""
    return nnx.jit(lambda: TinyNet(nnx.Rngs(0)))()


@pytest.fixture(scope="session")
def layers(plain):
    return convert.plan(plain, IMAGE_SHAPE)


@pytest.fixture(scope="session")
def space(layers):
    return Space.of(layers, convert.CANDIDATES)


@pytest.fixture(scope="session")
def coupled(plain, layers):
    """The coupled TinyNet, with the signed inputs that its structure asks for."""
    network = convert.quantize(plain, layers)
    convert.set_signed(network, ["expand"])
    return network


@pytest.fixture(scope="session")
def functional(coupled):
    return FunctionalNetwork(coupled)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def images(rng, count):
    return rng.normal(size=(count, *IMAGE_SHAPE)).astype(np.float32)


def batch(rng, count):
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    return {"image": images(rng, count), "label": labels}


def mesh_of(devices):
    return make_mesh(devices)


def identity(x: jax.Array) -> jax.Array:
    """The preprocessing of images that are the network's input already."""
    return x


def equations(jaxpr):
    """All equations of a traced program, inner ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def pipeline(**changes):
    """A pipeline that leaves images as they are and bears no bad ones."""
    plain = Centre(0)
    settings = {
        "augmented": plain,
        "plain": plain,
        "shape": (2, 2, 1),
        "threads": 1,
        "max_bad_fraction": 0.0,
    }
    return Pipeline(**settings | {"log": print} | changes)
