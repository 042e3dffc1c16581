"""Recipes and the rules over their fields."""

import importlib
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import default, quickstart
from rfquant_jax.config import checks, fields, recipes, search_bits
from rfquant_jax.errors import ConfigError, UserError
from rfquant_jax.tasks import command_line, workdir

CONFIGS = Path(default.__file__).parent
RECIPES = sorted(p for p in CONFIGS.rglob("*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_is_valid_and_overrides_only_what_there_is(path):
    config = recipes.load(path)
    checks.validate(config)
    assert set(dict(fields.leaves(config))) == set(dict(fields.leaves(default.get_config())))


def test_the_help_states_how_paper_differs_from_the_published_program():
    said = recipes.describe(default.get_config())
    _, _, rest = said.partition("--config.search.algorithm=")
    about = " ".join(rest.partition("--config.")[0].split())
    for difference in ("an up move from the smallest", "no state twice", "activations alone can"):
        assert difference in about
    assert about.endswith("activations alone can reach the budget")


def test_the_default_recipe_has_the_published_constants():
    config = default.get_config()
    published = {
        "train.epochs": 150,
        "train.batch_size": 512,  # 128 on each of 4 devices
        "train.random_passes": 3,
        "train.ema_decay": 0.9997,
        "train.sampling": "independent",
        "train.smallest_pass": 0.0,
        "optimizer.lr": 0.04,
        "optimizer.min_lr": 1e-5,
        "optimizer.warmup_epochs": 5,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 2.5e-5,
        "optimizer.step_size_lr": 1e-5,
        "losses.lambda_idm": 0.01,
        "losses.damping": 0.1,
        "losses.damping_start_epoch": 40,
        "losses.wd_region": 0.0,
        "scheduler.late_from": 0.72,
        "scheduler.boundary": 0.25,
        "scheduler.release_from": 1.0,
        "search.alpha": 1.5,
        "quant.candidates": (6, 5, 4, 3, 2),
    }
    for name, value in published.items():
        assert dict(fields.leaves(config))[name] == value, name
    assert search_bits.start(config) == 5


@pytest.mark.parametrize("section", ["train", "pretrain"])
def test_nothing_warms_up_where_nothing_is_trained(section):
    config = default.get_config()  # five epochs of warm-up in both trainings
    config.pretrained = "weights.npz"
    config[section].epochs = 0
    checks.validate(config)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("train.epochs", -1, "must not be negative"),
        ("pretrain.epochs", 0, "only makes sense with config.pretrained"),
        ("seed", -1, "must lie between 0 and 2147483647"),
        ("seed", 2**31, "must lie between 0 and 2147483647"),
        ("seed", True, "must be a whole number"),
        ("scheduler.enabled", 1, "must be True or False"),
        ("data.name", 5, "must be text"),
        ("data.std", "abc", "must be a tuple"),
        ("data.mean", ("x",), "every entry must be a number"),
        ("quant.candidates", "6-2", "must be a tuple"),
        ("quant.candidates", (6, 4.5, 4), "every entry must be a whole number"),
        ("quant.candidates", (), "must not be empty"),
        ("quant.candidates", (32,), "bit-widths from 2 to 8, also 32"),
        ("quant.signed", (1,), "every entry must be text"),
        ("quant.rules", ("ab",), "every entry must be a pair"),
        ("quant.rules", (("a", (4, 4)),), "different bit-widths"),
        ("search.budgets", " , ", "names no budget"),
        ("search.budgets", "1*w4a4,3TB", "'3TB': must be a number of GBitOPs"),
        ("search.budgets", "5ms", "with search.latency_table a latency"),
        ("search.budgets", "60KB+0.1MB", "several limits of one kind (60KB and 0.1MB)"),
        ("optimizer.lr", 0.0, "must be positive"),
        ("data.search_fraction", 1.0, "must lie between 0 and 1, both excluded"),
        ("train.ema_decay", 1.0, "must be at least 0 and below 1"),
        ("data.val_fraction", 1.0, "must be at least 0 and below 1"),
        ("data.num_classes", 1, "must be 0 or at least 2"),
        ("scheduler.late_from", 1.5, "must lie between 0 and 1"),
        ("train.strategy", "fast", "must be auto, loop or scan"),
        ("train.sampling", "even", "must be independent or levels"),
        ("train.init", "random", "must be pretrained or checkpoint"),
        ("train.init", "checkpoint", "needs config.checkpoint, the folder of a run"),
        ("train.level_spread", 0.0, "must be positive"),
        ("train.smallest_pass", 1.5, "must lie between 0 and 1"),
        ("train.smallest_pass", -0.5, "must lie between 0 and 1"),
        ("scheduler.release_from", 2.0, "must lie between 0 and 1"),
        ("search.metric", "top5", "must be error, cross_entropy or divergence"),
        ("search.normalize", "mean", "must be max or minmax"),
        ("search.budgets", "", "must not be empty"),
        ("tasks", (), "must not be empty"),
        ("tasks", ("train,fly",), "must be among pretrain, train"),
        ("tasks", ("cost,train",), "cost stands alone"),
        ("quant.candidates", (2, 3), "largest first"),
        ("quant.candidates", (9, 2), "bit-widths from 2 to 8"),
        ("quant.candidates", (6, 1), "bit-widths from 2 to 8"),
        ("quant.depthwise_min_bits", 7, "leaves depthwise layers none"),
        ("quant.fixed_bits", 9, "from 2 to 8, or 32"),
        ("quant.rules", (("a", 4),), "must be a layer pattern and a tuple"),
        ("quant.rules", (("a", (4, 12)),), "must be a layer pattern and a tuple"),
        ("quant.activation_candidates", (4, 8), "must be empty, or bit-widths from 2 to 8, also"),
        ("quant.activation_candidates", ("a",), "every entry must be a whole number"),
        ("search.start_bits", 7, "must be 0 or one of quant.candidates"),
        ("search.start_bits", -1, "must not be negative"),
        ("search.min_bits", -1, "must not be negative"),
        ("search.max_bits", -1, "must not be negative"),
        ("search.min_bits", 7, "no bit-width from 7 to 6 is in quant.candidates (6, 5, 4, 3, 2)"),
        ("search.max_bits", 1, "no bit-width from 2 to 1 is in quant.candidates (6, 5, 4, 3, 2)"),
        ("search.algorithm", "integer", "must be trust_region, greedy, paper, evolution or random"),
        ("search.profile", 9, "must be at least 10"),
        ("search.evaluations", 9, "must be at least 10"),
        ("search.images", 0, "must be at least 1"),
        ("search.views", 0, "must be at least 1"),
        ("search.pins", (("a", 4),), "(weight bits, activation bits) pair"),
        ("search.pins", (("a", (4, 4, 4)),), "(weight bits, activation bits) pair"),
        ("search.groups", (("weights",),), "must be one of weights, activations, both"),
        ("search.groups", (("all", "a"),), "must be one of weights, activations, both"),
        ("search.same_bits", (("a", "b"),), "every entry must be text"),
        ("optimizer.warmup_epochs", 100, "must be below train.epochs 100"),
        ("optimizer.min_lr", 1.0, "must not be above optimizer.lr"),
        ("scheduler.ratio_amplitude", 0.5, "freezes 1.2 of the layers"),
        ("data.std", (0.0,), "must be positive"),
        ("data.resize", 8, "must be 0 where image_size is 0"),
        ("data.augmentation", "resized_crop", "needs an image_size"),
        ("data.augmentation", "cutout", "must be resized_crop or pad"),
        ("data.interpolation", "nearest", "must be bilinear or bicubic"),
        ("data.max_bad_fraction", -0.1, "must lie between 0 and 1"),
        ("predict.top", 0, "must be at least 1"),
        (
            "export.formats",
            ("mlir",),
            "must be among integer, onnx, onnx_small",
        ),
        ("export.batch", -1, "must not be negative"),
        ("export.formats", (), "must not be empty"),
        ("export.platforms", ("cuda",), "must include cpu"),
        ("export.platforms", ("cpu", "vulkan"), "must be among cpu, cuda"),
        ("export.images", 0, "must be at least 1"),
        ("export.code_images", 0, "must be at least 1"),
        ("export.max_unequal", 2.0, "must lie between 0 and 1"),
        ("export.max_unequal_float", -1.0, "must lie between 0 and 1"),
        ("export.max_differing_codes", -0.1, "must lie between 0 and 1"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named_with_value_and_rule(name, value, said):
    config = quickstart.get_config()
    *sections, last = name.split(".")
    part = config
    for section in sections:
        part = part[section]
    with part.ignore_type():
        part[last] = value
    with pytest.raises(ConfigError) as error:
        checks.validate(config)
    assert str(error.value).startswith(f"config.{name}")
    assert said in str(error.value)


def test_images_must_not_be_resized_below_the_size_of_their_crop():
    config = default.get_config()
    config.data.resize = 200
    with pytest.raises(ConfigError, match=r"data\.resize = 200: must reach image_size 224"):
        checks.validate(config)


def test_a_checkpoint_does_not_go_together_with_pretraining():
    config = quickstart.get_config()
    config.checkpoint = "somewhere"
    with pytest.raises(ConfigError, match="together with the task pretrain"):
        checks.validate(config)


def test_a_continued_training_trains():
    config = quickstart.get_config()
    config.tasks, config.checkpoint, config.train.init = ("train",), "somewhere", "checkpoint"
    checks.validate(config)
    config.train.epochs = 0
    with pytest.raises(ConfigError, match=r"train\.epochs = 0: trains nothing, so that"):
        checks.validate(config)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("search", "train"), ("train", "search")),
        (("pretrain,train, search",), ("pretrain", "train", "search")),
        (("cost",), ("cost",)),
    ],
)
def test_tasks_may_be_a_comma_separated_list_and_run_in_their_order(given, expected):
    assert checks.tasks(ConfigDict({"tasks": given})) == expected


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.optimizr.lr=1", "did you mean config.optimizer.lr?"),
        ("--noconfig.data.flp", "did you mean config.data.flip?"),
        ("--config.zzz=1", "--help lists all fields"),
        ("--config.optimizer=1", "config.optimizer is a section"),
    ],
)
def test_an_override_of_an_unknown_field_is_refused(argument, said):
    with pytest.raises(UserError) as error:
        recipes.check_overrides(quickstart.get_config(), ["launch.py", argument])
    assert said in str(error.value)


def test_overrides_of_fields_pass():
    arguments = ["--config.optimizer.lr=0.1", "--noconfig.data.flip", "--workdir=x", "--config=y"]
    recipes.check_overrides(quickstart.get_config(), arguments)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such Python file"),
        ("x = 1", "a recipe must define get_config()"),
        ("def get_config(): return {}", "get_config must return an ml_collections.ConfigDict"),
    ],
)
def test_what_is_not_a_recipe_is_refused(tmp_path, content, said):
    path = tmp_path / "recipe.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        recipes.load(path)
    assert str(error.value) == f"--config={path}: {said}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("\nimport nowhere_to_be_found", "line 2: ModuleNotFoundError: No module named 'nowhere_"),
        ("def get_config():\n    return {}['x']", "line 2: KeyError: 'x'"),
        ("x = (\n", "line 1: SyntaxError: "),
    ],
)
def test_a_recipe_that_fails_names_its_line_and_logs_its_traceback(
    tmp_path, monkeypatch, capsys, content, said
):
    path = tmp_path / "recipe.py"
    path.write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command_line.parse_flags(["launch.py", f"--config={path}", "--workdir=here"])
    assert ended.value.code == 1
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith(f"error: --config={path}, {said}")
    assert errors.endswith("; the traceback is in here/log.txt\n")
    assert said.split(": ")[1] in (tmp_path / "here" / "log.txt").read_text()


def test_a_recipe_may_import_what_stands_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    package = tmp_path / "my_recipes" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (tmp_path / "my_seed.py").write_text("SEED = 7")
    (package.parent / "base.py").write_text("from my_seed import SEED")
    text = "from rfquant_jax.config import default_config\n{}\ndef get_config():\n"
    text += "    config = default_config()\n    config.seed = SEED\n    return config\n"
    (package / "recipe.py").write_text(text.format("from my_recipes.base import SEED"))
    (tmp_path / "recipe.py").write_text(text.format("from my_seed import SEED"))
    assert recipes.import_root(package / "recipe.py") == tmp_path
    assert recipes.load(package / "recipe.py").seed == 7
    assert recipes.load(tmp_path / "recipe.py").seed == 7
    assert sys.path.count(str(tmp_path)) == 1


def test_the_quickstart_is_the_checkouts():
    assert recipes.quickstart() == CONFIGS / "quickstart.py"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("configs/quickstart.py", "runs/quickstart"),
        ("configs/training/resnet18.py", "runs/training/resnet18"),
        ("elsewhere/mine.py", "runs/mine"),
    ],
)
def test_the_default_workdir_is_named_after_the_recipe(path, expected):
    assert recipes.default_workdir(Path(path)) == Path(expected)


def test_the_description_shows_every_field_of_the_recipe():
    config = quickstart.get_config()
    config.model.options.width = 0.5
    text = recipes.describe(config)
    for name, _ in fields.flat(config):
        assert f"\n  --config.{name}=" in text, name
    said = """
optimizer: of coupled training

  --config.optimizer.lr=0.04
      peak learning rate of SGD (must be positive)
"""
    assert said in text
    assert (
        """
  --config.train.epochs=100
      number of passes over the training images (must not be negative)
      0: post-training quantization
      default: 150
"""
        in text
    )
    assert "steps between records of metrics (must be at least 1; may change on resume)" in text
    assert "additional arguments" in text.partition("--config.model.options.width=0.5\n")[2][:60]
    assert max(map(len, text.splitlines())) <= 100


def test_a_workdir_belongs_to_one_run(tmp_path):
    config = quickstart.get_config()
    folder = tmp_path / "run"
    workdir.claim(folder, config)
    stored = workdir.read_json(folder / workdir.CONFIG_FILE)
    assert stored["train"]["epochs"] == config.train.epochs
    config.tasks, config.data.threads = ("search",), 7
    workdir.claim(folder, config)
    config.optimizer.lr, config.seed = 0.5, 3
    with pytest.raises(UserError) as error:
        workdir.claim(folder, config)
    assert "belongs to another run: config.optimizer.lr was 0.04 and is 0.5" in str(error.value)
    assert "config.seed was 0 and is 3" in str(error.value)


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        workdir.claim(tmp_path / "file" / "run", quickstart.get_config())


def test_recipes_are_importable():
    quick = importlib.import_module("configs.quickstart")
    assert quick.get_config().model.name == "mobilenetv2_tiny"


def test_missing_and_unknown_fields_are_named():
    config = default.get_config()
    config.train.epoch = 3
    with pytest.raises(UserError, match=r"config\.train\.epoch is not a field"):
        checks.validate(config)
    del config.train.epoch
    del config.train.epochs
    with pytest.raises(UserError, match=r"config\.train\.epochs is missing: a recipe starts from"):
        checks.validate(config)


def test_a_networks_own_options_are_not_the_configs_business():
    config = default.get_config()
    config.model.options = ConfigDict({"anything": None})
    checks.validate(config)


def test_a_config_read_back_from_json_is_as_valid_as_before():
    checks.validate(ConfigDict(checks.to_plain(quickstart.get_config())))
