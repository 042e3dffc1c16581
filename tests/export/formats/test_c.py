"""The C export: compiled, run under sanitizers and on an emulated ARM, bit for bit."""

import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings

from rfquant_jax.data.transforms import normalizer
from rfquant_jax.errors import UserError
from rfquant_jax.export.formats import c
from rfquant_jax.export.formats.c_program import memory_of, pixel_values
from rfquant_jax.export.formats.c_text import array, identifier, number, string
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.verify import run_c
from tests.conftest import IMAGE_SHAPE, images
from tests.export.random_models import models
from tests.export.test_formats import BEHIND, BETWEEN
from tests.export.trace.test_capture import Around, WithNorm, coupled_of

MAIN = """
#include "m.h"
#include <stdio.h>
#include <string.h>

static float arena[M_ARENA_BYTES / sizeof(float) + 1];

int main(void) {
  static float image[M_HEIGHT * M_WIDTH * M_CHANNELS], logits[M_LOGITS];
  static uint8_t pixels[M_HEIGHT * M_WIDTH * M_CHANNELS];
  while (fread(image, sizeof image, 1, stdin) == 1) {
    memset(arena, 0xff, M_ARENA_BYTES); /* NaN, and the largest codes */
    m_run(image, logits, arena);
    fwrite(logits, sizeof logits, 1, stdout);
    if (fread(pixels, sizeof pixels, 1, stdin) != 1) return 1;
    memset(arena, 0xff, M_ARENA_BYTES);
    m_run_pixels(pixels, logits, arena);
    fwrite(logits, sizeof logits, 1, stdout);
  }
  return 0;
}
"""
STRICT = (
    "-std=c99",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pedantic",
    "-Wconversion",
)
SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def run_program(model, x, pixels, compiler="cc", flags=SANITIZED, emulator=()):
    """Logits of images and of pixels from a whole program."""
    with tempfile.TemporaryDirectory() as folder:
        c.write(Path(folder) / "m.c", model)
        (Path(folder) / "main.c").write_text(MAIN)
        made = [compiler, *STRICT, *flags, "-o", "main", "m.c", "main.c", "-lm"]
        subprocess.run(made, cwd=folder, check=True)
        content = b"".join(a.tobytes() + b.tobytes() for a, b in zip(x, pixels, strict=True))
        command = [*emulator, str(Path(folder) / "main")]
        done = subprocess.run(command, input=content, capture_output=True, check=True)
    found = np.frombuffer(done.stdout, np.float32).reshape(len(x), 2, -1)
    return found[:, 0], found[:, 1]


def normalised(model, pixels):
    values = pixel_values(model)
    return np.stack([v[pixels[..., i]] for i, v in enumerate(values)], -1)


def check_program(found, **options):
    model, x = found
    pixels = np.random.default_rng(0).integers(0, 256, x.shape).astype(np.uint8)
    by_image, by_pixel = run_program(model, x, pixels, **options)
    np.testing.assert_array_equal(by_image, runtime.run(model, x))
    again, _ = run_program(model, normalised(model, pixels), pixels, **options)
    np.testing.assert_array_equal(by_pixel, again)


@settings(deadline=None, max_examples=5)
@given(models(largest_bits=8))
def test_programs_are_clean_under_sanitizers_and_equal_bit_for_bit(found):
    check_program(found)


ARM = {
    "arm": ("arm-linux-gnueabihf-gcc", "qemu-arm"),
    "aarch64": ("aarch64-linux-gnu-gcc", "qemu-aarch64"),
}


@pytest.mark.slow
@pytest.mark.parametrize("machine", ARM)
def test_programs_compute_the_same_on_arm(machine):
    compiler, emulator = ARM[machine]
    if not (shutil.which(compiler) and shutil.which(emulator)):
        pytest.skip(f"{compiler} or {emulator} is not installed")

    @settings(deadline=None, max_examples=5)
    @given(models(largest_bits=8))
    def check(found):
        check_program(found, compiler=compiler, flags=("-O2", "-static"), emulator=(emulator,))

    check()


def compiled(model, folder):
    c.write(folder / "m.c", model)
    return run_c.load(folder / "m.c")


@pytest.mark.parametrize("between", BETWEEN)
def test_every_operation_between_layers(between, tmp_path, rng):
    model = fold(coupled_of(Around(BETWEEN[between]), candidates=(6, 4)), IMAGE_SHAPE).stored()
    x = images(rng, 3)
    found, expected = compiled(model, tmp_path)(x), runtime.run(model, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    uses = {node.op for node in model.graph.nodes} & {"sigmoid", "tanh", "exp", "expm1", "log"}
    uses |= {node.op for node in model.graph.nodes} & {"log1p", "sqrt", "erf"}
    assert ("math.h" in (tmp_path / "m.c").read_text()) == bool(uses)


@pytest.mark.parametrize("behind", BEHIND)
def test_every_kind_of_classifier(behind, tmp_path, rng):
    pool, features = BEHIND[behind]
    network = coupled_of(Around(lambda x: x, pool, features), candidates=(6, 4))
    model, x = fold(network, IMAGE_SHAPE).stored(), images(rng, 3)
    expected = runtime.run(model, x)
    found = compiled(model, tmp_path)(x).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["late", "shared"])
def test_batch_norms_on_their_own(place, tmp_path, rng):
    model = fold(coupled_of(WithNorm(place), candidates=(6, 4)), IMAGE_SHAPE).stored()
    x = images(rng, 3)
    expected = runtime.run(model, x)
    np.testing.assert_allclose(compiled(model, tmp_path)(x), expected, rtol=1e-5, atol=1e-5)


def test_layers_of_floats_and_images_that_are_quantized(tmp_path, rng):
    """One layer's weights stay floats, and the first layer reads codes of the image."""
    model = fold(coupled_of(Around(jax.nn.relu), candidates=(6, 4)), IMAGE_SHAPE).stored()
    layers = dict(model.layers)
    first, last = next(iter(layers)), list(layers)[-1]
    layers[first] = replace(layers[first], input_bits=4, input_signed=True, input_step=0.25)
    kernel = layers[last].kernel.astype(np.float32) / 3
    layers[last] = replace(layers[last], weight_bits=32, kernel=kernel)
    about = {"mean": [0.5] * IMAGE_SHAPE[-1], "std": [0.25] * IMAGE_SHAPE[-1]}
    model = replace(model, layers=layers, about=about)
    pixels = rng.integers(0, 256, (3, *IMAGE_SHAPE)).astype(np.uint8)
    x = normalised(model, pixels)
    for found in run_program(model, x, pixels):
        np.testing.assert_allclose(found, runtime.run(model, x), rtol=1e-5, atol=1e-5)
    assert memory_of(model).buffers["image"].size == 4 * np.prod(IMAGE_SHAPE)


def test_pixels_are_normalised_as_in_training(model):
    mean, std = [0.485, 0.456], [0.229, 0.225]
    values = pixel_values(replace(model, about={"mean": mean, "std": std}))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 2)).astype(np.uint8)
    expected = np.asarray(jax.jit(normalizer(mean, std))(pixels))
    found = np.stack([v[pixels[..., i]] for i, v in enumerate(values)], -1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(values[1, 51], (0.2 - 0.456) / 0.225, rtol=1e-6)
    assert pixel_values(replace(model, about={"mean": [0.5]})) is None


def test_the_header_says_what_a_caller_must_know(model, tmp_path):
    about = {"mean": [0.5, 0.5], "std": [0.25, 0.25], "classes": ['a "b"', "ü*/"]}
    c.write(tmp_path / "1.05xw2a2.c", replace(model, about=about))
    header = (tmp_path / "1.05xw2a2.h").read_text()
    found = run_c.constants(tmp_path / "1.05xw2a2.h", "model_1_05xw2a2")
    sizes = {"HEIGHT": 6, "WIDTH": 6, "CHANNELS": 2, "LOGITS": 5}
    assert found == sizes | {"ARENA_BYTES": memory_of(model).size}
    assert "void model_1_05xw2a2_run_pixels(const uint8_t *pixels," in header
    assert "model_1_05xw2a2_classes[2]" in header
    source = (tmp_path / "1.05xw2a2.c").read_text()
    assert r'{"a \042b\042", "\303\274*/"}' in source
    assert not re.search(r"malloc|<stdlib|<string|<stdio|<math", source)


def test_pieces_of_c():
    assert identifier("1.05*w4a4") == "model_1_05_w4a4"
    assert identifier("best") == "best"
    assert number(0.1) == "0.100000001f"
    assert number(6) == "6.0f"
    assert number(1e-30) == "1.00000000e-30f".replace("1.00000000", "1")
    assert string("a?\\") == r'"a\077\134"'
    assert array("int8_t", "a", np.asarray([[1, -2]])) == "static const int8_t a[2] = {\n  1,-2};"
    for value in np.random.default_rng(0).normal(size=100).astype(np.float32):
        assert np.float32(float(number(value)[:-1])) == value


def test_a_program_that_does_not_compile_is_said_in_one_line(model, tmp_path):
    c.write(tmp_path / "m.c", model)
    (tmp_path / "m.c").write_text("int;;nonsense")
    with pytest.raises(UserError, match=r"m.c: does not compile \(") as error:
        run_c.load(tmp_path / "m.c")
    assert "\n" not in str(error.value)
