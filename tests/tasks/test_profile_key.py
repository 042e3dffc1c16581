"""The header of a profile: whatever changes a divergence changes the header."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from configs import quickstart
from rfquant_jax import data
from rfquant_jax.data.embedded import digits
from rfquant_jax.tasks.confirm import search_images
from rfquant_jax.tasks.profile import profile_images
from rfquant_jax.tasks.profile_key import differences, profile_header, stored_header
from rfquant_jax.tasks.run import Run

TRAINED = SimpleNamespace(origin="runs/mine/checkpoints/train/60 sha256:0123")


def header(tmp_path, **changes):
    config = quickstart.get_config()
    config.update_from_flattened_dict(changes)
    run = Run(config, tmp_path)
    return profile_header(run, TRAINED, profile_images(run, search_images(run)))


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
    sets = profile_images(run, search_images(run))
    image = np.array(sets[0]["image"])
    image[3, 2, 1] ^= 1
    sets[0]["image"] = image
    assert differences(base, profile_header(run, TRAINED, sets)) == ["images.sha256"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "1", None])
def test_what_is_not_a_header_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "p.jsonl").write_text(text)
    assert stored_header(tmp_path / "p.jsonl") is None
