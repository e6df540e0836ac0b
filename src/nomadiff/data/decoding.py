"""One encoded image file to pixels: 8-bit grey or RGB, upright and opaque; everything else is converted or refused."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nomadiff.files import printable

__all__ = ["UnusableImage", "decode_image", "fit_square", "is_image_name", "plain_image", "reason_of"]

# These are recognised by their first bytes, whatever the file's name; any other format is tried only under its own
# name, since some (TGA) accept any bytes.
_BY_CONTENT = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
# Never tried, since data sets are not trusted: these start other programs (EPS runs Ghostscript), are no images, or
# unpack without a bound (FITS).
_NEVER = frozenset(("EPS", "WMF", "PDF", "MPEG", "BUFR", "GRIB", "HDF5", "FITS", "IPTC"))
# Image formats that Pillow may need a plugin for, and the command that installs it.
_PLUGINS = {
    "a newer Pillow": (".avif", ".avifs", ".jp2", ".j2k", ".jpx", ".webp"),
    "pip install pillow-heif": (".heic", ".heif", ".hif"),
    "pip install pillow-jxl-plugin": (".jxl",),
}

_EXIF_KEYS = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))
_PNG = b"\x89PNG\r\n\x1a\n"
_AT_ONCE = 128 << 20  # pixels decoded at the same time by all threads together: half a gigabyte of colours


class UnusableImage(ValueError):
    """This file holds no image that can be used; the message is the reason, a few words without the file's name."""


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image: of a format that Pillow knows, or one that it would know by a plugin."""
    suffix = _suffix(name)
    return suffix in _formats() or any(suffix in suffixes for suffixes in _PLUGINS.values())


def decode_image(data: bytes, resolution: int | None = None, name: str = "") -> np.ndarray:
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

    EXIF orientation is applied. An image of more than ``PIL.Image.MAX_IMAGE_PIXELS`` is read where a resolution is
    given, at half its size (the mean of 2 by 2 pixels; of a JPEG by its decoder, in a quarter of the memory).

    Args:
        data: the bytes of the file.
        resolution: side of the result in pixels, see :func:`fit_square`; None keeps the size of the file.
        name: of the file; formats without a mark in their first bytes are told by it.

    Returns:
        uint8, ``(H, W)`` for grey and ``(H, W, 3)`` for RGB.

    Raises:
        UnusableImage: the file is refused for a reason above or claims too many pixels.
        Exception: whatever Pillow raises on a damaged file; :func:`reason_of` puts it in words.
    """
    if not data:
        raise UnusableImage("empty file")
    suffix = _suffix(name)
    if suffix not in _formats():
        for remedy, suffixes in _PLUGINS.items():
            if suffix in suffixes:
                raise UnusableImage(f"{suffix} needs {remedy}")
    try:
        return _decoded(data, resolution, suffix)
    except ValueError as error:
        # Pillow refuses a PNG with more than a megabyte of text or colour profile, which are not used here
        if isinstance(error, UnusableImage) or not data.startswith(_PNG):
            raise
    try:
        return _decoded(_without_texts(data, keep=_EXIF_KEYS), resolution, suffix)
    except UnusableImage:
        raise
    except ValueError:
        return _decoded(_without_texts(data), resolution, suffix)


def _decoded(data: bytes, resolution: int | None, suffix: str) -> np.ndarray:
    formats = [name for name in (*_BY_CONTENT, _formats().get(suffix, "PNG")) if name in Image.OPEN]
    with Image.open(io.BytesIO(data), formats=formats) as image:
        width, height = image.size
        large = Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS
        if large and resolution is None:
            raise UnusableImage(f"claims {width}x{height} pixels; such large images are read with --resolution N only")
        halved = large and resolution is not None and min(width, height) >= 4 * resolution
        if halved:
            image.draft(None, (width // 2, height // 2))  # JPEG only
        # a phone's JPEG carries previews as further frames (MPO); the first one is the photograph
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise UnusableImage("has several frames; save each frame as a file")
        with _share(image.width * image.height):
            image.load()
            plain = plain_image(image)
            if halved and image.size == (width, height):
                plain = plain.reduce(2, _square(plain))
            return np.asarray(fit_square(plain, resolution))


def _without_texts(data: bytes, keep: frozenset[str] = frozenset()) -> bytes:
    """A PNG without its texts and its colour profile, but for the texts called so."""
    kept, start = [data[:8]], 8
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        keyword = data[start + 8 : start + 88].partition(b"\0")[0].decode("latin-1")
        if data[start + 4 : start + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP") or keyword in keep:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


@cache
def _formats() -> dict[str, str]:
    """Pillow's name of the format of every suffix that is read."""
    Image.init()
    for plugin, start in (("pillow_heif", "register_heif_opener"), ("pillow_jxl", "__name__")):
        try:
            found = getattr(import_module(plugin), start)
        except ImportError:
            continue
        if callable(found):
            found()
    known = {suffix: "JPEG" if name == "MPO" else name for suffix, name in Image.registered_extensions().items()}
    return {suffix: name for suffix, name in known.items() if name in Image.OPEN and name not in _NEVER}


_changed = threading.Condition()
_in_work = 0


@contextmanager
def _share(pixels: int) -> Iterator[None]:
    """Wait until there is memory for an image of so many pixels beside those that other threads decode."""
    global _in_work
    with _changed:
        _changed.wait_for(lambda: _in_work == 0 or _in_work + pixels <= _AT_ONCE)
        _in_work += pixels
    try:
        yield
    finally:
        with _changed:
            _in_work -= pixels
            _changed.notify_all()


def fit_square(image: Image.Image, resolution: int | None) -> Image.Image:
    """Crop the largest centred square and resize it to ``resolution`` (Lanczos); a fitting image is left as it is."""
    if resolution is None or image.size == (resolution, resolution):
        return image
    if image.width != image.height:
        image = image.crop(_square(image))
    return image if image.width == resolution else image.resize((resolution, resolution), Image.Resampling.LANCZOS)


def plain_image(image: Image.Image) -> Image.Image:
    """A Pillow image as mode L or RGB, upright and opaque, as :func:`decode_image` makes one of a file.

    Raises:
        UnusableImage: it is transparent, or has 32-bit pixels.
    """
    return _opaque(_upright(image), image.format)


def _square(image: Image.Image) -> tuple[int, int, int, int]:
    """The largest centred square: left, top, right, bottom."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return left, top, left + side, top + side


def reason_of(error: Exception) -> str:
    """Why a file could not be decoded, in a few words on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged at its start"
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    text = printable(" ".join(said.split())) or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Most files have none, and the lookup costs more than decoding a small image."""
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
