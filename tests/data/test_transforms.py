"""Crops, flips and normalization."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rfquant_jax.data.transforms import Centre, PadAndCrop, RandomResizedCrop, normalizer


def random(seed=0):
    return np.random.default_rng(seed)


def coordinates(height, width):
    """An image whose pixels tell where they are."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, 0 * x], -1).astype(np.uint8)


def test_pad_and_crop_moves_the_image_inside_its_padding():
    image = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)
    seen, rng = set(), random()
    for _ in range(200):
        moved = PadAndCrop(1, flip=False)(image, rng)
        assert moved.shape == image.shape
        seen.add(moved.tobytes())
        row, column = np.argwhere(moved[..., 0] == 5)[0]  # the centre always stays inside
        shift = (row - 1, column - 1)
        for (r, c), value in np.ndenumerate(moved[..., 0]):
            source = (r - shift[0], c - shift[1])
            inside = all(0 <= i < 3 for i in source)
            assert value == (image[*source, 0] if inside else 0)
    assert len(seen) == 9


def test_flipping_mirrors_about_half_of_the_images():
    image, rng = np.asarray([[[1], [2]]], np.uint8), random()
    flips = [PadAndCrop(0, flip=True)(image, rng)[0, 0, 0] == 2 for _ in range(400)]
    assert 150 < sum(flips) < 250


def test_padding_follows_a_transform_to_one_size():
    image = PadAndCrop(0, flip=False, before=Centre(4, 6))(coordinates(12, 20), random())
    assert image.shape == (4, 4, 3)


@pytest.mark.parametrize(("height", "width"), [(90, 60), (60, 91), (48, 48)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_centre_is_torchvisions(height, width, interpolation):
    """Resize(36) and CenterCrop(32), written out as their documentation has them."""
    pixels = random().integers(0, 256, (height, width, 3), np.uint8)
    scale = 36 / min(height, width)
    size = [36 if side == min(height, width) else int(scale * side) for side in (height, width)]
    resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling[interpolation.upper()])
    top, left = (round((side - 32) / 2.0) for side in size)
    expected = np.asarray(resized)[top : top + 32, left : left + 32]
    got = Centre(32, 36, interpolation=interpolation)(pixels, random())
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 2, 3)])
def test_an_extremely_long_image_takes_no_extreme_memory(shape):
    pixels = np.zeros(shape, np.uint8)
    long = int(np.argmax(shape))
    middle = shape[long] // 2
    pixels[(slice(None),) * long + (slice(middle - 20, middle + 20),)] = 200
    assert np.all(Centre(32, 36)(pixels, random()) == 200)


def test_an_image_of_the_right_size_is_left_alone():
    image = coordinates(32, 32)
    np.testing.assert_array_equal(Centre(32)(image, random()), image)
    np.testing.assert_array_equal(Centre(0)(coordinates(5, 9), random()), coordinates(5, 9))


def test_one_channel_stays_one_channel():
    image = random().integers(0, 256, (20, 30, 1), np.uint8)
    assert Centre(8, 10, channels=1)(image, random()).shape == (8, 8, 1)
    assert RandomResizedCrop(8, channels=1)(image, random()).shape == (8, 8, 1)


def test_random_regions_are_inside_and_spread_as_they_should():
    crop, rng = RandomResizedCrop(224), random()
    height, width = 300, 400
    regions = np.asarray([crop.region(height, width, rng) for _ in range(4000)])
    top, left, high, wide = regions.T
    assert np.all((top >= 0) & (left >= 0) & (top + high <= height) & (left + wide <= width))
    share, aspect = high * wide / (height * width), wide / high
    assert share.min() >= 0.079
    assert share.max() <= 1.001
    assert aspect.min() > 0.74
    assert aspect.max() < 1.345
    # The log of the aspect is even: as many below 1 as above, but for large parts, which only fit
    # this wide image where they are wide, too.
    small = share < 0.4
    assert abs(np.mean(np.log(aspect[small]))) < 0.02
    assert abs(np.median(share[share < 0.5]) - 0.29) < 0.02
    spread = (top / np.maximum(height - high, 1))[small]
    assert abs(np.mean(spread) - 0.5) < 0.02


@pytest.mark.parametrize(
    ("shape", "expected"), [((10, 100), (0, 44, 10, 13)), ((100, 10), (44, 0, 13, 10))]
)
def test_where_nothing_fits_the_middle_is_taken(shape, expected):
    crop = RandomResizedCrop(8, area=(1.0, 1.0))
    top, left, high, wide = crop.region(*shape, random())
    assert (high, wide) == expected[2:]
    assert abs(top - expected[0]) <= 1
    assert abs(left - expected[1]) <= 1


def test_a_region_is_cut_out_and_resized():
    image = coordinates(200, 150)
    crop = RandomResizedCrop(16, flip=False)
    rng = random(3)
    top, left, high, wide = crop.region(200, 150, random(3))
    got = crop(image, rng).astype(float)
    rows, columns = got[:, 0, 0], got[0, :, 1]
    step = (np.arange(16) + 0.5) / 16  # centres of the result's pixels, in pixels of the image
    np.testing.assert_allclose(rows, top + high * step - 0.5, atol=1)
    np.testing.assert_allclose(columns, left + wide * step - 0.5, atol=1)


def test_random_crops_are_mirrored_half_of_the_time():
    crop, rng = RandomResizedCrop(8), random()
    columns = [crop(coordinates(40, 40), rng)[0, :, 1].astype(int) for _ in range(400)]
    mirrored = sum(row[0] > row[-1] for row in columns)
    assert 150 < mirrored < 250


def test_large_jpegs_are_decoded_smaller_but_show_the_same():
    y, x = np.mgrid[:400, :400] / 40
    pixels = np.round(127 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=95)
    crop = RandomResizedCrop(16, flip=False, area=(0.5, 1.0))
    for seed in range(5):
        small = crop(file.getvalue(), random(seed)).astype(int)
        whole = crop(pixels.astype(np.uint8), random(seed)).astype(int)
        assert np.abs(small - whole).mean() < 5  # of waves 200 high


def test_normalization_is_per_channel():
    images = jnp.asarray([[[[0, 255]]]], jnp.uint8)
    got = normalizer((0.5, 0.25), (0.5, 0.125))(images)
    np.testing.assert_allclose(got[0, 0, 0], [-1.0, 6.0], rtol=1e-6)
