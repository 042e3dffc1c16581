"""The task `export` from the command line."""

import json
import re

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from ml_collections import ConfigDict

from rfquant_jax import tasks
from rfquant_jax.errors import UserError
from rfquant_jax.export.formats import integer_reader, stablehlo
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.verify import run_c, runners, verify
from rfquant_jax.tasks import export_report
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.verification import VerificationImages
from tests.conftest import pipeline
from tests.launch.conftest import SHRUNK, assert_one_line, read

FORMATS = ("integer", "onnx", "onnx_small", "onnx_fast", "stablehlo", "c")


@pytest.fixture(scope="session")
def exported(launch, finished, tmp_path_factory):
    """The workdir and the output of an export of all winners of another run."""
    workdir = tmp_path_factory.mktemp("exports") / "winners"
    arguments = ["--config.tasks=export", f"--config.checkpoint={finished[0]}"]
    done = launch(*SHRUNK, *arguments, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_all_winners_are_exported_in_every_format_and_verified(exported, finished):
    workdir, output = exported
    content = read(workdir / "export.json")
    assert content["configurations"].keys() == {"1.05xw4a4", "1.05xw2a2"}
    for name, found in content["configurations"].items():
        winner = read(finished[0] / "search" / f"{name}.json")
        assert found["layers"] == winner["layers"]
        predicted = winner["size_mb"] * 2**20
        assert predicted <= found["kernel_bytes"] < predicted + 10  # there are ten kernels
        assert found["evaluation"]["images"] == 324
        assert found["verified"] is True
        assert found["float64_difference"] < 1e-9
        assert found["activation_bytes"] == read(finished[0] / "results.json")["activation_bytes"]
        assert found["formats"]["onnx_fast"]["differing_codes"]["different"] == 0
        assert found["formats"]["onnx_fast"]["differing_codes"]["total"] > 1e5
        for kind in FORMATS:
            row = found["formats"][kind]
            assert (workdir / row["file"]).stat().st_size == row["bytes"]
            assert row["ratio"] == round(content["float32_bytes"] / row["bytes"], 2)
            assert row["equal_percent"] >= 99.9
            assert f"{name} {kind} " in output
        assert found["formats"]["integer"]["bytes"] < found["formats"]["onnx"]["bytes"]
        for precision, limit in (("float64", 0), ("float32", 1)):
            counts = found["differing_codes"][precision].values()
            assert sum(c["different"] for c in counts) <= limit
            assert sum(c["total"] for c in counts) > 1e5
    files = {path.name for path in (workdir / "export").iterdir()}
    suffixes = (".safetensors", ".onnx", ".small.onnx", ".fast.onnx", ".c", ".h")
    suffixes += (".stablehlo", ".stablehlo.json")
    assert files == {n + s for n in content["configurations"] for s in suffixes} | {
        "bundle.safetensors"
    }
    assert "bundle" in output


def test_the_files_are_what_their_formats_say(exported, finished):
    workdir, _ = exported
    bundle = integer_reader.read(workdir / "export" / "bundle.safetensors")
    for name in ("1.05xw4a4", "1.05xw2a2"):
        path = workdir / "export" / name
        alone = integer_reader.read(path.with_name(f"{name}.safetensors")).model()
        assert bundle.model(name).equals(alone)
        assert alone.about["mean"] == [0.31]
        assert alone.about["classes"] == [str(digit) for digit in range(10)]
        assert alone.about["configuration"] == name
        assert alone.about["accuracy"]["images"] == 324
        assert "sha256:" in alone.about["checkpoint"]
        for suffix in (".onnx", ".small.onnx", ".fast.onnx"):
            held = {p.key: p.value for p in onnx.load(f"{path}{suffix}").metadata_props}
            assert json.loads(held["layers"]) == alone.about["layers"]
        assert json.loads(path.with_name(f"{name}.stablehlo.json").read_text()) == alone.about
        program = run_c.load(path.with_name(f"{name}.c"))
        x = np.random.default_rng(0).uniform(-0.8, 1.8, (20, 8, 8, 1)).astype(np.float32)
        np.testing.assert_array_equal(program(x), runtime.run(alone, x))
        onnx.checker.check_model(str(path.with_name(f"{name}.onnx")), full_check=True)
        artifact = stablehlo.read(path.with_name(f"{name}.stablehlo"))
        assert artifact.platforms == ("cpu", "cuda")
        assert artifact.call(np.zeros((3, 8, 8, 1), np.float32)).shape == (3, 10)


def test_the_compute_type_changes_nothing_of_what_is_exported(launch, exported, finished, tmp_path):
    arguments = ["--config.tasks=export", f"--config.checkpoint={finished[0]}"]
    arguments += ["--config.precision=bfloat16", "--config.export.formats=integer"]
    arguments += ["--config.export.images=16", "--config.export.code_images=16"]
    done = launch(*SHRUNK, *arguments, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    configurations = read(tmp_path / "export.json")["configurations"]
    assert len(configurations) == 2
    for written in configurations.values():
        assert written["verified"] is True
        file = written["formats"]["integer"]["file"]
        one, other = (integer_reader.read(w / file).model() for w in (tmp_path, exported[0]))
        assert one.equals(other)


def test_models_are_verified_on_images_of_every_class():
    """Files lie class by class: the first ones would be of a few classes only."""
    held_out = [
        {"image": np.full((2, 2, 1), i, np.uint8), "label": np.int32(i // 20)} for i in range(200)
    ]
    images = VerificationImages(held_out, pipeline(), lambda x: x, 128)
    found = {}
    for limit in (60, 20, 1000):
        batches = list(images(limit))
        assert max(len(batch["label"]) for batch in batches) <= 16
        labels = np.concatenate([batch["label"] for batch in batches])
        pixels = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
        found[limit] = pixels[labels != -1].astype(int).tolist()
        assert len(set(found[limit])) == min(limit, 200)
        assert len(set(labels[labels != -1].tolist())) > 7
    assert set(found[20]) < set(found[60])


def test_one_configuration_in_the_formats_asked_for(launch, finished):
    """In the run's own folder, which stays that run's."""
    workdir = finished[0]
    arguments = ["--config.tasks=export", "--config.configuration=w3a5"]
    done = launch(*SHRUNK, *arguments, "--config.export.formats=onnx", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    found = read(workdir / "export.json")
    assert "bundle" not in found
    assert found["configurations"].keys() == {"w3a5"}
    assert found["configurations"]["w3a5"]["formats"].keys() == {"integer", "onnx"}
    layers = found["configurations"]["w3a5"]["layers"]
    assert set(map(tuple, layers.values())) == {(3, 5)}


def test_disagreement_beyond_the_tolerance_ends_the_export(finished, tmp_path, monkeypatch):
    """With a runtime that computes something else."""
    right = runtime.finish
    monkeypatch.setattr(runtime, "finish", lambda data, sums, dtype: right(data, -sums, dtype))
    config = ConfigDict(read(finished[0] / "config.json"))
    config.tasks, config.configuration = ("export",), "w4a4"
    config.checkpoint, config.devices = str(finished[0]), 1
    config.export.formats, config.export.images = ("integer",), 100
    with pytest.raises(
        UserError,
        match=r"w4a4: the integer runtime and the evaluation disagree on .*; "
        r"config\.export\.max_unequal = 0\.001 allows 1; .*not to be used",
    ):
        tasks.perform(Run(config, tmp_path / "run"))
    content = read(tmp_path / "run" / "export.json")
    assert content["configurations"]["w4a4"]["verified"] is False
    assert content["configurations"]["w4a4"]["formats"]["integer"]["equal_percent"] < 99


def result_with(codes32=(0, 1000, 0.0), codes64=(0, 1000, 0.0), logits=0.0, **unequal):
    """What `export.json` holds of a configuration, with so many of 1,000 images unequal."""
    names = ("different", "total", "off_tie")
    rows = {}
    for kind in FORMATS:
        exact, other = unequal.get(kind, (0, 0))
        equal = {"equal_exact_percent": 100 - exact / 10, "equal_percent": 100 - other / 10}
        rows[kind] = equal | {"images": 1000}
    return {
        "formats": rows,
        "differing_codes": {
            "float32": {"a": dict(zip(names, codes32, strict=True))},
            "float64": {"a": dict(zip(names, codes64, strict=True))},
        },
        "float64_difference": logits,
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, None),
        # One image in any case, else the share that the config allows.
        ({"integer": (1, 9)}, None),
        (
            {"integer": (2, 0)},
            "integer runtime and the evaluation disagree on 2 of 1000",
        ),
        ({"onnx": (9, 5)}, None),
        ({"onnx": (0, 6)}, "onnx and the evaluation disagree .*`max_unequal_float` = .* allows 5"),
        ({"onnx_small": (0, 6)}, "onnx_small and the evaluation disagree"),
        ({"stablehlo": (0, 6)}, "stablehlo and the evaluation disagree"),
        ({"onnx_fast": (0, 6)}, "onnx_fast and the evaluation disagree"),
        ({"codes32": (1, 1000, 0.001)}, None),
        ({"codes32": (2, 1000, 0.001)}, "in float32, codes of layer a differ .*: 2 of 1000, 1 may"),
        ({"codes32": (30, 3_000_000, 0.001)}, None),
        ({"codes32": (31, 3_000_000, 0.001)}, "31 of 3000000, 30 may"),
        ({"codes32": (1, 1000, 0.02)}, "layer a differ .* more than rounding: 0.02 steps"),
        ({"codes32": (1, 1000, np.inf)}, "more than rounding: inf steps"),
        ({"codes64": (1, 3_000_000, 0.0)}, "in float64, codes of layer a differ .* 0 may"),
        ({"logits": 1e-5}, "logits differ by 1.00e-05 of the largest"),
        ({"logits": np.nan}, "logits differ by nan"),
    ],
)
def test_files_may_differ_by_rounding_alone(found, said):
    reasons = list(verify.disagreements(verify.Limits(), result_with(**found)))
    assert len(reasons) == (said is not None)
    assert not reasons or re.search(said, reasons[0])


@pytest.mark.parametrize(
    ("different", "off_tie", "said"),
    [
        (10, 0.001, None),
        (11, 0.001, "onnx_fast and the integer runtime compute different codes: 11 of 1000000, 10"),
        (1, 0.02, "by more than rounding: 0.02 steps"),
    ],
)
def test_integer_kernels_must_compute_the_same_codes(different, off_tie, said):
    result = result_with()
    found = {"different": different, "total": 1_000_000, "off_tie": off_tie}
    result["formats"]["onnx_fast"]["differing_codes"] = found
    reasons = list(verify.disagreements(verify.Limits(), result))
    assert len(reasons) == (said is not None)
    assert not reasons or said in reasons[0]


def test_a_format_without_its_runtime_is_not_verified(monkeypatch, model_paths):
    """Neither its predictions nor its codes count, and the table says so."""
    monkeypatch.setattr(run_c, "compiler", lambda: None)
    monkeypatch.setattr(runners, "_OPTIONAL", {"c": (run_c.compiler, "a C compiler (cc)")})
    assert runners.open_all(model_paths).keys() == {"integer"}
    assert runners.missing_runtime("c") == "a C compiler (cc)"
    row = verify.compared("c", None, None, None, None)
    assert row == {"not_verified": "a C compiler (cc) is not installed"}
    result = result_with()
    result["formats"]["c"] = row | {"bytes": 5, "ratio": 2.0}
    assert not list(verify.disagreements(verify.Limits(), result))
    result["evaluation"] = {}
    content = {"float32_bytes": 10, "configurations": {"w4a4": result}}
    (line,) = [one for one in export_report.export_table(content).splitlines() if "w4a4 c" in one]
    assert line.split()[2:4] == ["not", "verified"]


@pytest.fixture
def model_paths(exported):
    folder = exported[0] / "export"
    return {"integer": folder / "1.05xw2a2.safetensors", "c": folder / "1.05xw2a2.c"}


def test_one_of_few_images_may_be_a_tie():
    result = result_with()
    for row in result["formats"].values():
        row.update(images=50, equal_percent=98.0, equal_exact_percent=98.0)
    assert not list(verify.disagreements(verify.Limits(), result))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.export.formats=mlir"], "config.export.formats = ('mlir',): must be among"),
        (["--config.export.platforms=cuda"], "must include cpu"),
        ([], "has no train checkpoint"),
    ],
)
def test_mistakes_are_said_before_any_work(launch, tmp_path, arguments, said):
    done = launch("--config.tasks=export", *arguments, f"--workdir={tmp_path / 'new'}")
    assert_one_line(done, said)
    assert not (tmp_path / "new").exists()


def test_without_a_search_and_a_configuration_there_is_nothing_to_export(
    launch, finished, tmp_path
):
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "checkpoints").symlink_to(finished[0] / "checkpoints")
    arguments = ["--config.tasks=export", f"--config.checkpoint={trained}"]
    done = launch(*SHRUNK, *arguments, f"--workdir={tmp_path / 'run'}")
    assert_one_line(done, f"nor {trained}/search holds no result of the task search")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to export"),
        (["--config.configuration=bundle.json"], "must not be 'bundle'"),
    ],
)
def test_what_cannot_be_exported_is_said_before_training(
    launch, finished, tmp_path, arguments, said
):
    winner = (finished[0] / "search" / "1.05xw4a4.json").read_text()
    (tmp_path / "bundle.json").write_text(winner)
    tasks = "--config.tasks=pretrain,train,export"
    arguments = [a.replace("bundle.json", f"{tmp_path / 'bundle.json'}") for a in arguments]
    done = launch(*SHRUNK, tasks, *arguments, f"--workdir={tmp_path / 'run'}")
    assert_one_line(done, said)
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_exported_is_refused_before_training(
    finished, tmp_path, monkeypatch
):
    config = ConfigDict(read(finished[0] / "config.json"))
    config.tasks, config.configuration = ("pretrain", "train", "export"), "w4a4"
    config.devices = 1
    run = Run(config, tmp_path / "run")
    plain = type(run.network)
    right = plain.__call__
    monkeypatch.setattr(plain, "__call__", lambda self, x: jnp.sort(right(self, x)))
    with pytest.raises(UserError, match="sort"):
        tasks.check(run)


def test_winners_of_another_state_of_the_network_are_refused(launch, finished, tmp_path):
    search = tmp_path / "run" / "search"
    search.mkdir(parents=True)
    winner = read(finished[0] / "search" / "1.05xw4a4.json")
    (search / "old.json").write_text(json.dumps(winner | {"checkpoint": "checkpoints/train/1"}))
    arguments = ["--config.tasks=export", f"--config.checkpoint={finished[0]}"]
    done = launch(*SHRUNK, *arguments, f"--workdir={tmp_path / 'run'}")
    assert_one_line(done, "old were found for another state of the network")
