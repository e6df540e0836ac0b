"""One encoded image file to pixels: 8-bit grey or RGB, upright and opaque; everything else is converted or refused."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["FORMATS", "SUFFIXES", "UnusableImage", "decode_image", "fit_square", "reason_of"]

# Only these decoders are ever tried, whatever a file calls itself: Pillow also knows formats that start other programs
# (EPS runs Ghostscript), and data sets come from strangers.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))

_EXIF_KEYS = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))


class UnusableImage(ValueError):
    """This file holds no image that can be used; the message is the reason, a few words without the file's name."""


def decode_image(data: bytes, resolution: int | None = None) -> np.ndarray:
    """Decode one image file.

    ==========================  ==========================================================================
    pixels in the file          result
    ==========================  ==========================================================================
    8-bit grey, RGB             as they are
    1-bit, palette, CMYK, LAB   converted (1-bit to grey, the others to RGB)
    16-bit grey                 ``round(v / 257)``, so that 65535 becomes 255
    16-bit colour               the high byte, the only thing Pillow reads
    alpha, all opaque           dropped
    alpha, anything else        refused: which colour lies behind is the user's choice
    32-bit or float, animated   refused
    ==========================  ==========================================================================

    EXIF orientation is applied.

    Args:
        data: the bytes of the file.
        resolution: side of the result in pixels, see :func:`fit_square`; None keeps the size of the file.

    Returns:
        uint8, ``(H, W)`` for grey and ``(H, W, 3)`` for RGB.

    Raises:
        UnusableImage: the file is refused for a reason above or claims more than ``PIL.Image.MAX_IMAGE_PIXELS``.
        Exception: whatever Pillow raises on a damaged file; :func:`reason_of` puts it in words.
    """
    if not data:
        raise UnusableImage("empty file")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise UnusableImage(f"claims {width}x{height} pixels, which looks like a decompression bomb")
        # a phone's JPEG carries previews as further frames (MPO); the first one is the photograph
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise UnusableImage("has several frames; save each frame as a file")
        image.load()
        return np.asarray(fit_square(_opaque(_upright(image), image.format), resolution))


def fit_square(image: Image.Image, resolution: int | None) -> Image.Image:
    """Crop the largest centred square and resize it to ``resolution`` (Lanczos); a fitting image is left as it is."""
    if resolution is None or image.size == (resolution, resolution):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.width != image.height:
        image = image.crop((left, top, left + side, top + side))
    return image if side == resolution else image.resize((resolution, resolution), Image.Resampling.LANCZOS)


def reason_of(error: Exception) -> str:
    """Why a file could not be decoded, in a few words on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged at its start"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Most files have none, and looking costs more than decoding a small image."""
    if image.format != "TIFF" and _EXIF_KEYS.isdisjoint(image.info):
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a tag that cannot be parsed is no orientation; the pixels are intact
        return image


def _opaque(image: Image.Image, file_format: str | None) -> Image.Image:
    """Convert to mode L or RGB, or say why not."""
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    # older Pillow gives 16-bit PNG and PGM as 32-bit integers
    if mode.startswith("I;16") or (mode == "I" and file_format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        if bool((values == image.info.get("transparency", -1)).any()):
            raise UnusableImage(_TRANSPARENT)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if mode in ("I", "F"):
        raise UnusableImage("has 32-bit pixels; save it with 8 or 16 bits")
    if "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise UnusableImage(_TRANSPARENT)
    return image.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")


_TRANSPARENT = "has transparent pixels; put it on a background first"
