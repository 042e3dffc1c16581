"""What a type checker sees of the public API: a program that is right, and one that is not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

RIGHT = """
import numpy as np
from flax import nnx

import rfquant_jax as rfq
import rfquant_jax.search.budget as budget
from rfquant_jax.export.files import SUFFIXES


def chain(net: nnx.Module, images: np.ndarray, labels: np.ndarray) -> float:
    plan: rfq.QuantizationPlan = rfq.plan(net, (8, 8, 3), rfq.QuantConfig(candidates=(4, 2)))
    coupled: rfq.CoupledNetwork = rfq.couple(net, plan, images, devices=1)
    step = rfq.CoupledStep(coupled, rfq.StepConfig(random_passes=2))
    state: rfq.TrainState = step.init()
    state, metrics = step(state, {"image": images, "label": labels}, lr=0.1)
    losses: np.ndarray = metrics.losses
    step.update_network(state)
    config = rfq.TrainConfig(epochs=1, scheduler=None, step=rfq.StepConfig())
    records: list[dict[str, float]] = rfq.Trainer(coupled, config).run((images, labels))
    rfq.set_bits(coupled, {"conv": (4, 2)})
    profile = rfq.profile(coupled, images, configurations=len(records))
    found: list[rfq.Found] = rfq.search(profile, ["0.8*w4a4", "60KB"], evaluations=6)
    accuracy: rfq.Accuracy = rfq.evaluate(coupled, found[0], (images, labels))
    files: list[rfq.ExportedFile] = rfq.export(coupled, found, "model.onnx")
    open(files[0], "rb").close()
    model = rfq.load("runs/mine", found[0].configuration)
    model(images)
    limits: budget.Budget | None = None
    return accuracy.top1_percent + found[0].costs["bitops_g"] + float(losses[0]) + len(SUFFIXES)
"""

# Each line has one mistake.
WRONG = """
import rfquant_jax as rfq
rfq.StepConfig(random_pass=2)
rfq.QuantConfig(candidates="all")
rfq.plan()
found: list[rfq.Found] = []
found[0].accuracy
rfq.search(found, "60KB")
rfq.evaluate(1, "w4a4", []).top2
rfq.quantize
"""

CONFIG = """
[mypy]
strict_optional = True
check_untyped_defs = True
ignore_missing_imports = True
follow_imports = silent
"""
# Their own types take a minute to check; what they are is not what is tested here.
SKIPPED = ("jax", "flax", "optax", "orbax", "grain", "scipy", "ml_collections", "onnx", "cv2")


def checked(program, folder):
    """The exit code of mypy, and what it says."""
    pytest.importorskip("mypy")
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in SKIPPED)
    (folder / "mypy.ini").write_text(CONFIG + skipped)
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "program.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT)},
    )
    return done.returncode, done.stdout + done.stderr


def test_a_right_program_has_no_type_errors(tmp_path):
    code, said = checked(RIGHT, tmp_path)
    assert code == 0, said


def test_every_wrong_line_is_found(tmp_path):
    code, said = checked(WRONG, tmp_path)
    assert code == 1
    lines = {int(number) for number in re.findall(r"^program\.py:(\d+): error", said, re.MULTILINE)}
    assert lines == {3, 4, 5, 7, 8, 9, 10}
