"""Paths in fields and flags are expanded alike, and only paths are."""

import re

import pytest

from configs import default, quickstart
from rfquant_jax.config.fields import flat
from rfquant_jax.config.path_fields import PATH_FIELDS, expand_flags, expand_paths
from rfquant_jax.config.schema import FIELDS
from rfquant_jax.runtime.paths import expanded
from rfquant_jax.tasks import command_line
from rfquant_jax.tasks.run import Run


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "deep/er")


def test_a_path_is_expanded_as_by_a_shell(tmp_path):
    assert expanded("~/a/$PLACE/b") == f"{tmp_path}/a/deep/er/b"
    assert expanded("${PLACE}x") == "deep/erx"
    for unchanged in ("", "auto", "w4a4", "a~b", "$NO_SUCH_NAME", "~nobody_of_this_name/x"):
        assert expanded(unchanged) == unchanged


def test_every_field_that_names_a_file_or_folder_is_expanded(tmp_path):
    """Their meanings say which ones they are."""
    told = re.compile(r"^(file|folder|workdir)\b|JSON", re.IGNORECASE)
    texts = [n for n, v in flat(default.get_config()) if isinstance(v, str)]
    named = {n for n in texts if told.search(FIELDS[n].meaning)} - {"data.name"}
    assert named == set(PATH_FIELDS)
    config = quickstart.get_config()
    config.update_from_flattened_dict({name: f"~/$PLACE/{name}" for name in PATH_FIELDS})
    found = dict(flat(expand_paths(config)))
    for name in PATH_FIELDS:
        assert found[name] == f"{tmp_path}/deep/er/{name}"
    assert config.checkpoint == "~/$PLACE/checkpoint", "the config given is not changed"
    others = {n: v for n, v in flat(config) if n not in PATH_FIELDS}
    assert {n: v for n, v in found.items() if n not in PATH_FIELDS} == others


def test_a_run_works_with_expanded_paths(tmp_path):
    config = quickstart.get_config()
    config.tasks, config.data.path, config.checkpoint = ("train",), "$PLACE/images", "~/other"
    run = Run(config, tmp_path / "run")
    assert (run.config.data.path, run.config.checkpoint) == (
        "deep/er/images",
        str(tmp_path / "other"),
    )


@pytest.mark.parametrize("separator", ["=", " "])
def test_the_flags_are_expanded_too(tmp_path, separator, monkeypatch):
    given = f"launch.py --config{separator}~/$PLACE/x.py -workdir{separator}~/w --config.seed=1"
    assert expand_flags(given.split(" ")) == [
        *f"launch.py --config{separator}{tmp_path}/deep/er/x.py".split(" "),
        *f"-workdir{separator}{tmp_path}/w --config.seed=1".split(" "),
    ]
    assert command_line.recipe_path(given.split(" ")) == tmp_path / "deep" / "er" / "x.py"
