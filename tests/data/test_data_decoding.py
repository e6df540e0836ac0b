"""Decoding one file: every kind of pixels becomes 8-bit grey or RGB, or is refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, UnidentifiedImageError

from nomadiff.data import decoding
from nomadiff.data.decoding import UnusableImage, decode_image, fit_square, reason_of

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
RGB = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@given(st.sampled_from(["PNG", "BMP", "TIFF", "PPM"]), arrays(np.uint8, (5, 5, 3)) | arrays(np.uint8, (5, 5)))
@settings(max_examples=40)
def test_8_bit_files_come_back_bit_for_bit(file_format, pixels):
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(pixels), file_format)), pixels)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_rounded(file_format):
    values = np.array([[0, 128], [129, 65535]], dtype=np.uint16)
    pixels = decode_image(encoded(Image.fromarray(values), file_format))
    np.testing.assert_array_equal(pixels, np.round(values / 257).astype(np.uint8))
    assert pixels.tolist() == [[0, 0], [1, 255]]


def test_palette_one_bit_and_cmyk_are_converted():
    palette = Image.fromarray(RGB).quantize(4)
    np.testing.assert_array_equal(decode_image(encoded(palette)), np.asarray(palette.convert("RGB")))
    one_bit = Image.fromarray(GREY).convert("1")
    np.testing.assert_array_equal(decode_image(encoded(one_bit)), np.asarray(one_bit).astype(np.uint8) * 255)
    red = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert decode_image(encoded(red, "TIFF"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped_and_transparency_refused(mode):
    plain = Image.fromarray(RGB if mode == "RGBA" else GREY)
    image = plain.convert(mode)
    np.testing.assert_array_equal(decode_image(encoded(image)), np.asarray(plain))
    image.putpixel((3, 3), (*image.getpixel((3, 3))[:-1], 254))
    with pytest.raises(UnusableImage, match="transparent"):
        decode_image(encoded(image))


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_refused_only_where_it_is_used(mode):
    used, unused = ((9, 8, 7), (1, 1, 1)) if mode == "RGB" else (2, 3)
    image = Image.new(mode, (4, 4), used)
    if mode == "P":
        image.putpalette([0] * 6 + [10, 20, 30, 40, 50, 60])
    with pytest.raises(UnusableImage, match="transparent"):
        decode_image(encoded(image, transparency=used))
    expected = np.asarray(image.convert("RGB") if mode == "P" else image)
    np.testing.assert_array_equal(decode_image(encoded(image, transparency=unused)), expected)


def test_a_transparent_grey_of_16_bits_is_refused_only_where_it_is_used():
    plain = encoded(Image.fromarray(np.full((4, 4), 900, dtype=np.uint16)))

    def keyed(value: int) -> bytes:  # Pillow does not write this chunk for 16 bits
        body = b"tRNS" + struct.pack(">H", value)
        chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
        place = plain.index(b"IDAT") - 4
        return plain[:place] + chunk + plain[place:]

    with pytest.raises(UnusableImage, match="transparent"):
        decode_image(keyed(900))
    assert np.unique(decode_image(keyed(5))).tolist() == [4]


def test_float_and_animated_files_are_refused():
    with pytest.raises(UnusableImage, match="32-bit"):
        decode_image(encoded(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF"))
    with pytest.raises(UnusableImage, match="32-bit"):
        decode_image(encoded(Image.fromarray(np.full((4, 4), 7, dtype=np.int32)), "TIFF"))
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    with pytest.raises(UnusableImage, match="frames"):
        decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def test_exif_orientation_is_applied():
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half
    upright = decode_image(encoded(Image.fromarray(pixels), "PNG", exif=exif))
    np.testing.assert_array_equal(upright, pixels[::-1, ::-1])
    exif[0x0112] = 6
    tall = Image.fromarray(np.zeros((4, 8, 3), dtype=np.uint8))
    assert decode_image(encoded(tall, "JPEG", exif=exif)).shape == (8, 4, 3)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(pixels), "PNG", exif=b"broken")), pixels)


def test_resolution_crops_the_centre_and_leaves_fitting_images_alone():
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(RGB)), 8), RGB)
    wide = np.zeros((8, 12, 3), dtype=np.uint8)
    wide[:, 2:10] = RGB
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(wide)), 8), RGB)
    halved = decode_image(encoded(Image.fromarray(wide)), 4)
    np.testing.assert_array_equal(halved, np.asarray(Image.fromarray(RGB).resize((4, 4), Image.Resampling.LANCZOS)))
    assert decode_image(encoded(Image.fromarray(GREY)), 16).shape == (16, 16)
    same = Image.fromarray(RGB)
    assert fit_square(same, 8) is same


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch):
    bomb = encoded(Image.new("L", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    with pytest.raises(UnusableImage, match="64x64 pixels; such large images are read with --resolution N only"):
        decode_image(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # beyond twice the limit Pillow itself raises
    for resolution in (None, 8):
        with pytest.raises(Image.DecompressionBombError):
            decode_image(bomb, resolution)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_photograph_beyond_the_limit_is_read_at_a_resolution(monkeypatch, file_format, mode):
    x, y = np.meshgrid(np.arange(160), np.arange(120))
    photograph = Image.fromarray(np.stack([x + 20, y + 100, 200 - x], 2).astype(np.uint8)).convert(mode)
    content = encoded(photograph, file_format, **({"quality": 95} if file_format == "JPEG" else {}))
    whole = decode_image(content, 16).astype(int)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 160 * 120 - 1)
    halved = decode_image(content, 16).astype(int)
    assert halved.shape == whole.shape and np.abs(halved - whole).max() <= 4
    assert decode_image(content, 100).shape[:2] == (100, 100)  # too near to its size to be halved


def test_images_are_decoded_together_only_while_they_fit_into_memory(monkeypatch):
    monkeypatch.setattr("nomadiff.data.decoding._AT_ONCE", 100)
    content, seen = encoded(Image.fromarray(RGB)), []
    opaque = decoding._opaque
    monkeypatch.setattr(decoding, "_opaque", lambda *image: (seen.append(decoding._in_work), opaque(*image))[1])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode_image, [content] * 40))
    assert set(seen) == {64} and decoding._in_work == 0


def _png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    plain = encoded(Image.fromarray(RGB))
    extra = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return plain[:33] + extra + plain[33:]


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 1_000_000))],
        [(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"a" * 3_000_000))],
        [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<" * 3_000_000))],
        [(b"iCCP", b"wide\0\0" + zlib.compress(bytes(2_000_000)))],
        [(b"zTXt", b"t%d\0\0" % number + zlib.compress(bytes(1_000_000))) for number in range(70)],
        [(b"tEXt", b"prompt\0" + b"a" * 3_000_000)],
    ],
    ids=["zTXt", "iTXt", "xmp", "icc", "seventy", "tEXt"],
)
def test_what_is_written_in_a_png_does_not_keep_it_from_being_read(chunks):
    np.testing.assert_array_equal(decode_image(_png_with(*chunks)), RGB)


def test_a_png_with_much_text_is_still_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = encoded(Image.fromarray(RGB), "PNG", exif=exif)
    text = b"workflow\0\0" + zlib.compress(b"{}" * 1_000_000)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    np.testing.assert_array_equal(decode_image(turned[:33] + chunk + turned[33:]), RGB[::-1, ::-1])


def test_a_format_without_a_mark_is_tried_under_its_own_name_only():
    content = encoded(Image.fromarray(RGB), "TGA")
    np.testing.assert_array_equal(decode_image(content, name="a.TGA"), RGB)
    with pytest.raises(UnidentifiedImageError):
        decode_image(content, name="a.png")
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(RGB)), name="a.tga"), RGB)


def test_formats_that_start_other_programs_are_never_tried():
    postscript = encoded(Image.fromarray(RGB), "EPS")
    with pytest.raises(Exception) as caught:
        decode_image(postscript)
    assert reason_of(caught.value) == "not an image, or damaged at its start"


@pytest.mark.filterwarnings("ignore")
@given(st.data(), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
@settings(max_examples=150)
def test_damaged_files_give_pixels_or_a_reason_on_one_line(data, file_format):
    content = bytearray(encoded(Image.fromarray(RGB), file_format))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        pixels = decode_image(bytes(content))
    except Exception as error:
        reason = reason_of(error)
        assert reason and "\n" not in reason and len(reason) <= 100
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim in (2, 3)
