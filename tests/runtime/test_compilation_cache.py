"""Programs kept from one start to the next: the same bits, and never a reason to fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from configs import quickstart
from rfquant_jax.runtime import compilation_cache
from rfquant_jax.runtime.compilation_cache import LEAST_SECONDS, keep_compiled, prune
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import claim

ROOT = Path(__file__).resolve().parents[2]
# A convolution, an all-reduce and a donated buffer on four devices.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.compilation_cache import keep_compiled
from rfquant_jax.runtime.devices import REPLICATED, SHARDED, Compiled

assert keep_compiled(sys.argv[1]) == ""
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))

def step(x, kernel):
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(y) + jax.lax.pmean(y.mean(), devices.AXIS)

mesh = devices.make_mesh(4)
compiled = Compiled(step, mesh, (SHARDED, REPLICATED), SHARDED, donate=0)
rng = np.random.default_rng(0)
x = devices.split(rng.normal(size=(8, 6, 6, 3)).astype(np.float32), mesh)
kernel = devices.replicate(rng.normal(size=(3, 3, 3, 3)).astype(np.float32), mesh)
for _ in range(3):
    x = compiled(x, kernel)
counts = {n: events.count(f"/jax/compilation_cache/cache_{n}") for n in ("hits", "misses")}
print(json.dumps(counts | {"bits": np.asarray(x).tobytes().hex(), "traces": compiled.traces}))
"""


def run(folder):
    """What the program computes and how often it finds something, in a process of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "PYTHONWARN"))}
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=inherited | flags,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_what_is_loaded_computes_the_same_bits_and_damage_costs_nothing_but_time(tmp_path):
    fresh, first, second = run(""), run(tmp_path), run(tmp_path)
    assert fresh["hits"] == first["hits"] == second["misses"] == 0
    assert first["misses"] == second["hits"] > 0
    assert fresh["bits"] == first["bits"] == second["bits"]
    assert second["traces"] == 1, "counted where a program is traced, not where it is compiled"
    entries = list(tmp_path.glob("*-cache"))
    for number, path in enumerate(entries):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes([content[:100], b"", content][number % 3])
    damaged = run(tmp_path)
    assert damaged["hits"] == 0
    assert damaged["bits"] == fresh["bits"]


@pytest.fixture
def without():
    """A process that keeps nothing yet."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_by_default_below_the_users_cache_folder(without, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    assert quickstart.get_config().compilation_cache == "auto"
    assert keep_compiled("auto") == ""
    folder = tmp_path / "rfquant_jax" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == LEAST_SECONDS
    assert folder.stat().st_mode & 0o077 == 0, "nobody else decides what is executed here"
    assert not list(folder.iterdir())


def test_off_and_what_the_user_gave_jax(without, tmp_path):
    assert keep_compiled("") == ""
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", "theirs")
    assert keep_compiled(str(tmp_path / "ours")) == ""
    assert jax.config.jax_compilation_cache_dir == "theirs"
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_cannot_be_written_is_said_once_and_done_without(without, tmp_path, capsys):
    (tmp_path / "file").touch()
    config = quickstart.get_config()
    config.compilation_cache = str(tmp_path / "file" / "below")
    run = Run(config, tmp_path / "run")
    assert jax.config.jax_compilation_cache_dir is None
    run.claim()
    run.claim()
    run.close()
    for text in (capsys.readouterr().out, (tmp_path / "run" / "log.txt").read_text()):
        assert text.count("\n") == text.count("compilation cache disabled: ") == 1
        assert str(tmp_path / "file") in text


def test_another_cache_makes_no_other_run(tmp_path):
    config = quickstart.get_config()
    claim(tmp_path, config)
    config.compilation_cache = ""
    claim(tmp_path, config)


def test_entries_written_first_go_first(tmp_path):
    for age, (name, size) in enumerate([("new", 10), ("middle", 20), ("old", 5), ("oldest", 1)]):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(size))
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "something else").write_bytes(bytes(1000))
    prune(tmp_path, most=35)
    assert {p.name for p in tmp_path.iterdir()} == {
        "new-cache",
        "middle-cache",
        "old-cache",
        "something else",
    }
    prune(tmp_path, most=29)
    assert {p.name for p in tmp_path.iterdir()} == {"new-cache", "something else"}


@pytest.mark.parametrize(("where", "left"), [("auto", 0), ("folder", 1)])
def test_only_our_own_folder_is_pruned(without, tmp_path, monkeypatch, where, left):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation_cache.prune, "__defaults__", (5,))  # bytes
    folder = tmp_path / "rfquant_jax" / "compiled" if where == "auto" else tmp_path / "shared"
    folder.mkdir(parents=True)
    (folder / "theirs-cache").write_bytes(bytes(10))
    assert keep_compiled("auto" if where == "auto" else str(folder)) == ""
    assert len(list(folder.glob("*-cache"))) == left
