"""Images of more than 8 bits a sample: the values that a file holds, and which of them are black and white.

Values of 8 bits are 0..255. Deeper files often use only a part of their type, as 12 bits of 16, and a wrong range
makes images nearly black, or cuts them, without an error. So the range is, in this order,

    value_range     the one that the user asks for
    declared        the one in the file: BitsPerSample of 9 to 15, SMinSampleValue and SMaxSampleValue (or
                    MinSampleValue and MaxSampleValue) of TIFF, maxval of PGM, the precision of JPEG 2000, sBIT of PNG;
                    for a data set, if all of its images declare the same: else they are statistics of each image
    the type's      0..65535, 0..4294967295, or 0..1 of floats, if some image has one pixel in 1000 in its upper half
    guessed         for a data set, from the values of all images looked at, with a warning; images that do not fit
                    are not counted. For a single image nothing is guessed: ValueError with the values found

It is one range for all images of a data set: stretching each image would change how bright they are beside each other.

Pillow 13.0.0 decodes colours of 16 bits to their upper 8, so 12 bits become 0..15; does not invert WhiteIsZero of 16
bits and of floats; reads unsigned 32 bits as signed; and mixes up colours that are stored as separate planes of 16
bits. All of these are put right here, or refused. (torchvision.io keeps 16 bits of PNG, but is deprecated since 0.29.)
"""

import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real

import numpy as np
from PIL import Image

from diffusion import InputError

Range = tuple[float, float]  # black, white

KINDS = ("uint16", "int16", "uint32", "int32", "float32")
WHOLE = {
    "uint16": (0.0, 65535.0),
    "uint32": (0.0, 4294967295.0),
    "float32": (0.0, 1.0),
}  # ranges of types that have one

BRIGHT = 0.999
BEYOND = 0.01

BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 284, 338, 339  # tags of TIFF
EXTREMES = ((340, 341), (280, 281))  # SMinSampleValue, SMaxSampleValue; MinSampleValue, MaxSampleValue
ALPHA = {1, 2, 999}  # of ExtraSamples; 999 is Corel's


@dataclass(frozen=True)
class Samples:
    """The values of an image as they are in its file."""

    values: np.ndarray  # [h, w] or [h, w, 3]
    kind: str  # one of KINDS
    declared: Range | None = None
    alpha: np.ndarray | None = None  # [h, w] uint8
    inverted: bool = False  # the lowest value is white
    eight: float | None = None  # only 8 bits of more were decoded, of which 255 stands for this value

    @property
    def found(self) -> "Found":
        finite = self.values[np.isfinite(self.values)]
        if finite.size == 0:
            return Found(self.kind, 0, 0, 0, self.declared)
        high = float(finite.max())
        bright = float(np.quantile(finite, BRIGHT)) if high > 0 else high
        return Found(self.kind, float(finite.min()), high, bright, self.declared)


@dataclass(frozen=True)
class Found:
    """Statistics of one image."""

    kind: str
    low: float
    high: float
    bright: float  # the quantile BRIGHT: single brighter pixels may mark that nothing was measured there
    declared: Range | None


# ---- which values are black and white ----


def check_range(value_range: Sequence[float] | None) -> Range | None:
    """Raises InputError unless these are two finite numbers, the first of them smaller."""
    if value_range is None:
        return None
    pair = list(value_range) if isinstance(value_range, Iterable) else []
    is_pair = len(pair) == 2 and all(isinstance(each, Real) and isfinite(each) for each in pair)
    if not is_pair or not pair[0] < pair[1]:
        words = " ".join(map(str, pair)) if pair else str(value_range)
        raise InputError(f"--value_range {words}", "wanted two numbers, what is black and what is white, as in 0 4095")
    return float(pair[0]), float(pair[1])


def range_of(kind: str, found: Sequence[Found]) -> Range:
    """Black and white of images of one kind, from statistics of some of them. ValueError if these do not decide it."""
    low, high = min(each.low for each in found), max(each.high for each in found)
    declared = {each.declared for each in found if each.high > each.low}  # a flat image declares nothing
    if len(declared) == 1:
        (span,) = declared
        if span is not None and span[0] <= low and high <= span[1]:
            return span
    if kind in WHOLE:
        black, white = WHOLE[kind]
        if black <= low and high <= white and max(each.bright for each in found) > white / 2:
            return black, white
    values = f"values from {low:g} to {high:g} ({kind}), and nothing says which of them are black and white"
    black, white = guess(kind, found)
    raise ValueError(f"{values}; --value_range LOW HIGH does, perhaps {black:g} {white:g}")


def guess(kind: str, found: Sequence[Found]) -> Range:
    """A likely range: whole bits, usual ranges of floats, else all that was found but single bright pixels."""
    low, high = min(each.low for each in found), max(each.bright for each in found)
    usual = [2.0**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 32)]
    if kind == "float32":
        spans = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 65535.0)]
    else:
        spans = [(0.0, top) for top in usual]
    for black, white in spans:
        if black <= low and high <= white:
            return black, white
    return low, max(low + 1, *(each.high for each in found))


def check_guess(samples: Samples, span: Range) -> None:
    """OSError if more than BEYOND of an image's values are outside a range that was guessed from other images."""
    outside = ((samples.values < span[0]) | (samples.values > span[1])).mean()
    if outside > BEYOND:
        found, share = samples.found, f"{100 * outside:.0f}% of its values"
        of = f"from {found.low:g} to {found.high:g} ({found.kind})"
        raise OSError(f"{share}, {of}, are outside {span[0]:g} to {span[1]:g}, a guess; --value_range LOW HIGH decides")


def to_bytes(values: np.ndarray, span: Range) -> np.ndarray:
    """Values as 8 bits: black is 0, white 255, values beyond them are cut; nan is black. uint8"""
    black, white = span
    shares = (np.nan_to_num(values.astype(np.float64), nan=black) - black) / (white - black)
    return (shares.clip(0, 1) * 255).round().astype(np.uint8)


def as_bytes(samples: Samples, span: Range) -> np.ndarray:
    """The values of an image as 8 bits, the highest is white. OSError if they were not decoded in this range."""
    if samples.eight is not None and span != (0.0, samples.eight):
        raise OSError(
            f"only the upper 8 bits of its values can be decoded, not a range of {span[0]:g} to {span[1]:g}; wanted"
            " images of 8 bits, or in png or tiff"
        )
    scaled = to_bytes(samples.values, span)
    return 255 - scaled if samples.inverted else scaled


# ---- what files hold ----


def read_samples(image: Image.Image) -> Samples | None:
    """The values of an image of more than 8 bits a sample, else None. The image is best not loaded yet.

    OSError if they cannot be decoded unchanged.
    """
    readers = {"PNG": _png, "TIFF": _tiff, "PPM": _ppm, "JPEG2000": _jpeg2000}
    return readers.get(image.format, _plain)(image)


def _plain(image: Image.Image) -> Samples | None:
    kinds = {"I": "int32", "F": "float32"}
    if image.mode.startswith("I;16"):
        return Samples(_array(image), "uint16")
    if image.mode in kinds:
        return Samples(_array(image), kinds[image.mode])
    if _codec(image) == "SGI16" or _layout(image).endswith((";16B", ";16L")):
        return _eight(image, 65535, None)
    return None


def _array(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    return values.astype(values.dtype.newbyteorder("="))


def _eight(image: Image.Image, top: float, declared: Range | None) -> Samples:
    """Samples of an image that Pillow decodes to 8 bits."""
    image.load()
    alpha = np.asarray(image.getchannel("A")) if image.mode in ("RGBA", "LA") else None
    values = np.asarray(image.convert("RGB")) * (top / 255)
    return Samples(values, "uint16", declared, alpha, eight=float(top))


def _codec(image: Image.Image) -> str:
    """The decoder of an image that is not loaded."""
    tiles = getattr(image, "tile", [])
    return tiles[0][0] if tiles else ""


def _arguments(image: Image.Image) -> tuple:
    """The decoder's arguments, of an image that is not loaded; the first is usually Pillow's name of the layout."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ()
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _layout(image: Image.Image) -> str:
    first = [*_arguments(image), ""][0]
    return first if isinstance(first, str) else ""


def _content(image: Image.Image) -> bytes:
    """The whole file of an image that is not loaded."""
    at = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(at)
    return content


def _png(image: Image.Image) -> Samples | None:
    layout = _layout(image)
    if image.mode.startswith("I;16"):
        content = _content(image) if layout else b""
        values = _array(image)
        key = image.info.get("transparency")
        alpha = np.where(values == key, 0, 255).astype(np.uint8) if isinstance(key, int) else None
        return Samples(values, "uint16", _declared_by_png(content, values), alpha)
    kind, _, order = layout.partition(";16")
    if not order:
        return _plain(image)
    if kind not in ("RGB", "RGBA"):  # grey with alpha: Pillow has no decoder that keeps the lower byte
        return _eight(image, 65535, None)
    content = _content(image)
    values = _both_bytes(image, kind, order)
    alpha = _eight_of_sixteen(values[..., 3]) if kind == "RGBA" else None
    values = values[..., :3]
    key = image.info.get("transparency")
    if isinstance(key, tuple):
        alpha = np.where((values == key).all(-1), 0, 255).astype(np.uint8)
    return Samples(values, "uint16", _declared_by_png(content, values), alpha)


def _eight_of_sixteen(values: np.ndarray) -> np.ndarray:
    return (values * (255 / 65535)).round().astype(np.uint8)


def _declared_by_png(content: bytes, values: np.ndarray) -> Range | None:
    """0..2^b - 1 of a file whose chunk sBIT says b bits, if its values are these bits as they were.

    The PNG specification (11.3.2.7) wants them scaled up to 16 bits, and then the range is that of the type; writers
    that only note the camera's bits leave them as they were.
    """
    at = 8
    while at + 12 <= len(content):
        length, name = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        if name == b"IDAT":
            return None
        if name == b"sBIT" and length:
            bits = content[at + 8]
            scaled_up = not (values & ((1 << (16 - bits)) - 1)).any() if bits < 16 else True
            return None if scaled_up or values.max() >= 2**bits else (0.0, 2.0**bits - 1)
        at += 12 + length
    return None


def _tiff(image: Image.Image) -> Samples | None:
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(BITS_PER_SAMPLE, (1,)))
    layout = _layout(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        inverted = tags.get(PHOTOMETRIC, 0) == 0 and bool(tags)
        declared = _declared_by_tiff(tags, bits)
        values = _array(image)
        if image.mode.startswith("I;16"):
            return Samples(values, "uint16", declared, inverted=inverted)
        if image.mode == "F":
            return Samples(values, "float32", declared, inverted=inverted)
        if tags.get(SAMPLE_FORMAT, (2,))[0] == 1:
            return Samples(values.view(np.uint32), "uint32", declared, inverted=inverted)
        kind = "int16" if bits == 16 else "int32"
        return Samples(values, kind, declared, inverted=inverted)
    if bits <= 8:
        return None
    if tags.get(PLANAR) == 2:
        raise OSError(f"its colours are separate planes of {bits} bits, which Pillow mixes up; wanted them interleaved")
    declared = _declared_by_tiff(tags, bits)
    kind, _, order = layout.partition(";16")
    if kind not in ("RGB", "RGBX", "RGBA") or not order:
        return _eight(image, 65535, declared)
    values = _both_bytes(image, kind, order)
    has_alpha = values.shape[2] == 4 and ALPHA & set(tags.get(EXTRA_SAMPLES, ()))
    alpha = _eight_of_sixteen(values[..., 3]) if has_alpha else None
    return Samples(values[..., :3], "uint16", declared, alpha)


def _both_bytes(image: Image.Image, kind: str, order: str) -> np.ndarray:
    """Colours of 16 bits, [h, w, c]: decoded twice, since Pillow keeps only the byte that is the upper one in `order`.

    `order` is L, B or N, the machine's.
    """
    native = "L" if sys.byteorder == "little" else "B"
    order = native if order == "N" else order
    content = _content(image)
    image.load()

    def decoded(by: str) -> np.ndarray:
        with Image.open(io.BytesIO(content)) as again:
            layout = f"{kind};16{by}"
            again.tile = [tile._replace(args=_with_layout(tile.args, layout)) for tile in again.tile]
            return np.asarray(again).astype(np.int32)

    return decoded(order) * 256 + decoded("B" if order == "L" else "L")


def _with_layout(arguments: str | tuple, layout: str) -> str | tuple:
    """A decoder's arguments with another layout, which is all of them or the first."""
    return layout if isinstance(arguments, str) else (layout, *arguments[1:])


def _declared_by_tiff(tags, bits: int) -> Range | None:
    if 8 < bits < 16:
        return 0.0, 2.0**bits - 1
    for lowest, highest in EXTREMES:
        low, high = _one(tags.get(lowest, 0)), _one(tags.get(highest))
        if low is not None and high is not None and low < high:
            return low, high
    return None


def _one(value) -> float | None:
    """The number that a tag holds for all samples alike, else None."""
    values = set(value) if isinstance(value, tuple) else {value}
    if len(values) != 1:
        return None
    (only,) = values
    try:
        return float(only)
    except (TypeError, ValueError):
        return None


def _ppm(image: Image.Image) -> Samples | None:
    arguments = _arguments(image)
    top = arguments[1] if len(arguments) == 2 and isinstance(arguments[1], int) else 65535
    if image.mode == "I":
        values = (_array(image) * (top / 65535)).round().astype(np.int64)  # Pillow scales them to 0..65535
        return Samples(values, "uint16", (0.0, float(top)) if top < 65535 else None)
    if image.mode == "RGB" and len(arguments) == 2 and top > 255:
        return _eight(image, top, (0.0, float(top)) if top < 65535 else None)
    return _plain(image)


def _jpeg2000(image: Image.Image) -> Samples | None:
    content = _content(image) if _codec(image) else b""
    start = content.find(b"\xff\x4f\xff\x51")  # the markers SOC and SIZ, 42 bytes before the first component's bits
    if start < 0 or len(content) <= start + 42:
        return _plain(image)
    byte = content[start + 42]
    bits, signed = (byte & 0x7F) + 1, byte >> 7
    if bits <= 8:
        return None
    if image.mode.startswith("I;16"):
        values = _array(image).astype(np.int64) >> max(0, 16 - bits)  # Pillow scales them to 0..65535
        if signed:  # Pillow shifts them to 0 and up
            return Samples(values - (1 << (bits - 1)), "int16")
        return Samples(values, "uint16", (0.0, 2.0**bits - 1) if bits < 16 else None)
    return _eight(image, 2**bits - 1, (0.0, 2.0**bits - 1) if bits < 16 else None)
