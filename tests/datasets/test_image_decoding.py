import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from quickstudy.datasets import images
from quickstudy.datasets.images import ImageError, decode


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rgb(source, size=8):
    return decode(source, "x", size=size, channels=3)


def flat(mode, colour):
    return Image.new(mode, (8, 8), colour)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (flat("RGB", (10, 20, 30)), (10, 20, 30)),
        (flat("L", 77), (77, 77, 77)),
        (flat("1", 1), (255, 255, 255)),
        (flat("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (flat("RGBA", (10, 20, 30, 0)), (255, 255, 255)),  # what cannot be seen is paper
        (flat("LA", (0, 51)), (204, 204, 204)),  # a fifth of black over white
        (flat("I;16", 257 * 99), (99, 99, 99)),
        (flat("I;16", 65535), (255, 255, 255)),
    ],
)
def test_modes(image, expected):
    assert rgb(encoded(image)).transpose(1, 2, 0).reshape(-1, 3).tolist() == [list(expected)] * 64


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((0, 0), 1)
    found = rgb(encoded(image, transparency=0))
    assert found[:, 4, 4].tolist() == [255, 255, 255]
    assert found[:, 0, 0].tolist() == [0, 0, 200]


def test_cmyk_jpeg():
    found = rgb(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = found.reshape(3, -1).mean(1)
    assert red > 200
    assert max(green, blue) < 60


def test_conversion_to_grey():
    assert decode(encoded(flat("RGB", (255, 255, 255))), "x", size=5, channels=1).shape == (1, 5, 5)
    assert rgb(encoded(flat("L", 3)), size=5).shape == (3, 5, 5)


def test_exif_orientation_is_applied():
    image = Image.new("L", (8, 8), 0)
    image.paste(255, (0, 0, 8, 2))  # bright at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    found = decode(encoded(image, exif=exif), "x", size=8, channels=1)[0]
    assert found[:, -1].min() == 255  # now at the right
    assert found[:, 0].max() == 0


def test_the_middle_square_is_kept():
    image = Image.new("L", (300, 100), 0)
    image.paste(200, (100, 0, 200, 100))
    found = decode(encoded(image), "x", size=20, channels=1)[0]
    assert (found[:, 2:-2] == 200).all()
    assert found.min() > 150  # the outermost pixels reach a little beyond the square


def test_every_format_gives_the_same_image():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    expected = np.asarray(image).transpose(2, 0, 1)
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(rgb(encoded(image, kind)), expected)
    assert np.array_equal(rgb(encoded(image, "WEBP", lossless=True)), expected)


def noise():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.8])
def test_a_truncated_image_is_named(kind, keep):
    data = encoded(noise(), kind)
    with pytest.raises(ImageError, match=r"^photo\.x: "):
        decode(data[: int(keep * len(data))], "photo.x", size=8, channels=3)


@pytest.mark.parametrize("data", [b"", b"hello\n" * 50, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x00" * 99])
def test_a_file_that_is_not_an_image_is_named(data):
    with pytest.raises(ImageError, match=r"^notes\.txt: not an image.*Remove the file"):
        decode(data, "notes.txt", size=8, channels=3)


def test_postscript_is_never_opened(tmp_path):
    stream = io.BytesIO()
    noise().save(stream, "EPS")
    with pytest.raises(ImageError, match="not an image"):
        rgb(stream.getvalue())


@pytest.mark.parametrize("size", [(1, 1), (3, 500)])
def test_too_small_an_image_is_refused(size):
    with pytest.raises(ImageError, match=f"dot: {size[0]} x {size[1]} pixels is too small"):
        decode(encoded(Image.new("RGB", size)), "dot", size=8, channels=3)


def bomb(width, height):
    """A PNG of few bytes whose header promises width x height pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_600, 10_100, 30_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # refused, not warned of
        with pytest.raises(ImageError, match=r"^bomb\.png: too large|^bomb\.png: cannot be read"):
            decode(bomb(side, side), "bomb.png", size=8, channels=3)


def test_the_limit_counts_pixels(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 63)
    with pytest.raises(ImageError, match="too large"):
        rgb(encoded(noise()))
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64)
    rgb(encoded(noise()))


def test_pixels_without_an_agreed_range_are_refused():
    with pytest.raises(ImageError, match="floating-point"):
        rgb(encoded(Image.new("F", (8, 8), 0.5), "TIFF"))
    with pytest.raises(ImageError, match="32-bit"):
        rgb(encoded(Image.new("I", (8, 8), 10**6), "TIFF"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match="there is no such file"):
        decode(tmp_path / "gone.png", "gone.png", size=8, channels=3)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="channels must be 1"):
        decode(encoded(noise()), "x", size=8, channels=4)
    with pytest.raises(ValueError, match="size must be at least 1"):
        decode(encoded(noise()), "x", size=0, channels=3)


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    """A scan of a few bytes is decoded over all pixels: 70 kB of scans take minutes."""
    data = encoded(Image.new("L", (2000, 2000)), "JPEG", progressive=True)
    assert decode(data, "x", size=8, channels=1).shape == (1, 8, 8)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match=r"x: 1,006 scans of 2000 x 2000 pixels"):
        decode(data[:-2] + 1000 * scan + data[-2:], "x", size=8, channels=1)


def test_all_16_bit_levels_become_the_nearest_of_8_bits():
    levels = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    found = decode(encoded(Image.fromarray(levels)), "x", size=256, channels=1)
    assert np.array_equal(found[0], np.rint(levels / 257).astype(np.uint8))


def test_a_file_of_too_many_bytes_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(encoded(flat("L", 1)))
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(ImageError, match=r"x: over 10 bytes"):
        rgb(tmp_path / "x.png")
