"""What becomes of transparent, deep, large and empty images."""

import io
import struct
import zlib

import numpy as np
import pytest
from own_images import every_image, load, pixels, save, write

from thanos_jax.data import image_files
from thanos_jax.data import pixels as rules
from thanos_jax.data.splits import DataError
from thanos_jax.errors import ConfigError

SHAPE = (6, 5)


def opened(content):
    return image_files.open_image(io.BytesIO(content))


# Transparency


def shape_in_alpha(number):
    """An image that is black everywhere; its alpha is the picture."""
    return np.dstack([np.zeros((*SHAPE, 3), np.uint8), pixels(number, channels=1)])


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def transparent(mode):
    """An encoded image, and its levels float [h, w, 3] and opacity float [h, w, 1]."""
    from PIL import Image

    rgba = pixels(1, channels=4)
    if mode == "RGBA":
        return saved(Image.fromarray(rgba), "PNG"), rgba[..., :3], rgba[..., 3:] / 255
    if mode == "LA":
        grey = rgba[..., [0, 3]]
        return saved(Image.fromarray(grey, "LA"), "PNG"), grey[..., :1], grey[..., 1:] / 255
    if mode == "P":
        numbers = (rgba[..., 0] % 4).astype(np.uint8)
        image = Image.fromarray(numbers, "P")
        palette = np.arange(12, dtype=np.uint8).reshape(4, 3) * 20
        image.putpalette(palette.tobytes())
        alpha = np.array([0, 90, 180, 255])
        content = saved(image, "PNG", transparency=bytes(alpha.tolist()))
        return content, palette[numbers], alpha[numbers][..., None] / 255
    # One level is transparent, of an image without an alpha channel.
    grey = (rgba[..., 0] // 64 * 64).astype(np.uint8)
    content = saved(Image.fromarray(grey), "PNG", transparency=64)
    return content, grey[..., None], (grey != 64)[..., None].astype(float)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
@pytest.mark.parametrize("matte", rules.MATTES)
def test_transparent_pixels_show_the_background(mode, matte):
    content, levels, opacity = transparent(mode)
    expected = opacity * levels + (1 - opacity) * rules.MATTES[matte]
    with opened(content) as image:
        assert rules.header(image).grey == (mode in ("LA", "L"))
        found = np.asarray(rules.convert(image, "RGB", matte=matte)).astype(float)
    assert 0 < opacity.mean() < 1
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("channels", ["RGBA", "LA"])
def test_a_shape_in_the_alpha_channel_is_seen(tmp_path, channels, capsys):
    from PIL import Image

    write(tmp_path)
    for number in range(10):
        for fine in ("cat", "dog", "cow"):
            image = Image.fromarray(shape_in_alpha(len(fine) * number + ord(fine[0])))
            image.convert(channels).save(tmp_path / fine / f"{number}.png")
    dataset = load(tmp_path)
    expected = 255 - shape_in_alpha(ord("c"))[..., 3:]
    assert dataset.image_shape == (*SHAPE, 3 if channels == "RGBA" else 1)
    assert expected.repeat(dataset.image_shape[2], -1).tobytes() in every_image_bytes(dataset)
    assert capsys.readouterr().err == ""
    load(tmp_path, matte="black")
    said = capsys.readouterr().err
    assert "WARNING: folder: the training images are all alike, up to 0.0 of 255 levels" in said
    assert "data.matte" in said
    with pytest.raises(ConfigError, match=r"data\.matte: expected one of white, grey, black, got"):
        load(tmp_path, matte="pink")


def every_image_bytes(dataset):
    return {image.tobytes() for split in dataset.splits.values() for image in split.images}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("empty", "words"),
    [
        (lambda number: number < 3, "images looked at are of one colour; the first: "),
        (lambda number: True, "training images are all alike"),
        (lambda number: False, ""),
    ],
)
def test_training_images_with_nothing_in_them_are_named(tmp_path, capsys, empty, words, stream):
    write(tmp_path)
    for number in filter(empty, range(10)):
        for fine in ("cat", "dog", "cow"):
            save(tmp_path / fine / f"{number}.png", np.full((*SHAPE, 3), 7, np.uint8))
    load(tmp_path, memory_limit_gib=0.0 if stream else 4.0)
    said = capsys.readouterr().err
    assert (words in said) if words else said == ""
    if "one colour" in words:
        assert said.count(".png") == 3


# More than 8 bits


def png(samples, kind):
    """A PNG of big-endian uint16 samples [h, w, c]; kind is its colour type."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(samples):
    """An uncompressed little-endian TIFF of uint16 samples [h, w, 3]."""
    height, width, channels = samples.shape
    data = samples.astype("<u2").tobytes()
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 + len(data)), (259, 3, 1, 1),
               (262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height),
               (279, 4, 1, len(data))]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4
    head = b"II*\0" + struct.pack("<I", 8 + len(data) + 6)
    return head + data + struct.pack("<HHH", 16, 16, 16) + directory


def netpbm(samples, magic, most=65535):
    height, width = samples.shape[:2]
    return b"%s %d %d %d\n" % (magic, width, height, most) + samples.astype(">u2").tobytes()


def sgi(samples):
    height, width, channels = samples.shape
    head = struct.pack(">hBBHHHH", 474, 0, 2, 3, width, height, channels).ljust(512, b"\0")
    return head + np.moveaxis(samples[::-1], -1, 0).astype(">u2").tobytes()


def deep(kind):
    """An encoded image, and its samples uint16 [h, w, c]."""
    from PIL import Image

    channels = {"grey": 1, "grey alpha": 2, "rgba": 4, "pgm": 1, "grey tiff": 1, "j2k": 1}
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 65536, (*SHAPE, channels.get(kind, 3)), np.uint16)
    if kind in ("grey alpha", "rgba"):
        samples[..., -1] = 65535
    kinds = {"grey": 0, "rgb": 2, "grey alpha": 4, "rgba": 6}
    if kind in kinds:
        return png(samples, kinds[kind]), samples
    if kind in ("grey tiff", "j2k"):
        options = {"irreversible": False} if kind == "j2k" else {}
        image = Image.fromarray(samples[..., 0])
        return saved(image, "TIFF" if "tiff" in kind else "JPEG2000", **options), samples
    make = {"ppm": lambda: netpbm(samples, b"P6"), "pgm": lambda: netpbm(samples, b"P5"),
            "tiff": lambda: tiff(samples), "sgi": lambda: sgi(samples)}[kind]  # fmt: skip
    return make(), samples


KINDS = ("grey", "rgb", "grey alpha", "rgba", "grey tiff", "tiff", "pgm", "ppm", "sgi", "j2k")


@pytest.mark.parametrize("kind", KINDS)
def test_deep_images_are_seen_to_be_so_and_their_upper_bits_kept(kind):
    content, samples = deep(kind)
    with opened(content) as image:
        found = rules.header(image)
        assert found.deep
        assert found.scalable
        colours = 3 if samples.shape[2] > 2 else 1
        result = np.asarray(rules.convert(image, "RGB" if colours == 3 else "L"))
    expected = samples[..., :colours] >> 8
    # Netpbm's are rounded.
    assert np.abs(result.reshape(expected.shape).astype(int) - expected).max() <= (kind == "ppm")


def test_deep_images_are_refused_or_scaled(tmp_path):
    write(tmp_path)
    content, samples = deep("rgb")
    (tmp_path / "cow" / "9.png").write_bytes(content)
    with pytest.raises(
        DataError,
        match=r"cow/9\.png, .*line 31: pixels of mode RGB;16B, expected 8 bits .*deep_images=scale",
    ):
        load(tmp_path)
    expected = (samples >> 8).astype(np.uint8).tobytes()
    assert expected in every_image(load(tmp_path, deep_images="scale"))


def test_what_has_no_scale_is_refused_either_way(tmp_path):
    from PIL import Image

    write(tmp_path)
    for image in (
        Image.fromarray(np.ones(SHAPE, np.float32)),
        Image.fromarray(np.ones(SHAPE, np.int32)),
    ):
        image.save(tmp_path / "cow" / "9.png", "TIFF")
        with pytest.raises(DataError, match=r"line 31: pixels of mode [IF], .* channel$"):
            load(tmp_path, deep_images="scale")


@pytest.mark.parametrize(
    ("content", "bits"),
    [
        (b"..ftypavif..av1C\x81\x05\x4c\0", 10),
        (b"..ftypavif..av1C\x81\x05\x6c\0", 12),
        (b"..ftypavif..av1C\x81\x05\x0c\0", 8),
        (b"no box", 8),
    ],
)
def test_bits_of_avif(content, bits):
    assert rules._avif_bits(content) == bits


def test_images_of_eight_bits_or_fewer_are_not_deep():
    from PIL import Image

    colour = Image.fromarray(pixels(0))
    files = [saved(colour.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    files += [saved(colour, kind) for kind in ("JPEG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000")]
    files.append(saved(colour.quantize(8), "PNG", bits=4))
    # Five bits of each channel, sixteen of a pixel.
    head = struct.pack("<IiiHHIIiiII", 40, 5, 6, 1, 16, 0, 72, 0, 0, 0, 0)
    files.append(b"BM" + struct.pack("<IHHI", 14 + 40 + 72, 0, 0, 54) + head + bytes(72))
    for content in files:
        with opened(content) as image:
            assert rules.header(image).deep == "", image.format


# Many pixels


def test_large_images_are_read_within_a_stated_limit(tmp_path, monkeypatch):
    from PIL import Image

    write(tmp_path)
    expected = every_image(load(tmp_path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # an image of 21 is a bomb to Pillow
    assert every_image(load(tmp_path)) == expected
    assert Image.MAX_IMAGE_PIXELS == 10
    large = pixels(5, height=40, width=50)
    save(tmp_path / "dog" / "2.png", large)
    options = {"image_size": 4, "max_megapixels": 0.001}
    words = (
        r"dog/2\.png, .*: data\.max_megapixels: expected at most 0\.001 million pixels, got 0\.0"
        r" \(50 x 40\)"
    )
    with pytest.raises(DataError, match=words):
        load(tmp_path, **options)
    assert load(tmp_path, on_damaged="skip", **options).skipped[0].startswith("t")
    assert len(load(tmp_path, image_size=4).splits["test"]) == 6
    with pytest.raises(ConfigError, match=r"data\.max_megapixels: expected above 0"):
        load(tmp_path, max_megapixels=0.0)
