"""Pictures as cameras and scanners make them: the pixels that a viewer shows, or one line."""

import contextlib
import io
import os
import socket
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hlrs.data.sources.base import decode, regular
from hlrs.errors import UserError

COLOURS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(content):
    """The pixels that arrive: uint8 [height, width, 3]."""
    image = decode(io.BytesIO(content), "picture")
    assert image.mode == "RGB"
    return np.asarray(image)


def refused(content, message):
    with pytest.raises(UserError, match=message) as caught:
        decode(io.BytesIO(content), "picture")
    assert str(caught.value).startswith("picture: ")
    assert "\n" not in str(caught.value)


# --- orientation ----------------------------------------------------------------------------------------

UPRIGHT = {  # of EXIF's orientations: what is stored -> what is shown
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),  # clockwise, as of a phone held upright
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_once(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(COLOURS, kind, exif=exif, **lossless)
    assert (shown(content) == UPRIGHT[orientation](COLOURS)).all()


def test_a_phones_jpeg_is_upright():
    stored = np.zeros((16, 32, 3), dtype=np.uint8)
    stored[:, :16] = 255  # the left half, which the camera means as the upper one
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = shown(encoded(stored, "JPEG", exif=exif, quality=95))
    assert upright.shape == (32, 16, 3)
    assert upright[:16].min() > 250
    assert upright[16:].max() < 5


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0no TIFF", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x09\0"]
)
def test_broken_exif_turns_nothing_and_warns_of_nothing(exif):
    content = encoded(COLOURS, "PNG", exif=exif)
    with warnings.catch_warnings(action="error"):
        assert (shown(content) == COLOURS).all()


# --- grey levels of more than 8 bits --------------------------------------------------------------------

DEEP = np.array([[0, 128, 129, 257, 25700, 65535]], dtype=np.uint16)
SCALED = [0, 0, 1, 1, 100, 255]  # divided by 257, rounded


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("PNG", DEEP),
        ("TIFF", DEEP),
        ("TIFF", Image.fromarray(DEEP.astype(">u2"))),
        ("TIFF", Image.fromarray(DEEP.astype(np.int32))),
        ("PPM", DEEP),
        ("JPEG2000", DEEP),
    ],
)
def test_sixteen_bit_grey_is_scaled(kind, image):
    assert shown(encoded(image, kind)).tolist() == [[[level] * 3 for level in SCALED]]


def test_a_tiff_whose_white_is_zero():
    content = encoded(DEEP, "TIFF", tiffinfo={262: 0})
    assert DEEP.tobytes() in content
    assert shown(content)[0, :, 0].tolist() == [255, 255, 254, 254, 155, 0]


@pytest.mark.parametrize(("levels", "found"), [([-1, 5], "-1 to 5"), ([0, 65536], "0 to 65,536")])
def test_grey_levels_beyond_sixteen_bits_are_refused(levels, found):
    image = np.array([levels], dtype=np.int32)
    refused(encoded(image, "TIFF"), f"grey levels of {found}; save the image with levels of 0 to 65,535")


# --- transparency, colours ------------------------------------------------------------------------------


def palette(**options):
    """Indices 0, 1, 2 of the colours (10, 20, 30), (40, 50, 60), (70, 80, 90)."""
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode="P")
    image.putpalette(range(10, 100, 10))
    return encoded(image, **options)


RGBA = np.array([[[10, 20, 30, 0], [10, 20, 30, 51], [10, 20, 30, 255]]], dtype=np.uint8)
ON_WHITE = [[255, 255, 255], [206, 208, 210], [10, 20, 30]]  # c/5 + 255·4/5 in the middle


TRANSPARENT = {
    "RGBA": (encoded(RGBA), ON_WHITE),
    "RGBA in TIFF": (encoded(RGBA, "TIFF"), ON_WHITE),
    "RGBA in WebP": (encoded(RGBA, "WEBP", lossless=True, exact=True), ON_WHITE),
    "grey and alpha": (encoded(Image.fromarray(RGBA[..., [0, 3]])), [[255] * 3, [206] * 3, [10] * 3]),
    "opaque palette": (palette(), [[10, 20, 30], [40, 50, 60], [70, 80, 90]]),
    "palette and index": (palette(transparency=1), [[10, 20, 30], [255] * 3, [70, 80, 90]]),
    "palette and alpha": (
        palette(transparency=b"\x00\xff\x33"),
        [[255] * 3, [40, 50, 60], [218, 220, 222]],
    ),
    "GIF": (palette(kind="GIF", transparency=2), [[10, 20, 30], [40, 50, 60], [255] * 3]),
    "colour as key": (encoded(RGBA[..., :3], transparency=(10, 20, 30)), [[255] * 3] * 3),
    "grey as key": (encoded(np.array([[7, 8]], dtype=np.uint8), transparency=7), [[255] * 3, [8] * 3]),
    "16-bit grey as key": (
        encoded(DEEP, transparency=25700),
        [[level] * 3 for level in (0, 0, 1, 1, 255, 255)],
    ),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_is_white(kind):
    content, expected = TRANSPARENT[kind]
    assert shown(content)[0].tolist() == expected


CMYK = np.array([[[0, 255, 255, 0], [255, 0, 0, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], dtype=np.uint8)
PRINTED = [[255, 0, 0], [0, 255, 255], [0, 0, 0], [255, 255, 255]]  # red, cyan, black, paper


def test_cmyk_of_print_and_of_adobe():
    plain = encoded(Image.fromarray(CMYK, mode="CMYK"), "TIFF")
    assert shown(plain)[0].tolist() == PRINTED
    blocks = Image.fromarray(CMYK.repeat(16, 0).repeat(16, 1), mode="CMYK")
    inverted = encoded(blocks, "JPEG", quality=100)
    assert b"Adobe" in inverted
    assert np.abs(shown(inverted)[8, 8::16].astype(int) - PRINTED).max() <= 3


def test_one_bit_images():
    assert shown(encoded(Image.fromarray(np.array([[True, False]]))))[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize(("mode", "what"), [("F", "floating-point pixels"), ("LAB", "Lab colours")])
def test_what_has_no_one_reading_is_refused(mode, what):
    refused(encoded(Image.new(mode, (2, 2)), "TIFF"), f"{what} are not read; save the image as grey or RGB")


# --- several frames, many pixels ------------------------------------------------------------------------

SECOND = Image.fromarray(255 - COLOURS)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_read(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    single = encoded(COLOURS, kind, **options)
    several = encoded(COLOURS, kind, save_all=True, append_images=[SECOND], **options)
    assert several != single
    assert (shown(several) == COLOURS).all()


def test_an_image_of_very_many_pixels(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12)  # Pillow warns of more, and refuses twice as many
    with warnings.catch_warnings(action="error"):
        assert (shown(encoded(COLOURS)) == COLOURS).all()
    refused(encoded(COLOURS.repeat(2, 0)), "larger than the 24 pixels that are read; shrink the image")


def test_broken_images_of_every_kind_take_one_line():
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "JPEG2000"):
        refused(encoded(COLOURS.repeat(20, 0), kind)[:40], "not an image that can be decoded")
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("bomb", "x" * 2**21, zip=True)  # text that unpacks to more than Pillow accepts
    refused(encoded(COLOURS, pnginfo=chunks), "not an image that can be decoded")


# --- files ----------------------------------------------------------------------------------------------


def bind(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # short, as a socket's path must be


SPECIAL = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a socket": bind,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "made up by the kernel": lambda path: path.symlink_to("/proc/self/status"),
    "empty": lambda path: path.touch(),
}


@pytest.mark.parametrize("what", SPECIAL)
def test_what_is_no_regular_file_is_refused_before_it_is_opened(what, tmp_path):
    path = tmp_path / "a.png"
    SPECIAL[what](path)
    (tmp_path / "link.png").symlink_to(path)
    for name in (path, tmp_path / "link.png"):
        with pytest.raises(UserError, match=rf"{name}: {what}[,;]"):
            decode(name, str(name))


def test_regular_files_and_links_to_them_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(COLOURS))
    (tmp_path / "link.png").symlink_to("a.png")
    assert (np.asarray(decode(tmp_path / "link.png", "link")) == COLOURS).all()
    assert regular(str(tmp_path / "link.png")).st_size == len(encoded(COLOURS))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("caf\udce9.png", r"caf\\udce9\.png': the name is not UTF-8; rename it"),
        ("a\0.png", r"a\\x00\.png': .* NUL"),
    ],
)
def test_names_that_no_text_can_hold(name, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        regular(tmp_path / name)
    assert str(caught.value).isascii()
