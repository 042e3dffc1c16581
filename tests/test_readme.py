"""What the README and the pages in docs/ tell their readers: commands, links, programs."""

import ast
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import quickstart
from rfquant_jax import data
from rfquant_jax.config import recipes
from rfquant_jax.config.fields import leaves
from rfquant_jax.data import embedded
from rfquant_jax.quant.space import ACTIVATIONS
from rfquant_jax.tasks import evaluate
from rfquant_jax.tasks.run import Run
from tests.quick_to_compile import environment

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
}
GET_QUICKSTART = quickstart.get_config


def program(page, name):
    """The Python program between two marks of a page."""
    block = PAGES[page].split(f"<!-- python {name} -->")[1].split("<!-- end -->")[0]
    return re.search(r"```python\n(.*?)```", block, re.DOTALL)[1]


def commands(start):
    """The command lines of all pages that begin like this, continued lines joined, each once."""
    found = {}
    for text in PAGES.values():
        joined = text.replace("\\\n", " ")
        for line in re.findall(rf"^    ({start}.*)$", joined, re.MULTILINE):
            words = shlex.split(line)
            found[tuple(words[words.index("python") :])] = None
    return [list(words) for words in found]


LAUNCHES = commands("python launch.py") + commands("srun")


def shrunk():
    config = GET_QUICKSTART()
    config.devices = 1
    config.pretrain.epochs, config.train.epochs, config.train.eval_every = 1, 1, 1
    config.pretrain.warmup_epochs = config.optimizer.warmup_epochs = 0
    config.losses.damping_start_epoch = 0
    config.quant.calibration_batches = 1
    config.search.profile, config.search.evaluations, config.search.frontier_points = 30, 10, 2
    return config


class CountingSource:
    """A source that counts how many records were read."""

    def __init__(self, source):
        self.source, self.reads, self._lock = source, 0, threading.Lock()

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        with self._lock:  # batches are prepared in several threads
            self.reads += 1
        return self.source[index]


@pytest.fixture
def image_reads(monkeypatch):
    """How many test images had been read when the final evaluation began, and at its end."""
    opened, reads, measured = [], [], evaluate.evaluate

    def counted(*arguments):
        loaded = embedded.digits(*arguments)
        opened.append(CountingSource(loaded.test))
        return replace(loaded, test=opened[-1])

    def final(run):
        reads.append(sum(source.reads for source in opened))
        results = measured(run)
        reads.append(sum(source.reads for source in opened))
        return results

    monkeypatch.setitem(data.SOURCES, "digits", counted)
    monkeypatch.setattr(evaluate, "evaluate", final)
    return reads


# By hand, from the stages (expansion, channels, blocks) = (1, 8, 1), (4, 12, 2), (4, 20, 2) of the
# quickstart's network, behind a stem of 16 channels: weights of every searched kernel.
KERNELS = {
    "features.1.conv.0": 9 * 16,
    "features.1.conv.3": 16 * 8,
    "features.2.conv.0": 8 * 32,
    "features.2.conv.3": 9 * 32,
    "features.2.conv.6": 32 * 12,
    "features.3.conv.0": 12 * 48,
    "features.3.conv.3": 9 * 48,
    "features.3.conv.6": 48 * 12,
    "features.4.conv.0": 12 * 48,
    "features.4.conv.3": 9 * 48,
    "features.4.conv.6": 48 * 20,
    "features.5.conv.0": 20 * 80,
    "features.5.conv.3": 9 * 80,
    "features.5.conv.6": 80 * 20,
    "features.6.0": 20 * 96,
}
DEPTHWISE = {"features.1.conv.0", *(f"features.{block}.conv.3" for block in range(2, 6))}
FIXED = 8 * (9 * 16 + 96 * 10)  # bits of the stem and the classifier


TASKS = """
from configs import quickstart
from rfquant_jax import tasks
from rfquant_jax.tasks import evaluate, search, train
from rfquant_jax.tasks.run import Run

config = quickstart.get_config()
config.search.budgets = "1.05*w3a3,5KB"
run = Run(config, "runs/from_python")
tasks.check(run)
train.pretrain(run)
train.train(run)
for found in search.search(run):
    print(found["budget"], found["bitops_g"], found["layers"])
print(evaluate.evaluate(run)["rows"])
run.close()
"""


def test_the_tasks_of_a_recipe_run_one_by_one(tmp_path, monkeypatch, capsys, image_reads):
    monkeypatch.setattr(quickstart, "get_config", shrunk)
    monkeypatch.chdir(tmp_path)
    exec(TASKS, {})
    folder = tmp_path / "runs" / "from_python"
    # Nothing before the final evaluation has seen a test image: neither the choice of checkpoints
    # nor recalibration nor the search. It reads each of the 500 once for every network.
    log = (folder / "log.txt").read_text()
    networks = 1 + int(re.search(r"evaluate: (\d+) configurations in", log)[1])
    assert image_reads == [0, 500 * networks]
    assert networks >= 3  # full precision, a uniform and a searched configuration
    output = capsys.readouterr().out
    printed = dict(re.findall(r"^(\S+) 0\.\d+ (\{'features.*\})$", output, re.MULTILINE))
    assert list(printed) == ["5KB", "1.05*w3a3"]  # the loosest first: 1.9 and 2.7 times at 6 bits
    layers = ast.literal_eval(printed["5KB"])
    assert list(layers) == list(KERNELS)
    for name, (weight_bits, activation_bits) in layers.items():
        fewest = 3 if name in DEPTHWISE else 2
        assert {weight_bits, activation_bits} <= set(range(fewest, 7)), name
    bits = FIXED + sum(layers[name][0] * weights for name, weights in KERNELS.items())
    assert bits <= 8 * 5 * 1024
    rows = ast.literal_eval(re.search(r"^\[\{'kind'.*\]$", output, re.MULTILINE)[0])
    searched = [row for row in rows if row["kind"] == "searched"]
    assert [row["name"] for row in searched] == ["5KB", "1.05*w3a3"]
    assert searched[0]["size_mb"] == bits / 8 / 2**20
    assert (folder / "results.json").exists()


def run_alone(text, folder):
    """What a program prints that runs in another folder, on one device."""
    return subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(devices=1) | {"PYTHONPATH": str(ROOT)},
    )


# By hand, of cifar_resnet8 with 8, 16 and 32 channels on 8x8 images: places of each output, and
# weights of each kernel. The stem and the classifier have 8 bits.
RESNET8 = {
    "layer1.0.conv1": (64, 9 * 8 * 8),
    "layer1.0.conv2": (64, 9 * 8 * 8),
    "layer2.0.conv1": (16, 9 * 8 * 16),
    "layer2.0.conv2": (16, 9 * 16 * 16),
    "layer3.0.conv1": (4, 9 * 16 * 32),
    "layer3.0.conv2": (4, 9 * 32 * 32),
}


def test_the_chain_in_python_runs(tmp_path):
    done = run_alone(program("README.md", "chain"), tmp_path)
    assert done.returncode == 0, done.stderr
    printed = re.findall(r"^(\S+) (\{.*?\}) (\S+) % (\{.*\})$", done.stdout, re.MULTILINE)
    assert [budget for budget, *_ in printed] == ["0.8*w4a4", "7KB"]
    weights = sum(kernel for _, kernel in RESNET8.values())
    fixed = 8 * (9 * 8 + 32 * 10)
    operations = 64 * (64 * 9 * 8 + 32 * 10)
    at_4 = operations + sum(16 * places * kernel for places, kernel in RESNET8.values())
    for budget, costs, top1, layers in printed:
        costs, layers = ast.literal_eval(costs), ast.literal_eval(layers)
        assert list(layers) == list(RESNET8)
        bitops = operations + sum(
            w * a * RESNET8[name][0] * RESNET8[name][1] for name, (w, a) in layers.items()
        )
        bits = fixed + sum(w * RESNET8[name][1] for name, (w, _) in layers.items())
        assert costs["bitops_g"] == bitops / 1e9
        assert costs["size_mb"] == bits / 8 / 2**20
        if budget == "7KB":
            assert bits <= 7 * 8 * 1024
        else:
            assert bitops <= 0.8 * at_4
        assert float(top1) > 70
    assert weights * 2 + fixed < 7 * 8 * 1024 < weights * 6 + fixed  # within reach, and binding
    files = sorted(file.name for file in (tmp_path / "runs" / "digits").iterdir())
    assert files == ["model_0.8xw4a4.onnx", "model_7KB.onnx", "profile.jsonl"]


def test_ones_own_training_loop_runs(tmp_path):
    done = run_alone(program("docs/own_network.md", "loop"), tmp_path)
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^\d \[[^\]]*\] (\[\[\[.*)$", done.stdout, re.MULTILINE)
    assert len(steps) == 8
    passes = np.asarray([ast.literal_eval(step) for step in steps])
    assert passes.shape == (8, 2, 2, 2)
    assert set(passes[:, :, 0].ravel()) <= {6, 4, 2}
    assert set(passes[:, :, 1].ravel()) <= {6, 4}


def recipe_of(command):
    """The file that a command names, or the quickstart where it is the reader's own."""
    given = [word.split("=")[1] for word in command if word.startswith("--config=")]
    name = given[0] if given and given[0] != "my_recipe.py" else "configs/quickstart.py"
    return ROOT / name


def check_fields(command):
    recipes.check_overrides(recipes.load(recipe_of(command)), command)


@pytest.mark.parametrize("command", LAUNCHES, ids=" ".join)
def test_the_fields_of_every_command_exist(command):
    check_fields(command)
    unknown = {word.split("=")[0] for word in command[2:]} - {"--workdir", "--config"}
    assert all(name.startswith("--config.") for name in unknown)


SEARCHES = [
    command
    for command in LAUNCHES
    if recipe_of(command).name == "quickstart.py" and any("search." in word for word in command)
]


def run_of(command, workdir):
    """The run of the quickstart that a command starts."""
    values, config = flags.FlagValues(), GET_QUICKSTART()
    words = [word for word in command[1:] if not word.startswith(("--workdir", "--config="))]
    with patch.object(sys, "argv", words):  # there config_flags looks for overrides
        config_flags.DEFINE_config_dict("config", config, flag_values=values)
        values(words)
    return Run(config, workdir)


@pytest.mark.parametrize("command", SEARCHES, ids=" ".join)
def test_the_search_that_a_command_asks_for_fits_the_network(command, tmp_path):
    run = run_of(command, tmp_path)
    # Reading these raises an error where a pattern matches no layer or a budget is out of reach.
    assert list(run.search_space.space.names) == list(KERNELS)
    assert {budget.text for budget in run.budgets} == set(run.config.search.budgets.split(","))


def test_the_example_of_pins_and_groups_is_what_the_text_says(tmp_path):
    [command] = [c for c in SEARCHES if any("search.pins" in word for word in c)]
    search_space = run_of(command, tmp_path).search_space
    named = [
        ({search_space.space.names[i] for i in variable.layers}, variable)
        for variable in search_space.variables
    ]
    pinned = set().union(*(names for names, variable in named if variable.allowed == (4,)))
    assert pinned == {name for name in KERNELS if name.startswith("features.1.")}
    tied = [(names, variable.column) for names, variable in named if len(names) > 1]
    assert tied == [(DEPTHWISE - {"features.1.conv.0"}, ACTIVATIONS)]


@cache
def help_of(module):
    """What a benchmark says of its flags; starting one takes seconds."""
    command = [sys.executable, "-m", module, "--help"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.parametrize("command", commands("python -m benchmarks"), ids=" ".join)
def test_the_flags_of_every_benchmark_exist(command):
    fields = [word for word in command[3:] if word.startswith("--config.")]
    check_fields([word for word in command if word.startswith("--config")])
    told = help_of(command[2])
    assert told
    for word in set(command[3:]) - {*fields, "--"}:  # arguments behind it are those of runs
        name = word.split("=")[0].removeprefix("--")
        assert any(f"  --{prefix}{name}:" in told for prefix in ("", "[no]"))


def slug(heading):
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    """Those of a page's headings, outside code."""
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_resolve(page):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)\s]+)\)", PAGES[page])
    for link in [link for link in links if not re.match(r"\w+:", link)]:
        target, _, anchor = link.partition("#")
        path = (folder / target).resolve() if target else ROOT / page
        assert path.is_relative_to(ROOT), link
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path.read_text()), link


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[\w/]+\.md)\)", PAGES["README.md"]))
    assert linked == set(PAGES) - {"README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_the_fields_that_a_page_names_exist(page):
    """Every `section.field` in code quotes, where the section is one of the config's."""
    known = dict(leaves(GET_QUICKSTART()))
    sections = {name.partition(".")[0] for name in known if "." in name}
    quoted = re.findall(r"`(?:--)?(?:config\.)?(\w+\.\w+)(?:=[^`]*)?`", PAGES[page])
    files = (".py", ".json", ".jsonl", ".png", ".html", ".safetensors")
    for name in quoted:
        if name.partition(".")[0] in sections and not name.endswith(files):
            assert name in known


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/structure.md"])
def test_the_files_that_a_page_names_exist(page):
    """Paths in code quotes, from the repository's root or from the package."""
    text = (ROOT / page).read_text()
    named = re.findall(r"`((?:rfquant_jax|tests|benchmarks|docs|[a-z]+)/[\w./]+)`", text)
    assert len(named) > 15
    for name in named:
        assert any((start / name).exists() for start in (ROOT, ROOT / "rfquant_jax")), name
