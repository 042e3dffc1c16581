"""The package as others install it: its wheel, its requirements, what importing it costs."""

import ast
import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import rfquant_jax
from tests.quick_to_compile import environment
from tests.test_readme import program

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OPTIONAL = ("onnx", "onnxruntime", "matplotlib", "tensorboardX", "tensorflow_datasets")
HEAVY = {*OPTIONAL, "cv2", "sklearn", "tensorflow"}
SHRUNK = [
    "--config.devices=1",
    "--config.pretrain.epochs=1",
    "--config.pretrain.warmup_epochs=0",
    "--config.train.epochs=2",
    "--config.optimizer.warmup_epochs=1",
    "--config.losses.damping_start_epoch=1",
    "--config.quant.calibration_batches=1",
]


def requirements(name):
    """The requirements that a file itself lists."""
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r "))]


def test_the_requirements_are_those_of_the_package_and_its_extras():
    used = [*PROJECT["dependencies"], *EXTRAS["onnx"], *EXTRAS["plots"], *EXTRAS["tfds"]]
    assert len(set(used)) == len(used)
    assert sorted(requirements("requirements.txt")) == sorted(used)


def test_the_requirements_of_the_tests_are_those_of_the_extra_for_developers():
    assert EXTRAS["dev"][0] == "rfquant-jax[onnx,plots,tfds]"
    assert sorted(requirements("tests/requirements.txt")) == sorted(EXTRAS["dev"][1:])
    assert "-r ../requirements.txt" in (ROOT / "tests/requirements.txt").read_text()


def test_the_version_is_that_of_the_changelog_and_the_citation():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    assert rfquant_jax.__version__ == newest == cited


def imported(path):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_the_package_does_not_import_recipes_tests_or_benchmarks():
    for path in (ROOT / "rfquant_jax").rglob("*.py"):
        tops = {module.partition(".")[0] for module in imported(path)}
        assert not tops & {"configs", "tests", "benchmarks"}, path


def test_only_tasks_and_config_know_configs():
    """The library proper runs without recipes, workdirs and the command line."""
    own = {"config", "tasks"}
    for path in (ROOT / "rfquant_jax").glob("*/**/*.py"):
        if path.relative_to(ROOT / "rfquant_jax").parts[0] not in own:
            modules = set(imported(path))
            assert "ml_collections" not in {m.partition(".")[0] for m in modules}, path
            used = {m.split(".")[1] for m in modules if m.startswith("rfquant_jax.")}
            assert not used & own, path


def test_the_top_level_holds_three_files():
    files = {p.name for p in (ROOT / "rfquant_jax").iterdir() if p.is_file()}
    assert files == {"__init__.py", "errors.py", "py.typed"}


def python(code, **options):
    """Runs a program in a fresh process; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


TOP_LEVEL = "print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def test_importing_the_package_imports_no_library():
    loaded = set(python(f"import sys, rfquant_jax; {TOP_LEVEL}").split())
    assert "rfquant_jax" in loaded
    assert not loaded & (HEAVY | {"jax", "numpy", "flax", "ml_collections", "absl"})


@pytest.mark.parametrize("recipe", ["configs/quickstart.py", "configs/cifar10_resnet20.py"])
def test_the_task_cost_loads_no_heavy_library(recipe, tmp_path):
    code = f"""
import sys
from rfquant_jax.tasks import command_line

sys.argv = ["launch.py", "--config={recipe}", "--config.tasks=cost", "--workdir={tmp_path}/new"]
try:
    command_line.run()
except SystemExit as done:
    assert not done.code
{TOP_LEVEL}
"""
    *table, loaded = python(code).splitlines()
    assert any(line.startswith("w4a4 ") for line in table)
    assert "jax" in loaded.split()
    assert not set(loaded.split()) & HEAVY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Without the build backend at hand, pip installs it into an environment of its own.
    at_hand = ["--no-build-isolation"] if find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", *at_hand, "-w", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment that has the wheel, and its dependencies from the one the tests run in."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    known = [path for path in sys.path if "-packages" in path]
    (packages / "dependencies.pth").write_text("\n".join(known) + "\n")
    executable = str(folder / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", executable, "install", "--no-deps", wheel]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.fixture
def run(installed, tmp_path):
    """Runs a command of the environment in a folder that has nothing to do with the checkout."""
    inherited = environment(devices=1)
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        inherited.pop(name, None)

    def run(name, *arguments):
        done = subprocess.run(
            [installed / name, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=inherited,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    version = rfquant_jax.__version__
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "rfquant_jax").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"rfquant_jax/py.typed", "rfquant_jax/search/__init__.py"} <= package
    assert {name for name in names if name.startswith("rfquant_jax/")} == package | {
        "rfquant_jax/config/quickstart.py"
    }
    assert {name.partition("/")[0] for name in names} == {
        "rfquant_jax",
        f"rfquant_jax-{version}.dist-info",
    }
    folders = {Path(name).parent for name in package}
    assert all(str(folder / "__init__.py") in package for folder in folders)


def test_the_wheel_states_its_requirements_and_its_extras(wheel):
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith("METADATA")]
    lines = archive.read(name).decode().splitlines()
    assert f"Version: {rfquant_jax.__version__}" in lines
    needed = [line for line in lines if line.startswith("Requires-Dist: ") and ";" not in line]
    assert len(needed) == len(PROJECT["dependencies"])
    extras = [line.split()[1] for line in lines if line.startswith("Provides-Extra: ")]
    assert set(extras) == set(EXTRAS)


def test_the_installed_package_is_the_wheels(run, installed):
    code = "import rfquant_jax; print(rfquant_jax.__file__, rfquant_jax.__version__)"
    path, version = run("python", "-c", code).split()
    assert Path(path).is_relative_to(installed.parent)
    assert version == rfquant_jax.__version__


def test_the_command_speaks_of_itself_and_runs_the_quickstart_without_a_recipe(run):
    said = run("rfquant", "--help")
    assert "\n  rfquant --config.tasks=cost" in said
    assert "launch.py" not in said
    assert "--config.train.epochs=100" in said  # the quickstart's
    assert "peak learning rate of SGD" in said
    costs = run("rfquant", "--config.tasks=cost", "--config.configuration=w4a4")
    assert re.search(r"^w4a4 +0\.00237978 ", costs, re.MULTILINE)  # by hand in tests/launch


def test_a_recipe_of_the_checkout_is_run_by_its_path(run):
    recipe = ROOT / "configs" / "eval" / "mobilenetv2.py"  # it imports another recipe
    costs = run(
        "rfquant",
        f"--config={recipe}",
        "--config.tasks=cost",
        "--config.configuration=w4a4",
        "--config.checkpoint=",
    )
    reference = json.loads((ROOT / "tests" / "models" / "reference_costs.json").read_text())
    bitops, size = reference["mobilenetv2"]["uniform"]["4,4"]
    [row] = re.findall(r"^w4a4 +(\S+) +(\S+)$", costs, re.MULTILINE)
    np.testing.assert_allclose(np.float64(row), [bitops, size], rtol=1e-5)


WITHOUT_EXTRAS = f"""
import sys

sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # as if they were not installed
sys.argv[0] = "rfquant"
from rfquant_jax.tasks.command_line import run

run()
"""


def test_a_recipe_of_ones_own_runs_with_and_without_the_extras(run, tmp_path):
    (tmp_path / "my_recipe.py").write_text(program("docs/own_network.md", "recipe"))
    costs = run("rfquant", "--config=my_recipe.py", "--config.tasks=cost")
    # By hand: stem 32x32 outputs, conv 16x16, classifier; fixed layers at 8 bits.
    fixed = 64 * (32 * 32 * 9 * 3 * 24 + 24 * 4)
    expected = (16 * 16 * 16 * 9 * 24 * 24 + fixed) / 1e9
    row = re.search(r"^w4a4 +(\S+)", costs, re.MULTILINE)
    np.testing.assert_allclose(float(row[1]), expected, rtol=1e-5)
    said = run("rfquant", "--config=my_recipe.py", *SHRUNK)
    # 0.004 MB leave at most 5 bits for the convolution's weights: 6 would be 0.0044 MB.
    row = re.search(r"^0\.004MB +\S+ +(\S+)", said, re.MULTILINE)
    weights, fixed = 9 * 24 * 24, 8 * (9 * 3 * 24 + 24 * 4)
    sizes = [(fixed + bits * weights) / 8 / 2**20 for bits in (5, 4, 3, 2)]
    assert min(abs(float(row[1]) / size - 1) for size in sizes) < 1e-5
    folder = tmp_path / "runs" / "my_recipe"
    results = json.loads((folder / "results.json").read_text())
    assert "searched" in {row["kind"] for row in results["rows"]}
    assert re.search(r"^  rfquant --config=my_recipe.py .* --config.tasks=export ", said, re.M)
    for name in ("bits.png", "frontier.png", "sensitivity.png", "report.html", "tensorboard"):
        assert (folder / name).exists(), name

    bare = ["--workdir=runs/bare", f"--config.checkpoint={folder}"]
    tasks = ["--config.tasks=search,evaluate,export", "--config.export.formats=('integer','c')"]
    said = run("python", "-c", WITHOUT_EXTRAS, "--config=my_recipe.py", *SHRUNK, *bare, *tasks)
    assert "no plots: matplotlib is not installed: pip install 'rfquant-jax[plots]'" in said
    assert "no report: matplotlib is not installed" in said
    again = json.loads((tmp_path / "runs" / "bare" / "results.json").read_text())
    assert again["rows"] == results["rows"]
    assert not list((tmp_path / "runs" / "bare").glob("*.png"))
    exported = {path.suffix for path in (tmp_path / "runs" / "bare" / "export").iterdir()}
    assert exported == {".safetensors", ".c", ".h"}
