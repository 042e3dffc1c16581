"""Decoding of odd and broken files."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from rfquant_jax.data import decode as decoding
from rfquant_jax.data.decode import BadImageError, decode, jpeg_size


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def smooth(height=40, width=30, channels=3):
    """Slow waves, which JPEG keeps well."""
    y, x = np.mgrid[:height, :width] / 10
    waves = [np.sin(x + c) * np.cos(y - c) for c in range(channels)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_as_they_were(form):
    pixels = smooth()
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), form)), pixels)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_is_decoded_as_pillow_does(subsampling):
    content = encoded(Image.fromarray(smooth()), "JPEG", quality=90, subsampling=subsampling)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(decode(content), expected)
    assert np.abs(decode(content, fast=True).astype(int) - expected).max() <= 24


def test_a_jpeg_can_be_decoded_smaller():
    pixels = smooth(83, 64)
    content = encoded(Image.fromarray(pixels), "JPEG", quality=95)
    half = decode(content, shrink=2)
    assert half.shape == (42, 32, 3)
    blocks = pixels[:82].reshape(41, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(half[:41] - blocks).mean() < 3


def test_grayscale_becomes_rgb():
    gray = smooth(channels=1)
    for form in ("PNG", "JPEG"):
        image = decode(encoded(Image.fromarray(gray[..., 0]), form))
        assert image.shape == (40, 30, 3)
        assert np.all(image == image[..., :1])
        assert np.abs(image[..., :1].astype(int) - gray).max() <= (0 if form == "PNG" else 8)


def test_color_becomes_gray_where_one_channel_is_wanted():
    pixels = smooth()
    gray = decode(encoded(Image.fromarray(pixels), "PNG"), channels=1)
    assert gray.shape == (40, 30, 1)
    luma = pixels @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(gray[..., 0], luma, atol=1)
    jpeg = decode(encoded(Image.fromarray(pixels), "JPEG", quality=95), channels=1)
    assert np.abs(jpeg[..., 0] - luma).mean() < 3


def test_cmyk_jpegs_become_rgb():
    cmyk = Image.fromarray(smooth()).convert("CMYK")
    image = decode(encoded(cmyk, "JPEG", quality=95))
    assert np.abs(image.astype(int) - smooth()).mean() < 3


def test_16_bit_grayscale_is_scaled_and_not_saturated():
    values = np.asarray([[0, 257, 32896], [51400, 65535, 128]], np.uint16)
    image = decode(encoded(Image.fromarray(values), "PNG"))
    assert image[..., 0].tolist() == [[0, 1, 128], [200, 255, 0]]


def test_16_bit_color_keeps_its_upper_half():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 0, 0x80FF, 0xFFFF, 0x1234, 0x0102, 0xFE00)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert decode(png).tolist() == [[[0, 0x80, 0xFF], [0x12, 0x01, 0xFE]]]


def test_palettes_and_transparency_become_rgb():
    palette = Image.fromarray(np.asarray([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert decode(encoded(palette, "PNG")).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    rgba = Image.fromarray(np.asarray([[[10, 20, 30, 0]]], np.uint8), "RGBA")
    assert decode(encoded(rgba, "PNG")).tolist() == [[[10, 20, 30]]]


def test_one_pixel_is_an_image():
    assert decode(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")).tolist() == [[[9, 8, 7]]]


def test_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    content = encoded(Image.fromarray(smooth()), "JPEG", exif=exif)
    assert decode(content).shape == (40, 30, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_what_is_cut_short_is_bad(form):
    content = encoded(Image.fromarray(smooth(200, 200)), form)
    with pytest.raises(BadImageError, match="cannot be decoded"):
        decode(content[: len(content) // 2])


def test_warnings_of_the_fast_decoder_are_no_errors():
    """A byte between two segments: ImageNet has such files, and they are whole."""
    content = encoded(Image.fromarray(smooth()), "JPEG")
    odd = content[:-2] + b"\x00\x00" + content[-2:]
    np.testing.assert_array_equal(decode(odd), decode(content))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"hello, world", "cannot be decoded"), (b"\xff\xd8\xff", "cannot be dec")],
)
def test_what_is_no_image_is_bad(content, said):
    with pytest.raises(BadImageError, match=said):
        decode(content)


@pytest.mark.parametrize(("kind", "said"), [(np.float32, "floating-p"), (np.int32, "32-bit int")])
def test_images_of_unknown_range_are_bad(kind, said):
    image = Image.fromarray(np.asarray([[0, 100, 255]], kind))
    with pytest.raises(BadImageError, match=said):
        decode(encoded(image, "TIFF"))


def test_a_complaint_is_the_same_every_time():
    reasons = set()
    for _ in range(5):
        with pytest.raises(BadImageError) as error:
            decode(b"hello, world")
        reasons.add(str(error.value))
    assert len(reasons) == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_images_beyond_all_sizes_are_not_decoded(form, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100)
    with pytest.raises(BadImageError, match="claims 30x40 pixels"):
        decode(encoded(Image.fromarray(smooth()), form))


def test_the_size_of_a_jpeg_is_read_from_its_header():
    content = encoded(Image.fromarray(smooth()), "JPEG")
    assert jpeg_size(content) == (40, 30)
    assert jpeg_size(content[:10]) is None
    assert jpeg_size(encoded(Image.fromarray(smooth()), "PNG")) is None


@pytest.mark.parametrize("side", [12_000, 40_000])
def test_a_small_file_of_a_huge_image_is_a_bad_image(side):
    """Whether Pillow would warn of it or refuse it."""
    file = io.BytesIO()
    Image.new("1", (100, 100)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    tracemalloc.start()
    with pytest.raises(BadImageError):
        decode(bytes(content))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
