"""Pictures inside a page: PNG files and arrays as small WebP, in base64."""

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH = 1700  # pixels at most: twice what the page shows, for sharp screens
QUALITY = 88  # of lossy WebP, where that is smaller
RED = (230, 40, 40)  # of masks


class Picture(NamedTuple):
    """An address that holds the picture itself, and its size in pixels."""

    src: str
    width: int
    height: int


def picture(path: Path, width: int = WIDTH) -> Picture:
    """A picture file on white, no wider than told, as the smaller of lossless and lossy WebP.

    Raises:
        ValueError: If the file is no picture that can be read.
    """
    try:
        with Image.open(path) as file:
            image = _on_white(file)
    except OSError as error:
        raise ValueError(f"{path} is no picture that can be read: {error}; draw it again") from error
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    coded = min(_webp(image, lossless=True), _webp(image, quality=QUALITY), key=len)
    return Picture(data_uri(coded, "image/webp"), image.width, image.height)


def grey(image: NDArray, width: int = 0) -> bytes:
    """A slice or montage (rows, columns) in uint8 as WebP, smoothly enlarged to a width where it is narrower.

    Raises:
        ValueError: If it is not a plane of uint8.
    """
    return _webp(_enlarged(image, width), quality=QUALITY)


def veil(mask: NDArray, width: int = 0) -> bytes:
    """A mask (rows, columns) in uint8 as a red veil, clear where it is 0, to lie over a picture of the same size."""
    alpha = _enlarged(mask // 2, width)
    red = Image.new("RGBA", alpha.size, RED)
    red.putalpha(alpha)
    return _webp(red, lossless=True)


def _enlarged(image: NDArray, width: int) -> Image.Image:
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"a grey picture is two-dimensional and uint8; got shape {image.shape}, {image.dtype}")
    shown = Image.fromarray(image)
    if shown.width < width:
        return shown.resize((width, round(shown.height * width / shown.width)), Image.Resampling.BICUBIC)
    return shown


def data_uri(content: bytes, kind: str) -> str:
    """An address that holds its content."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "P"):
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert("RGB")


def _webp(image: Image.Image, **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", method=4, **how)
    return out.getvalue()
