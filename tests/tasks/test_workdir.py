"""The folder of a run: whose it is, and its JSON files."""

import json
import os

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import quickstart
from rfquant_jax.errors import UserError
from rfquant_jax.runtime.json_files import read_json, write_json
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import LOCK_FILE, claim
from tests.runtime.test_locks import is_free

JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(content=JSON)
def test_what_is_written_is_read_back(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_json(path, content)
    assert read_json(path) == content


def test_a_layer_takes_one_line(tmp_path):
    write_json(tmp_path / "c.json", {"layers": {"a[\n1": [4, 2], "b": [8, 8]}, "none": []})
    assert (tmp_path / "c.json").read_text().splitlines() == [
        "{",
        '  "layers": {',
        '    "a[\\n1": [4, 2],',
        '    "b": [8, 8]',
        "  },",
        '  "none": []',
        "}",
    ]


@pytest.mark.parametrize(("content", "said"), [("{", "is not JSON"), (None, "cannot be read")])
def test_what_cannot_be_read_is_named(tmp_path, content, said):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"c.json: {said}"):
        read_json(path)


def test_a_folder_belongs_to_the_run_that_claimed_it(tmp_path):
    config = quickstart.get_config()
    claim(tmp_path / "deep" / "run", config)
    config.tasks, config.train.log_every = ("search",), 7  # not what comes out
    claim(tmp_path / "deep" / "run", config)
    config.seed = 5
    with pytest.raises(UserError, match=r"config\.seed was 0 and is 5; use a separate --workdir"):
        claim(tmp_path / "deep" / "run", config)
    assert json.loads((tmp_path / "deep" / "run" / "config.json").read_text())["seed"] == 0


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        claim(tmp_path / "file" / "run", quickstart.get_config())


def test_a_run_has_its_folder_from_its_first_claim_until_it_is_closed(tmp_path):
    run = Run(quickstart.get_config(), tmp_path / "run")
    run.claim()
    run.claim()
    content = (tmp_path / "run" / LOCK_FILE).read_text()
    assert json.loads(content)["process"] == os.getpid()
    assert not is_free(tmp_path / "run" / LOCK_FILE)
    run.close()
    assert is_free(tmp_path / "run" / LOCK_FILE)


def test_of_the_processes_of_a_run_the_first_has_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    run = Run(quickstart.get_config(), tmp_path / "run")
    run.claim()
    assert not (tmp_path / "run" / LOCK_FILE).exists()
    run.close()
