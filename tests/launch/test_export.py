"""The task `export` from the command line."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from ml_collections import ConfigDict

from configs import default
from rfquant_jax import tasks
from rfquant_jax.errors import UserError
from rfquant_jax.export import reading, runtime, stablehlo
from rfquant_jax.run import Run
from rfquant_jax.tasks import export_report, exporting
from tests.conftest import pipeline
from tests.launch.conftest import SHRUNK, assert_one_line, read

FORMATS = ("integer", "onnx", "onnx_small", "stablehlo")


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
        for kind in FORMATS:
            row = found["formats"][kind]
            assert (workdir / row["file"]).stat().st_size == row["bytes"]
            assert row["equal_percent"] >= 99.9
            assert f"{name} {kind} " in output
        assert found["formats"]["integer"]["bytes"] < found["formats"]["onnx"]["bytes"]
        for precision, limit in (("float64", 0), ("float32", 1)):
            counts = found["differing_codes"][precision].values()
            assert sum(c["different"] for c in counts) <= limit
            assert sum(c["total"] for c in counts) > 1e5
    files = {path.name for path in (workdir / "export").iterdir()}
    suffixes = (".safetensors", ".onnx", ".small.onnx", ".stablehlo")
    assert files == {n + s for n in content["configurations"] for s in suffixes} | {
        "bundle.safetensors"
    }
    assert "bundle" in output


def test_the_files_are_what_their_formats_say(exported, finished):
    workdir, _ = exported
    bundle = reading.read(workdir / "export" / "bundle.safetensors")
    for name in ("1.05xw4a4", "1.05xw2a2"):
        path = workdir / "export" / name
        alone = reading.read(path.with_name(f"{name}.safetensors")).model()
        assert bundle.model(name).equals(alone)
        assert alone.about["mean"] == [0.31]
        assert alone.about["classes"] == [str(digit) for digit in range(10)]
        onnx.checker.check_model(str(path.with_name(f"{name}.onnx")), full_check=True)
        artifact = stablehlo.read(path.with_name(f"{name}.stablehlo"))
        assert artifact.platforms == ("cpu", "cuda")
        assert artifact.call(np.zeros((3, 8, 8, 1), np.float32)).shape == (3, 10)


def test_models_are_verified_on_images_of_every_class():
    """Files lie class by class: the first ones would be of a few classes only."""
    held_out = [
        {"image": np.full((2, 2, 1), i, np.uint8), "label": np.int32(i // 20)} for i in range(200)
    ]
    run = SimpleNamespace(
        data=SimpleNamespace(held_out=held_out),
        config=default.get_config(),
        preprocess=lambda x: x,
        pipeline=pipeline(),
        stop=SimpleNamespace(check=lambda: None),
    )
    found = {}
    for limit in (60, 20, 1000):
        batches = list(exporting._normalized(run, limit))
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
    with pytest.raises(UserError, match="the integer runtime predicts otherwise than the evalua"):
        tasks.perform(Run(config, tmp_path / "run"))
    content = read(tmp_path / "run" / "export.json")
    assert content["configurations"]["w4a4"]["formats"]["integer"]["equal_percent"] < 99


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"a": (2, 10_000, 0.001), "b": (0, 9_999, 0.0)}, "1.00e-04 of the codes differ"),
        ({"a": (1, 10_000, 0.02)}, "codes of layer a differ .* more than rounding: 0.02 steps"),
        ({"a": (2, 10_000, 0.001), "b": (0, 10_000, 0.0)}, None),
    ],
)
def test_codes_may_differ_by_rounding_alone(counts, said):
    names = ("different", "total", "off_tie")
    counts = {layer: dict(zip(names, found, strict=True)) for layer, found in counts.items()}
    limits = default.get_config().export
    if said is None:
        export_report.refuse_codes(limits, "here", counts)
        return
    with pytest.raises(UserError, match=said):
        export_report.refuse_codes(limits, "here", counts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.export.formats=tflite"], "config.export.formats = ('tflite',): must be among"),
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


def test_winners_of_another_state_of_the_network_are_refused(launch, finished, tmp_path):
    search = tmp_path / "run" / "search"
    search.mkdir(parents=True)
    winner = read(finished[0] / "search" / "1.05xw4a4.json")
    (search / "old.json").write_text(json.dumps(winner | {"checkpoint": "checkpoints/train/1"}))
    arguments = ["--config.tasks=export", f"--config.checkpoint={finished[0]}"]
    done = launch(*SHRUNK, *arguments, f"--workdir={tmp_path / 'run'}")
    assert_one_line(done, "old were found for another state of the network")
