"""Decodes images, with the fastest decoder that is correct for them."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 2**28  # a header may claim any size; cameras produce fewer
_GRAY16 = ("I;16", "I;16B", "I;16L", "I;16N")
_WIDE = {"F": "floating-point values", "I": "32-bit integers"}
_JPEG_START = b"\xff\xd8"


class BadImageError(Exception):
    """An image cannot be read or decoded; the text gives the reason.

    Attributes:
      name: name of the image, if known.
    """

    def __init__(self, reason: str, name: str = ""):
        super().__init__(reason)
        self.name = name


def decode(content: bytes, *, channels: int = 3, fast: bool = False, shrink: int = 1) -> np.ndarray:
    """Decodes an image.

    Orientation tags are ignored, transparency is dropped, palettes, CMYK and grayscale are
    converted to RGB, and 16-bit channels are scaled to 8 bits. This equals torchvision and timm,
    except for 16-bit grayscale, which they saturate.

    Args:
      content: JPEG, PNG or any other format supported by Pillow.
      channels: 3 for RGB, 1 for grayscale.
      fast: whether a JPEG may be decoded with small rounding differences.
      shrink: 1, 2, 4 or 8; the sides of a JPEG may be divided by this, rounded up. Use `jpeg_size`
        to test for JPEG.

    Returns:
      uint8[H, W, channels].

    Raises:
      BadImageError: the content is empty, truncated, too large, or not an image.
    """
    if not content:
        raise BadImageError("is empty")
    size = jpeg_size(content)
    if size is not None:
        _check_size(*size)
        height, width = (-(-side // shrink) for side in size)
        try:
            return simplejpeg.decode_jpeg(
                content,
                colorspace="RGB" if channels == 3 else "GRAY",
                fastdct=fast,
                fastupsample=fast,
                min_height=height,
                min_width=width,
                min_factor=shrink,
            )
        except ValueError:
            # simplejpeg raises on warnings that Pillow tolerates, and on CMYK.
            image = Image.fromarray(_with_pillow(content, 3)).resize((width, height))
            return _as_channels(image, channels)
    return _with_pillow(content, channels)


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG with a valid header, else None."""
    if not content.startswith(_JPEG_START):
        return None
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return height, width


def is_known(path: str) -> bool:
    """Whether Pillow knows the format of a file, by its first bytes."""
    try:
        with Image.open(path):
            return True
    except Exception:  # readers raise many kinds of exceptions for other files
        return False


def _with_pillow(content: bytes, channels: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_size(image.height, image.width)
            if image.mode in _GRAY16:
                return _from_gray16(np.asarray(image), channels)
            if image.mode in ("F", "I"):
                raise BadImageError(f"holds {_WIDE[image.mode]} of unknown value range")
            return _as_channels(image, channels)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:  # its text contains the address of an object
        raise BadImageError("cannot be decoded (of no known format)") from error
    except Exception as error:  # readers raise many kinds of exceptions for damaged files
        raise BadImageError(f"cannot be decoded ({str(error) or type(error).__name__})") from error


def _as_channels(image: Image.Image, channels: int) -> np.ndarray:
    converted = np.array(image.convert("RGB" if channels == 3 else "L"))
    return converted if channels == 3 else converted[..., None]


def _from_gray16(values: np.ndarray, channels: int) -> np.ndarray:
    scaled = np.round(values.astype(np.float32) / 257).astype(np.uint8)
    return np.repeat(scaled[..., None], channels, axis=2)


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise BadImageError(f"claims {width}x{height} pixels; at most {MAX_PIXELS} are read")
