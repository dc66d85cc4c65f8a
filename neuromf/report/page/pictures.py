"""Pictures that the page embeds: PNG files and arrays as small WebP images in base64."""

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH = 1700  # largest width in pixels: twice the width on the page, for high-resolution screens
QUALITY = 88  # of lossy WebP
RED = (230, 40, 40)  # colour of masks


class Picture(NamedTuple):
    """A data URI with its size in pixels."""

    src: str
    width: int
    height: int


def picture(path: Path, width: int = WIDTH) -> Picture:
    """A picture file on white, at most `width` pixels wide, as lossless or lossy WebP, whichever is smaller.

    Raises:
        ValueError: If the file is not a readable picture.
    """
    try:
        with Image.open(path) as file:
            rgba = file.convert("RGBA")
    except OSError as error:
        raise ValueError(f"{path} is not a readable picture ({error}); run its rule again") from error
    image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    content = min(_webp(image, lossless=True), _webp(image, quality=QUALITY), key=len)
    return Picture(webp_uri(content), image.width, image.height)


def grey(image: NDArray, width: int = 0, quality: int = QUALITY) -> bytes:
    """A grey image (rows, columns) in uint8 as WebP of a quality of 0 to 100, enlarged to at least `width` pixels.

    Raises:
        ValueError: If the array is not two-dimensional and uint8.
    """
    return _webp(_enlarge(image, width), quality=quality)


def overlay(mask: NDArray, width: int = 0) -> bytes:
    """A mask (rows, columns) in uint8 as a red WebP image, transparent where the mask is 0."""
    alpha = _enlarge(mask // 2, width)
    red = Image.new("RGBA", alpha.size, RED)
    red.putalpha(alpha)
    return _webp(red, lossless=True)


def webp_uri(content: bytes) -> str:
    """Data URI of a WebP image."""
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def _enlarge(array: NDArray, width: int) -> Image.Image:
    if array.ndim != 2 or array.dtype != np.uint8:
        raise ValueError(f"a grey image must be two-dimensional and uint8, got shape {array.shape}, {array.dtype}")
    image = Image.fromarray(array)
    if image.width < width:
        return image.resize((width, round(image.height * width / image.width)), Image.Resampling.BICUBIC)
    return image


def _webp(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", method=4, **options)
    return out.getvalue()
