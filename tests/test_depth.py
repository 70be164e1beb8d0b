"""Images of more than 8 bits: pixel values after reading, by the closed form round(255 (v - LOW) / (HIGH - LOW))."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffusion import InputError, InputWarning
from diffusion.api import _rgb
from diffusion.data import depth, images
from diffusion.data.datasets import dataset_of, load_dataset
from diffusion.data.images import open_rgb, to_rgb
from diffusion.matching.benchmarks import load_items

SHAPE = (6, 5)
RAMP = np.linspace(0, 1, 30).reshape(SHAPE)  # shares of the range
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
TYPES = {"H": 3, "L": 4, "f": 11, "h": 8, "l": 9}


def tiff(path, array, photometric=1, extra=None, order="<", planar=1, compress=False, **tags):
    """A TIFF as its specification (6.0) lays it out; tags as t340=("H", [0])."""
    array = np.asarray(array)
    height, width, *rest = array.shape
    samples = rest[0] if rest else 1
    bits, form = array.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    planes = np.moveaxis(array, -1, 0) if planar == 2 else array
    data = planes.astype(array.dtype.newbyteorder(order)).tobytes()
    strips = samples if planar == 2 else 1
    size = len(data) // strips
    data = zlib.compress(data) if compress else data
    fields = {
        256: ("L", [width]), 257: ("L", [height]), 258: ("H", [bits] * samples), 259: ("H", [8 if compress else 1]),
        262: ("H", [photometric]), 277: ("H", [samples]), 278: ("L", [height]), 284: ("H", [planar]),
        339: ("H", [form] * samples), 273: ("L", [0] * strips), 279: ("L", [len(data) if compress else size] * strips),
    }  # fmt: skip
    fields |= {} if extra is None else {338: ("H", list(extra))}
    fields |= {int(name[1:]): field for name, field in tags.items()}
    start = 8 + 2 + 12 * len(fields) + 4

    def directory():
        entries, values = b"", b""
        for tag, (kind, numbers) in sorted(fields.items()):
            packed = struct.pack(order + kind * len(numbers), *numbers)
            head = struct.pack(order + "HHL", tag, TYPES[kind], len(numbers))
            if len(packed) <= 4:
                entries += head + packed.ljust(4, b"\0")
            else:
                entries += head + struct.pack(order + "L", start + len(values))
                values += packed
        return entries, values

    first = start + len(directory()[1])
    fields[273] = ("L", [first + k * size for k in range(strips)])
    entries, values = directory()
    mark = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(order + "H", len(fields))
    path.write_bytes(mark + struct.pack(order + "L", 8) + count + entries + bytes(4) + values + data)


def png(path, array, colour, chunks=()):
    """A 16-bit PNG: colour type 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""

    def chunk(name, data):
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    array = np.asarray(array)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">LLBBBBB", array.shape[1], array.shape[0], 16, colour, 0, 0, 0)
    body = [chunk(b"IHDR", head), *(chunk(*each) for each in chunks), chunk(b"IDAT", zlib.compress(rows))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b""))


def expected(values, low, high):
    eight = (((np.asarray(values, float) - low) / (high - low)).clip(0, 1) * 255).round()
    return np.repeat(eight[..., None], 3, -1) if eight.ndim == 2 else eight


def read(path, value_range=None):
    ranges = {} if value_range is None else dict.fromkeys(depth.KINDS, value_range)
    return np.asarray(open_rgb(path, ranges=ranges), float)


def whole(shares, top, kind="u2"):
    return (shares * top).round().astype(kind)


def values(kind):
    """12 bits, 32-bit values of 8 bits, CT, floats: their values and their range."""
    return {
        "u2": (whole(RAMP, 4095), (0, 4095)),
        "u4": (whole(RAMP, 3_000_000_000, "u4"), (0, 3_000_000_000)),
        "i2": (whole(RAMP, 3000, "i2") - np.int16(1000), (-1000, 2000)),
        "i4": (whole(RAMP, 255, "i4"), (0, 255)),
        "f4": ((RAMP * 2 - 1).astype("f4"), (-1, 1)),
    }[kind]


@pytest.mark.parametrize("kind", ["u2", "u4", "i2", "i4", "f4"])
@pytest.mark.parametrize("order", "<>")
def test_grey_tiffs_are_scaled_by_the_range_that_is_asked_for(tmp_path, kind, order):
    array, span = values(kind)
    tiff(tmp_path / "a.tif", array, order=order)
    if (kind, order) == ("u4", ">"):
        with pytest.raises(OSError, match=r"a\.tif"):  # Pillow cannot read it
            read(tmp_path / "a.tif", span)
        return
    assert np.abs(read(tmp_path / "a.tif", span) - expected(array, *span)).max() == 0
    narrow = span[0] + (span[1] - span[0]) / 4, span[1]
    assert np.abs(read(tmp_path / "a.tif", narrow) - expected(array, *narrow)).max() == 0


@pytest.mark.parametrize("kind", ["u2", "u4", "i2", "i4", "f4"])
def test_what_nothing_says_is_refused_or_guessed_aloud(tmp_path, kind):
    """A file alone is an OSError that names it; of a data set a warning says what was found; both name the option."""
    array, span = values(kind)
    folder = tmp_path / "images"
    folder.mkdir()
    tiff(folder / "a.tif", array if kind != "u4" else array // 3)
    with pytest.raises(OSError, match=r"a\.tif.*--value_range LOW HIGH"):
        read(folder / "a.tif")
    with pytest.warns(InputWarning, match=r"1 of the 1 image looked at.*A guess: .*--value_range LOW HIGH"):
        data = load_dataset(str(folder))
    likely = {"u2": (0, 4095), "u4": (0, 2**32 - 1), "i2": (-1000, 2000), "i4": (0, 255), "f4": (-1, 1)}[kind]
    stored = array if kind != "u4" else array // 3
    assert data.ranges == {depth.read_samples(Image.open(folder / "a.tif")).kind: likely}
    assert np.array_equal(np.asarray(data.open(0)), expected(stored, *likely))
    data = load_dataset(str(folder), value_range=span)
    assert np.array_equal(np.asarray(data.open(0)), expected(stored, *span)) and data.value_range == span


def test_images_that_do_not_fit_a_guess_are_not_read(tmp_path, monkeypatch):
    """Of many images some are looked at; one that goes beyond them is named when its turn comes."""
    monkeypatch.setattr(images, "LOOKED_AT", 2)
    for k, top in enumerate((1000, 3000, 1000)):
        png(tmp_path / f"{k}.png", whole(RAMP, top)[..., None], 0)
    with pytest.warns(InputWarning, match=r"2 of the 2 .*white 1023"):
        data = load_dataset(str(tmp_path))
    assert np.array_equal(np.asarray(data.open(2)), expected(whole(RAMP, 1000), 0, 1023))
    with pytest.raises(OSError, match=r"1\.png.* outside 0 to 1023, a guess; --value_range"):
        data.open(1)


@pytest.mark.parametrize("channels, colour", [(1, 0), (3, 2), (4, 6)])
def test_deep_pngs_keep_all_their_bits(tmp_path, channels, colour):
    """Of 12 bits in 16; Pillow alone gives at most 15 of 255 for colours. Alpha is of 16 bits."""
    array = whole(RAMP, 4095)[..., None] if channels == 1 else whole(COLOURS, 4095)
    alpha = whole(RAMP[::-1, ::-1], 65535)[..., None]
    png(tmp_path / "a.png", np.concatenate([array, alpha], -1) if channels == 4 else array, colour)
    wanted = expected(np.broadcast_to(array, (*SHAPE, 3)), 0, 4095)
    if channels == 4:
        share = (alpha / 257).round() / 255
        wanted = wanted * share + 255 * (1 - share)
    assert np.abs(read(tmp_path / "a.png", (0, 4095)) - wanted).max() <= (channels == 4)  # Pillow's rounding
    with pytest.raises(OSError, match=r"0 to 4095 .*perhaps 0 4095"):
        read(tmp_path / "a.png")
    png(tmp_path / "whole.png", whole(COLOURS, 65535), 2)
    assert np.array_equal(read(tmp_path / "whole.png"), expected(whole(COLOURS, 65535), 0, 65535))


def test_deep_grey_with_alpha_is_whole_or_refused(tmp_path):
    """Pillow decodes its upper 8 bits alone."""
    alpha = np.full((*SHAPE, 1), 65535)
    png(tmp_path / "whole.png", np.concatenate([whole(RAMP, 65535)[..., None], alpha], -1), 4)
    assert np.abs(read(tmp_path / "whole.png") - expected(whole(RAMP, 65535), 0, 65535)).max() <= 1
    png(tmp_path / "part.png", np.concatenate([whole(RAMP, 4095)[..., None], alpha], -1), 4)
    for span in (None, (0, 4095)):
        with pytest.raises(OSError, match=r"part\.png"):
            read(tmp_path / "part.png", span)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("bands, extra", [(3, None), (4, (0,)), (4, (2,)), (4, None)])
def test_deep_colours_of_tiff(tmp_path, order, compress, bands, extra):
    """All 16 bits; a fourth band is transparency only if ExtraSamples says so, else near infrared or the like."""
    fourth = whole(RAMP, 65535)[..., None]
    array = np.concatenate([whole(COLOURS, 4095), fourth], -1)[..., :bands]
    tiff(tmp_path / "a.tif", array, 2, extra, order, compress=compress)
    wanted = expected(array[..., :3], 0, 4095)
    if extra == (2,):
        share = (fourth / 257).round() / 255
        wanted = wanted * share + 255 * (1 - share)
    assert np.abs(read(tmp_path / "a.tif", (0, 4095)) - wanted).max() <= (extra == (2,))
    with pytest.raises(OSError, match=r"4095 .uint16."):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("extra, veiled", [(None, False), ((0,), False), ((2,), True)])
def test_near_infrared_is_no_transparency(tmp_path, extra, veiled):
    array = np.concatenate([whole(COLOURS, 255, "u1"), np.full((*SHAPE, 1), 90, "u1")], -1)
    (tmp_path / "images").mkdir()
    tiff(tmp_path / "images/a.tif", array, 2, extra)
    if veiled:  # the file says that it is: warned of
        with pytest.warns(InputWarning, match=r"fourth band of .*a\.tif is marked as transparency"):
            load_dataset(str(tmp_path / "images"))
    else:
        assert np.array_equal(np.asarray(load_dataset(str(tmp_path / "images")).open(0)), array[..., :3])


@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_white_is_zero(tmp_path, kind):
    array = whole(RAMP, 65535) if kind == "u2" else RAMP.astype("f4")
    tiff(tmp_path / "a.tif", array, photometric=0)
    assert np.array_equal(read(tmp_path / "a.tif"), 255 - expected(array, 0, 65535 if kind == "u2" else 1))


def test_separate_planes_of_16_bits_are_refused(tmp_path):
    tiff(tmp_path / "a.tif", whole(COLOURS, 65535), 2, planar=2)
    with pytest.raises(OSError, match="separate planes"):
        read(tmp_path / "a.tif")
    tiff(tmp_path / "b.tif", whole(COLOURS, 255, "u1"), 2, planar=2)
    assert np.array_equal(read(tmp_path / "b.tif"), whole(COLOURS, 255, "u1"))


def test_what_files_declare(tmp_path):
    """Ranges of TIFF, PGM and PNG; one that its values exceed does not count."""
    twelve = whole(RAMP, 3000)
    tiff(tmp_path / "a.tif", twelve, t280=("H", [0]), t281=("H", [4095]))
    tiff(tmp_path / "b.tif", (RAMP * 2 - 1).astype("f4"), t340=("f", [-1.0]), t341=("f", [1.0]))
    (tmp_path / "c.pgm").write_bytes(b"P5 5 6 4095\n" + twelve.astype(">u2").tobytes())
    (tmp_path / "d.pgm").write_text("P2 5 6 4095\n" + " ".join(map(str, twelve.ravel())))
    png(tmp_path / "e.png", twelve[..., None], 0, [(b"sBIT", bytes([12]))])
    png(tmp_path / "f.png", (whole(RAMP, 4095) << 4)[..., None], 0, [(b"sBIT", bytes([12]))])  # as PNG wants it
    png(tmp_path / "g.png", whole(COLOURS, 3000), 2, [(b"sBIT", bytes([12] * 3))])
    for name in ("a.tif", "c.pgm", "d.pgm", "e.png"):
        assert np.array_equal(read(tmp_path / name), expected(twelve, 0, 4095)), name
        assert np.array_equal(read(tmp_path / name, (0, 3000)), expected(twelve, 0, 3000)), name
    assert np.array_equal(read(tmp_path / "b.tif"), expected(RAMP * 2 - 1, -1, 1))
    assert np.array_equal(read(tmp_path / "f.png"), expected(whole(RAMP, 4095) << 4, 0, 65535))
    assert np.array_equal(read(tmp_path / "g.png"), expected(whole(COLOURS, 3000), 0, 4095))
    tiff(tmp_path / "h.tif", twelve, t280=("H", [0]), t281=("H", [2000]))
    with pytest.raises(OSError, match="0 to 3000"):
        read(tmp_path / "h.tif")


@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_2000_says_its_bits(tmp_path, bits):
    """A codestream of 16 bits whose header is made to say 12 decodes to other values, but the range is the header's."""
    Image.fromarray(whole(RAMP, 65535)).resize((64, 64)).save(tmp_path / "a.j2k", irreversible=False)
    content = bytearray((tmp_path / "a.j2k").read_bytes())
    assert content[:4] == b"\xff\x4f\xff\x51" and content[42] == 15  # Ssiz: bits less 1
    with Image.open(io.BytesIO(content)) as image:
        assert depth.read_samples(image).declared is None
    content[42] = bits - 1
    with Image.open(io.BytesIO(content)) as image:
        declared = depth.read_samples(image).declared
    assert declared == (None if bits == 16 else (0, 4095))


def test_a_data_set_is_read_by_one_range(tmp_path):
    """A dark image beside bright ones stays dark; ranges that differ from image to image are statistics of each."""
    for name in ("dark", "differ"):
        (tmp_path / name).mkdir()
    dark = whole(RAMP, 800)
    png(tmp_path / "dark/a.png", dark[..., None], 0)
    png(tmp_path / "dark/b.png", whole(RAMP, 65535)[..., None], 0)
    with pytest.warns(InputWarning, match=r"2 of the 2 .*0 to 65535 .*white 65535; --value_range"):
        data = load_dataset(str(tmp_path / "dark"))
    assert np.array_equal(np.asarray(data.open(0)), expected(dark, 0, 65535)) and data.ranges == {"uint16": (0, 65535)}
    for k, top in enumerate((1000, 3000)):
        array = whole(RAMP, top)
        tiff(tmp_path / f"differ/{k}.tif", array, t280=("H", [0]), t281=("H", [top]))
    with pytest.warns(InputWarning, match=r"0 to 3000 .*A guess"):
        data = load_dataset(str(tmp_path / "differ"))
    for k, top in enumerate((1000, 3000)):
        assert np.array_equal(np.asarray(data.open(k)), expected(whole(RAMP, top), 0, 4095))


def test_single_bright_pixels_are_no_evidence(tmp_path):
    """65535 marks what was not measured in many files of 12 bits."""
    (tmp_path / "images").mkdir()
    array = np.full((100, 100), 4000, "u2")
    array[0, :5] = 65535
    png(tmp_path / "images/a.png", array[..., None], 0)
    with pytest.warns(InputWarning, match=r"4000 to 65535 .*A guess"):
        data = load_dataset(str(tmp_path / "images"))
    assert data.ranges == {"uint16": (0, 4095)}
    assert np.array_equal(np.asarray(data.open(0)), expected(array, 0, 4095))


@pytest.mark.parametrize("given", [(5, 5), (7, 3), (0, float("nan")), (0,), "x", 3])
def test_a_range_is_two_numbers(tmp_path, given):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="--value_range"):
        load_dataset(str(tmp_path), value_range=given)


def test_a_range_for_images_of_8_bits(tmp_path):
    Image.fromarray(whole(RAMP, 200, "u1")).save(tmp_path / "a.png")
    with pytest.warns(InputWarning, match="--value_range is for images of more than 8 bits"):
        data = load_dataset(str(tmp_path), value_range=(0, 100))
    assert np.array_equal(np.asarray(data.open(0)), expected(whole(RAMP, 200), 0, 255))
    with pytest.raises(InputError, match="--value_range"):
        load_dataset("digits", value_range=(0, 100))


def test_from_python(tmp_path):
    """A path, an array and a PIL image by the same range."""
    array = values("i2")[0]
    tiff(tmp_path / "a.tif", array)
    for given in (tmp_path / "a.tif", array, Image.fromarray(array.astype("i4"))):
        assert np.array_equal(np.asarray(_rgb(given, (-1000, 2000))), expected(array, -1000, 2000))
    for given in (array, Image.fromarray(array.astype("i4"))):
        with pytest.raises(InputError, match="value_range"):
            _rgb(given, None)


def test_images_of_a_matching_benchmark(tmp_path):
    png(tmp_path / "a.png", whole(RAMP, 4095)[..., None], 0)
    line = {"image_0": "a.png", "image_1": "a.png", "caption_0": "a", "caption_1": "b"}
    (tmp_path / "examples.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8-sig")
    with pytest.warns(InputWarning, match="--value_range"):
        load_items(str(tmp_path))
    items = load_items(str(tmp_path), value_range=(0, 4095))
    assert np.array_equal(np.asarray(items.open(0, 1)), expected(whole(RAMP, 4095), 0, 4095))


def test_a_run_knows_its_range(tmp_path, run_main, model_folder):
    """It is part of run.json, where the pictures of the run find it; another range is another run."""
    for k, word in enumerate(("three", "five")):
        (tmp_path / "mine" / word).mkdir(parents=True)
        ink = np.asarray(load_dataset("digits").open(k).convert("L")) / 255
        png(tmp_path / "mine" / word / "a.png", whole(ink, 4095)[..., None], 0)
    args = ["eval_prob_adaptive.py", "--version", model_folder, "--device", "cpu", "--max_samples", "4"]
    args += ["--search", "race", "--dataset", tmp_path / "mine"]
    done = run_main(*args, "--value_range", "0", "4095")
    assert done.code == 0, done.err
    (path,) = (tmp_path / "data").rglob("run.json")
    about = json.loads(path.read_text())
    assert about["options"]["value_range"] == [0, 4095]
    assert np.asarray(dataset_of(about).open(0)).max() > 100
    other = run_main(*args, "--value_range", "0", "65535")
    assert other.code == 2 and "value_range" in other.err


def test_broken_exif_costs_the_turn_alone(tmp_path):
    image = Image.fromarray(whole(COLOURS, 255, "u1"))
    image.save(tmp_path / "a.png", exif=b"b'Exif\\x00\\x00'")
    image.save(tmp_path / "b.webp", exif=b"garbage", lossless=True)
    image.save(tmp_path / "c.tif")
    for name in ("a.png", "b.webp", "c.tif"):
        assert np.array_equal(np.asarray(open_rgb(tmp_path / name)), np.asarray(image)), name


def test_deep_images_are_turned_upright(tmp_path):
    """And TIFF of 8 bits, which Pillow 13.0.0 turns wrongly where it maps it into memory."""
    exif = Image.Exif()
    exif[0x0112] = 6
    array = whole(RAMP, 65535)
    for name in ("a.png", "b.tif"):
        Image.fromarray(array).save(tmp_path / name, exif=exif)
        assert np.array_equal(read(tmp_path / name), expected(np.rot90(array, -1), 0, 65535)), name
    Image.fromarray(whole(RAMP, 255, "u1")).save(tmp_path / "c.tif", exif=exif)
    assert np.array_equal(read(tmp_path / "c.tif"), expected(whole(np.rot90(RAMP, -1), 255), 0, 255))


def test_animations_and_pages_are_named(tmp_path):
    """The first is taken; smaller copies in the same file are no pages."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "b.tif", "c.webp", "d.png"):
        folder = tmp_path / name[0]
        folder.mkdir()
        frames[0].save(
            folder / name, save_all=True, append_images=frames[1:], **({"lossless": True} if name == "c.webp" else {})
        )
        with pytest.warns(InputWarning, match="only the first frame or page"):
            data = load_dataset(str(folder))
        assert data.open(0).getpixel((0, 0)) == (255, 0, 0)


def test_the_users_image_is_left_as_it_is():
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6
    assert to_rgb(image).size == (2, 4) and image.size == (4, 2) and image.getexif()[0x0112] == 6
