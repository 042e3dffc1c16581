"""Every recipe: loaded, checked, shrunk to small images, and run for one step."""

import json
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import default
from rfquant_jax import data
from rfquant_jax.config import checks, recipes, search_bits, settings
from rfquant_jax.data.sources import ArraySource, DataSet, split
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.runtime import devices
from rfquant_jax.tasks.run import Run
from rfquant_jax.train.step import TrainStep
from tests.config.test_checks import CONFIGS, RECIPES

PUBLISHED = [path for path in RECIPES if path.stem != "default"]
CLASSES, SIZE, IMAGES = 3, 32, 12
_done: dict[str, dict] = {}  # what recipes that only differ in data or schedule have in common


def ident(path):
    return "/".join(path.relative_to(CONFIGS).with_suffix("").parts)


@pytest.fixture(autouse=True)
def _noise(monkeypatch):
    """A data set of random images in place of the recipes'."""

    def noise(config):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (IMAGES, 40, 50, 3), np.uint8)
        source = ArraySource(images, np.arange(IMAGES) % CLASSES)
        parts = split(source, config.search_fraction, config.split_seed)
        return DataSet(*parts, source, tuple("abc"), (0, 0, 3))

    monkeypatch.setitem(data.SOURCES, "noise", noise)


def shrunk(path):
    config = recipes.load(path)
    if path.stem == "quickstart":
        config.data.mean, config.data.std = (0.5,), (0.5,)
    config.data.name, config.data.num_classes, config.data.search_fraction = "noise", CLASSES, 0.5
    config.data.image_size, config.data.resize = SIZE, 0
    config.train.batch_size, config.train.random_passes, config.devices = 4, 1, 1
    checks.validate(config)
    return config


def filled(abstract):
    """A network with values that need no compiled initialisers."""
    rng = np.random.default_rng(0)
    graph, state = nnx.split(abstract)

    def value(path, leaf):
        name = str(path[-2].key if hasattr(path[-2], "key") else path[-2])
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return jnp.asarray(rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in), leaf.dtype)
        return jnp.ones(leaf.shape, leaf.dtype) * (name in ("scale", "var"))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(value, state))


def first_step(config, folder):
    """A coupled step and its arguments."""
    run = Run(config, folder)
    functional = FunctionalNetwork(run.plan.convert(filled(run.abstract_network)))
    step = TrainStep(functional, run.mesh, run.preprocess, settings.coupled_step(config))
    plan = settings.coupled_plan(config)
    batch = run.pipeline.training(run.data.train, config.train.batch_size, seed=plan.seed)[0]
    batch = devices.split(batch, run.mesh)
    teachers = [jnp.zeros((4, CLASSES))] if config.distillation.teacher else None
    masks = np.stack([run.plan.space.full_mask] * 2)
    inputs = step.inputs(masks, jax.random.key(0), **plan.rates(0, 1))
    return step, (step.init(functional.params), [batch], inputs, teachers)


def essence(config):
    """What decides the program of a step."""
    plain = checks.to_plain(config)
    smoothing, teacher = config.train.label_smoothing, bool(config.distillation.teacher)
    plain["losses"].pop("damping_start_epoch")  # an argument of the program
    return json.dumps([plain["model"], plain["quant"], plain["losses"], smoothing, teacher])


@pytest.mark.parametrize("path", PUBLISHED, ids=ident)
def test_a_recipe_tells_what_it_is(path):
    text = path.read_text().split('"""')[1]
    for heading in ("Expected: ", "Time: ", "Command: "):
        assert heading in text, heading
    assert "arXiv" in text or "CVPR" in text
    named = re.findall(r"configs/[\w/]+\.py", text)
    assert all((CONFIGS.parent / name).exists() for name in named)


def commands(path):
    """The commands in a recipe's docstring, as lists of words."""
    text = path.read_text().split('"""')[1].replace("\\\n", " ").replace("\\\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"python (launch\.py.*)", text)]


@pytest.mark.parametrize("path", PUBLISHED, ids=ident)
def test_the_commands_of_a_recipe_name_recipes_and_their_fields(path):
    assert commands(path)
    for command in commands(path):
        given = [word.split("=")[1] for word in command if word.startswith("--config=")]
        recipe = CONFIGS.parent / (given[0] if given else "configs/quickstart.py")
        recipes.check_overrides(recipes.load(recipe), command)
        rest = {word.split("=")[0] for word in command[1:]} - {"--config", "--workdir"}
        assert all(word.startswith("--config.") for word in rest), rest


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "efficientnet_lite0"])
def test_the_budgets_of_a_search_recipe_can_be_reached_and_bind(name, tmp_path):
    path = CONFIGS / "search" / f"{name}.py"
    config = recipes.load(path)
    other = re.search(r"--config\.search\.budgets=(\S+)", path.read_text())[1]
    config.search.budgets = f"{config.search.budgets},{other}"
    config.tasks = ("cost",)  # which needs no images
    run = Run(config, tmp_path)
    largest = run.plan.space.uniform(6, 6)
    assert len(run.budgets) == 3
    assert not any(budget.fits(largest) for budget in run.budgets)


def test_no_two_commands_share_a_folder_that_is_not_theirs():
    """Every search or evaluation besides a recipe's own has a workdir of its own."""
    named = [
        word for path in PUBLISHED for c in commands(path) for word in c if "--workdir=" in word
    ]
    assert len(named) == len(set(named))


def in_full_precision(path):
    config = recipes.load(path)
    return config.tasks == ("evaluate",) and not config.configuration


FULL_PRECISION = [path for path in PUBLISHED if in_full_precision(path)]
COUPLED = [path for path in PUBLISHED if not in_full_precision(path)]
# Those whose step is quick to compile; the programs of the others are traced.
QUICK = ("quickstart", "cifar10_resnet20")


def once_for_equal_programs(kind, config, compute):
    key = kind + essence(config)
    if key not in _done:
        _done[key] = compute()
    return _done[key]


@pytest.mark.parametrize("path", FULL_PRECISION, ids=ident)
def test_a_recipe_in_full_precision_runs_forward(path, tmp_path):
    network = filled(Run(shrunk(path), tmp_path).abstract_network)
    logits = nnx.jit(lambda net, x: net(x))(network, jnp.ones((2, SIZE, SIZE, 3)))
    assert logits.shape == (2, CLASSES)


def assert_mitigates(terms, config):
    assert ("idm" in terms) == config.losses.information_distortion_mitigation


@pytest.mark.parametrize("path", [p for p in COUPLED if ident(p) not in QUICK], ids=ident)
def test_the_step_of_a_recipe_can_be_traced(path, tmp_path):
    config = shrunk(path)

    def trace():
        step, (state, batches, *rest) = first_step(config, tmp_path)
        return jax.eval_shape(lambda state, batches: step(state, batches, *rest), state, batches)

    _, metrics, _ = once_for_equal_programs("trace", config, trace)
    assert len(metrics) == 2
    assert all(measured["loss"].shape == (1,) for measured in metrics)
    assert_mitigates(metrics[1], config)


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if ident(p) in QUICK else pytest.mark.slow) for p in COUPLED],
    ids=ident,
)
def test_a_recipe_runs_a_step(path, tmp_path):
    config = shrunk(path)

    def run():
        step, arguments = first_step(config, tmp_path)
        return jax.device_get(step(*arguments)[1])

    metrics = once_for_equal_programs("run", config, run)
    assert len(metrics) == 2
    for measured in metrics:
        assert measured["loss"].shape == (1,)
        assert all(np.isfinite(value).all() for value in measured.values())
        assert measured["loss"] > 0
    assert_mitigates(metrics[1], config)
    assert float(metrics[1].get("idm", np.ones(1)).sum()) > 0


def test_the_published_runs_have_the_published_settings():
    """The training of the paper: 128 images on each of 4 GPUs."""
    expected = {
        "resnet18": (150, 512, 0.0, None, False, "33.9G", 256),
        "mobilenetv2": (150, 512, 0.1, 0.2, True, "5.58G", 512),
        "efficientnet_lite0": (150, 512, 0.1, 0.2, True, "6.9G", 512),
    }
    for kind in ("training", "search", "eval"):
        for name, values in expected.items():
            config = recipes.load(CONFIGS / kind / f"{name}.py")
            found = (
                config.train.epochs,
                config.train.batch_size,
                config.train.label_smoothing,
                config.model.options.get("dropout"),
                config.quant.split_candidates,
                config.search.budgets,
                config.search.batch_size,
            )
            assert found == values, (kind, name)
            assert config.model.name == name
            assert search_bits.start(config) == 5
            assert tuple(config.quant.candidates) == (6, 5, 4, 3, 2)
            images = (config.data.image_size, config.data.resize, config.data.augmentation)
            assert images == (224, 256, "resized_crop")


def test_the_ablation_turns_both_ingredients_on_and_off():
    found = {}
    for path in (CONFIGS / "ablation").glob("[!_]*.py"):
        config = recipes.load(path)
        losses = config.losses
        found[path.stem] = (config.scheduler.enabled, losses.information_distortion_mitigation)
        assert config.train.epochs == 80
    assert found == {
        "neither": (False, False),
        "scheduler": (True, False),
        "idm": (False, True),
        "both": (True, True),
    }


def test_later_recipes_take_up_the_results_of_earlier_ones():
    for name in ("resnet18", "mobilenetv2", "efficientnet_lite0"):
        training, search, evaluation = (
            CONFIGS / kind / f"{name}.py" for kind in ("training", "search", "eval")
        )
        folder = str(recipes.default_workdir(training))
        assert recipes.load(search).checkpoint == recipes.load(evaluation).checkpoint == folder
        found = (
            recipes.default_workdir(search) / "search" / f"{recipes.load(search).search.budgets}"
        )
        assert recipes.load(evaluation).configuration == f"{found}.json"
    distilled = recipes.load(CONFIGS / "training" / "resnet18_distilled.py")
    teacher = recipes.default_workdir(CONFIGS / "eval" / "resnet101.py")
    assert distilled.distillation.teacher == str(teacher)


def test_default_holds_no_path_of_anybodys_machine():
    config = default.get_config()
    for value in (config.data.path, config.pretrained, config.checkpoint):
        assert value == ""
