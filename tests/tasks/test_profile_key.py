"""The header of a profile: whatever changes a divergence changes the header."""

import json
from dataclasses import replace

import numpy as np
import pytest

from configs import quickstart
from rfquant_jax import data
from rfquant_jax.data.embedded import digits
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.quant.quant_config import QuantConfig
from rfquant_jax.search.latency import LatencyTable
from rfquant_jax.search.snapshot import differences, stored_header
from rfquant_jax.search.variables import make_search_space
from rfquant_jax.tasks.problem import SearchProblem
from rfquant_jax.tasks.profile_key import confirmed_header, profile_header, snapshot_request
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.search_images import profile_images, split_held_out
from tests.search.landscapes import B, bitops_budgets, space_of

ORIGIN = "runs/mine/checkpoints/train/60 sha256:0123"


def header(tmp_path, **changes):
    config = quickstart.get_config()
    config.update_from_flattened_dict(changes)
    run = Run(config, tmp_path)
    images = split_held_out(config, run.data.held_out)
    return profile_header(run, ORIGIN, profile_images(config, run.pipeline, images))


def confirmed(tmp_path, images=324, origin=ORIGIN, **changes):
    config = quickstart.get_config()
    config.update_from_flattened_dict(changes)
    return confirmed_header(Run(config, tmp_path), origin, images)


def test_confirmed_accuracies_have_the_header_of_all_they_depend_on(tmp_path):
    base = confirmed(tmp_path)
    assert confirmed(tmp_path, origin=f"elsewhere/{ORIGIN}") == base == confirmed(tmp_path)
    for changes, fields in (
        ({"images": 162}, {"images.number"}),
        ({"origin": "train/60 sha256:9"}, {"checkpoint"}),
        ({"evaluate.augment": True}, {"recalibration.augment"}),
        ({"evaluate.batch_size": 8}, {"recalibration.batch_size"}),
        ({"evaluate.recalibration_images": 8}, {"recalibration.images"}),
        ({"data.split_seed": 1}, {"images.split_seed"}),
        ({"seed": 1}, {"images.seed"}),
        ({"precision": "bfloat16"}, {"precision"}),
        ({"quant.candidates": (6, 4, 3)}, {"candidates"}),
    ):
        assert set(differences(base, confirmed(tmp_path, **changes))) == fields


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return header(tmp_path_factory.mktemp("base"))


def test_the_same_run_has_the_same_header_and_reads_it_back(tmp_path, base):
    assert header(tmp_path) == base
    (tmp_path / "p.jsonl").write_text(json.dumps(base) + "\n{}\n")
    assert stored_header(tmp_path / "p.jsonl") == base
    assert base["checkpoint"] == "0123"
    # 1,297 training images: a quarter is held out, each half of it in 5 views at most 2,000.
    assert (base["images"]["batches"], base["images"]["batch_size"]) == (1, 810)


# The images keep their pixels where only `mean` or `std` change.
@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"search.views": 3}, {"views", "batch_size", "sha256"}),
        ({"search.images": 400}, {"limit", "batch_size", "sha256"}),
        ({"data.crop_padding": 2}, {"other_views.pixels", "sha256"}),
        ({"data.flip": True}, {"other_views.flip", "sha256"}),
        ({"data.mean": (0.3,)}, {"mean"}),
        ({"data.std": (0.4,)}, {"std"}),
        ({"data.split_seed": 1}, {"split_seed", "sha256"}),
        ({"seed": 1}, {"seed", "sha256"}),
    ],
)
def test_other_images_make_another_header(tmp_path, base, changes, fields):
    found = header(tmp_path, **changes)
    assert set(differences(base, found)) == {f"images.{name}" for name in fields}


def test_another_size_of_the_images_makes_another_header(tmp_path, base):
    found = header(tmp_path, **{"data.image_size": 16, "data.interpolation": "bicubic"})
    names = differences(base, found)
    assert {"images.first_view.size", "images.first_view.interpolation"} <= set(names)
    assert "images.sha256" in names


def test_held_out_test_images_make_another_header(tmp_path, base, monkeypatch):
    def no_test_images(settings):
        """The search's images stay the same, so that only the field differs."""
        return replace(digits(settings), val_fraction=settings.val_fraction)

    monkeypatch.setitem(data.SOURCES, "digits", no_test_images)
    found = header(tmp_path, **{"data.val_fraction": 0.25})
    assert differences(base, found) == ["images.val_fraction"]


def test_one_other_pixel_makes_another_header(tmp_path, base):
    run = Run(quickstart.get_config(), tmp_path)
    images = split_held_out(run.config, run.data.held_out)
    sets = profile_images(run.config, run.pipeline, images)
    image = np.array(sets[0]["image"])
    image[3, 2, 1] ^= 1
    sets[0]["image"] = image
    assert differences(base, profile_header(run, ORIGIN, sets)) == ["images.sha256"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "1", None])
def test_what_is_not_a_header_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "p.jsonl").write_text(text)
    assert stored_header(tmp_path / "p.jsonl") is None


SEARCH_SPACE = make_search_space(space_of(2))


def request(
    *, budgets=(60.0, 34.0), search_space=SEARCH_SPACE, latencies=None, origin="o", **fields
):
    config = quickstart.get_config()
    config.update_from_flattened_dict(fields)
    plan = QuantizationPlan(QuantConfig(candidates=B), (), search_space.space)
    problem = SearchProblem(plan, search_space, bitops_budgets(2, *budgets), latencies)
    return snapshot_request(config, origin, problem)


def latencies(milliseconds):
    return LatencyTable(np.full((2, 5, 5), milliseconds), 0.0, B)


@pytest.mark.parametrize(
    "change",
    [
        {"search.profile": 31},
        {"search.evaluations": 12},
        {"seed": 1},
        {"origin": "another"},
        {"budgets": (60.0,)},
        {"search_space": make_search_space(space_of(2), pins=[("l0", (4, 4))])},
        {"search_space": make_search_space(space_of(2), groups=[("both", "l*")])},
        {"search_space": make_search_space(space_of(2), min_bits=3)},
        {"search_space": make_search_space(space_of(2), same_bits=["l1"])},
        {"latencies": latencies(2.0)},
        {"latencies": None},
    ],
)
def test_a_request_is_all_that_a_result_depends_on(change):
    asked = {"latencies": latencies(1.0)}
    assert request(**asked) == json.loads(json.dumps(request(**asked)))
    assert request(**asked | change) != request(**asked)
