"""What the README tells its readers to type."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs import quickstart
from rfquant_jax import data, tasks
from rfquant_jax.config import recipes
from rfquant_jax.data import embedded

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def program(name):
    """The Python program between two marks."""
    block = README.split(f"<!-- python {name} -->")[1].split("<!-- end -->")[0]
    return re.search(r"```python\n(.*?)```", block, re.DOTALL)[1]


def commands(start):
    """The README's command lines that begin like this, continued lines joined."""
    text = README.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(rf"^    ({start}.*)$", text, re.MULTILINE)]


def shrunk():
    config = GET_QUICKSTART()
    config.devices, config.model.options.width = 1, 8
    config.pretrain.epochs, config.train.epochs, config.train.eval_every = 1, 1, 1
    config.pretrain.warmup_epochs = config.optimizer.warmup_epochs = 0
    config.losses.damping_start_epoch = 0
    config.quant.calibration_batches, config.search.max_iterations_per_layer = 1, 1
    return config


GET_QUICKSTART = quickstart.get_config


class CountingSource:
    """A source that counts how many records were read."""

    def __init__(self, source):
        self.source, self.reads = source, 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.reads += 1
        return self.source[index]


@pytest.fixture
def image_reads(monkeypatch):
    """How many test images had been read when the final evaluation began, and at its end."""
    opened, reads = [], []

    def counted(*arguments):
        loaded = embedded.digits(*arguments)
        opened.append(CountingSource(loaded.test))
        return replace(loaded, test=opened[-1])

    def evaluate(run):
        reads.append(sum(source.reads for source in opened))
        results = evaluate.evaluate(run)
        reads.append(sum(source.reads for source in opened))
        return results

    monkeypatch.setitem(data.SOURCES, "digits", counted)
    monkeypatch.setattr(tasks, "evaluate", evaluate)
    return reads


def test_the_chain_in_python_runs(tmp_path, monkeypatch, capsys, image_reads):
    monkeypatch.setattr(quickstart, "get_config", shrunk)
    monkeypatch.chdir(tmp_path)
    exec(program("chain"), {})
    # Nothing before the final evaluation has seen a test image: neither the choice of checkpoints
    # nor recalibration nor the search.
    before, after = image_reads
    assert before == 0
    assert after >= 2 * 500
    output = capsys.readouterr().out
    assert re.search(r"^0\.05MB 0\.\d+ \{'layer1\.0\.conv1': \[\d, \d\]", output, re.MULTILINE)
    assert "'kind': 'searched', 'name': '0.05MB'" in output
    assert (tmp_path / "runs" / "from_python" / "results.json").exists()


def test_the_recipe_of_ones_own_network_and_images_runs(tmp_path):
    recipe = tmp_path / "my_recipe.py"
    recipe.write_text(program("recipe"))
    costs, whole = (
        subprocess.run(
            [sys.executable, ROOT / "launch.py", f"--config={recipe}", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        for arguments in (
            ["--config.tasks=cost"],
            [
                "--config.devices=1",
                "--config.pretrain.epochs=1",
                "--config.pretrain.warmup_epochs=0",
                "--config.train.epochs=2",
                "--config.optimizer.warmup_epochs=1",
                "--config.losses.damping_start_epoch=1",
                "--config.quant.calibration_batches=1",
            ],
        )
    )
    assert costs.returncode == 0, costs.stderr
    # By hand: stem 32x32 outputs, conv 16x16, classifier; fixed layers at 8 bits.
    fixed = 64 * (32 * 32 * 9 * 3 * 24 + 24 * 4)
    expected = (16 * 16 * 16 * 9 * 24 * 24 + fixed) / 1e9
    row = re.search(r"^w4a4 +(\S+)", costs.stdout, re.MULTILINE)
    np.testing.assert_allclose(float(row[1]), expected, rtol=1e-5)
    assert whole.returncode == 0, whole.stderr
    assert "searched 0.004MB" in whole.stdout
    assert (tmp_path / "runs" / "my_recipe" / "results.json").exists()


def check_fields(command):
    given = [word.split("=")[1] for word in command if word.startswith("--config=")]
    recipe = given[0] if given and given[0] != "my_recipe.py" else "configs/quickstart.py"
    recipes.check_overrides(recipes.load(ROOT / recipe), command)


ON_A_CLUSTER = [command[command.index("python") :] for command in commands("srun")]


@pytest.mark.parametrize("command", commands("python launch.py") + ON_A_CLUSTER, ids=" ".join)
def test_the_fields_of_every_command_exist(command):
    check_fields(command)
    unknown = {word.split("=")[0] for word in command[2:]} - {"--workdir", "--config"}
    assert all(name.startswith("--config.") for name in unknown)


@pytest.mark.parametrize("command", commands("python -m benchmarks"), ids=" ".join)
def test_the_flags_of_every_benchmark_exist(command):
    done = subprocess.run(
        [sys.executable, *command[1:3], "--help"], capture_output=True, text=True, cwd=ROOT
    )
    fields = [word for word in command[3:] if word.startswith("--config.")]
    check_fields([word for word in command if word.startswith("--config")])
    for word in set(command[3:]) - set(fields):
        name = word.split("=")[0].removeprefix("--")
        assert any(f"  --{prefix}{name}:" in done.stdout for prefix in ("", "[no]"))
