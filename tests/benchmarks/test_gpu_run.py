"""The script for a GPU: failures, skipped parts, time limits, and the commands that it runs."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from benchmarks import gpu_run
from benchmarks.gpu_parts import Command, parts
from benchmarks.timing import union

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Benchmarks that end in different ways, in a package of their own."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    texts = {
        "good": "import sys, pathlib; print('fine', *sys.argv[2:]); "
        "pathlib.Path(sys.argv[1].split('=')[1]).write_text('{\"rows\": [1.5]}')",
        "bad": "print('begun'); raise SystemExit('too small\\nbatch: must be 2')",
        "silent": "print('no numbers')",
        "slow": "import time; time.sleep(60)",
    }
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(gpu_run, "ROOT", tmp_path)
    return tmp_path


def run(scripts, chosen, seconds=60.0):
    failed = gpu_run.run_parts(chosen, scripts, time.monotonic() + seconds)
    return failed, json.loads((scripts / "gpu_run.json").read_text())["parts"]


def test_a_failed_part_is_one_line_and_the_next_one_runs(scripts, capsys):
    chosen = {
        "first": [Command("bad", ())],
        "second": [Command("good", ("--size=3",)), Command("good", (), needs="no_such_package")],
    }
    failed, results = run(scripts, chosen)
    assert failed == ["first"]
    [bad], [good, skipped] = results["first"], results["second"]
    assert (bad["outcome"], bad["reason"]) == ("failed", "exit code 1: batch: must be 2")
    assert (good["outcome"], good["printed"]) == ("done", "fine --size=3\n")
    assert good["numbers"] == {"rows": [1.5]}
    assert skipped["reason"] == "no_such_package is not installed"
    printed = capsys.readouterr().out
    assert "FAILED bad: exit code 1: batch: must be 2" in printed
    assert "SKIPPED good : no_such_package" in printed.replace("good:", "good :")


@pytest.mark.parametrize("module", ["bad", "good"])
def test_the_script_fails_in_the_end_if_a_part_has_failed(scripts, module, monkeypatch):
    chosen = {"first": [Command(module, ())], "second": [Command("good", ())]}
    monkeypatch.setattr(gpu_run, "parts", lambda folder, **_: chosen)
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(folder=str(scripts)):
        if module == "good":
            gpu_run.main([])
        else:
            with pytest.raises(SystemExit, match=r"^failed: first$"):  # a text: exit status 1
                gpu_run.main([])
    results = json.loads((scripts / "gpu_run.json").read_text())["parts"]
    assert results["second"][0]["outcome"] == "done"


def test_a_benchmark_without_numbers_has_failed(scripts):
    failed, results = run(scripts, {"one": [Command("silent", ())], "two": [Command("good", ())]})
    assert failed == ["one"]
    assert results["one"][0]["reason"].startswith("no numbers: ")
    assert results["two"][0]["outcome"] == "done"


def test_networks_can_be_chosen(tmp_path):
    chosen = parts(tmp_path, small=False, chosen=["resnet18"])
    of = [c for name in ("steps", "peer", "idle") for c in chosen[name]]
    assert [c.arguments[0] for c in of] == ["--network=resnet18"] * 3
    assert {c.needs for c in chosen["peer"]} == {"torch"}


def test_time_is_limited(scripts):
    chosen = {"one": [Command("slow", (), has_out=False)], "two": [Command("good", ())]}
    failed, results = run(scripts, chosen, seconds=1.0)
    assert failed == ["one", "two"]
    assert results["one"][0]["reason"] == "no answer after 1 s"
    assert results["two"][0]["reason"] == "no time is left"


def test_the_cost_of_determinism_is_that_of_the_same_step():
    def timed(network, **medians):
        rows = [{"step": step, "median_s": median} for step, median in medians.items()]
        return {"numbers": {"asked": {"network": network}, "rows": rows}}

    results = {
        "train_step": [
            timed("resnet18", plain=1.0, coupled=4.0),
            {"outcome": "failed"},
            timed("resnet18", plain=3.0),  # once more, beside PyTorch
        ],
        "deterministic": [timed("resnet18", plain=1.5, coupled=5.0), timed("other", plain=1.0)],
    }
    found = gpu_run.cost_of_determinism(results)
    assert found == {"resnet18 plain": 1.5, "resnet18 coupled": 1.25}
    assert gpu_run.cost_of_determinism({}) == {}


def flags_of(module):
    command = [sys.executable, "-m", f"benchmarks.{module}", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    return set(re.findall(r"^  --(?:\[no\])?(\w+):", told, re.MULTILINE))


def test_the_flags_of_all_commands_exist(tmp_path):
    asked = {}
    for small in (False, True):
        for command in (c for part in parts(tmp_path, small=small).values() for c in part):
            known = command.arguments[: (*command.arguments, "--").index("--")]
            names = {word.split("=")[0].removeprefix("--") for word in known}
            asked.setdefault(command.module, set()).update(names)
            asked[command.module] |= {"out"} if command.has_out else set()
    assert asked["train_step"] >= {"network", "precision", "deterministic", "peer"}
    for module, names in asked.items():
        assert names <= flags_of(module), module


def test_the_length_of_overlapping_intervals():
    assert union([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.0)]) == 4.0
    assert union([]) == 0.0
