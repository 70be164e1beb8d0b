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
TYPE_RANGES = {
    "uint16": (0.0, 65535.0),
    "uint32": (0.0, 4294967295.0),
    "float32": (0.0, 1.0),
}  # ranges of types that have one

BRIGHT = 0.999  # a quantile: single brighter pixels may mark that nothing was measured there
MOST_OUTSIDE = 0.01  # the share of an image's values that may lie outside a guessed range

BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 284, 338, 339  # tags of TIFF
EXTREMES = ((340, 341), (280, 281))  # SMinSampleValue, SMaxSampleValue; MinSampleValue, MaxSampleValue
ALPHA = {1, 2, 999}  # of ExtraSamples; 999 is Corel's
NATIVE = {"little": "L", "big": "B"}[sys.byteorder]
SWAPPED = {"L": "B", "B": "L"}


@dataclass(frozen=True)
class Samples:
    """The values of an image as they are in its file."""

    values: np.ndarray  # [h, w] or [h, w, 3]
    kind: str  # one of KINDS
    declared: Range | None = None
    alpha: np.ndarray | None = None  # [h, w] uint8
    inverted: bool = False  # the lowest value is white
    white_of_8_bits: float | None = None  # only 8 bits of more were decoded, of which 255 stands for this value

    @property
    def statistics(self) -> "Statistics":
        """Statistics of the values; nan and infinity do not count."""
        finite = self.values[np.isfinite(self.values)]
        if finite.size == 0:
            return Statistics(self.kind, 0, 0, 0, self.declared)
        bright = high = float(finite.max())
        if high > 0:
            bright = float(np.quantile(finite, BRIGHT))
        return Statistics(self.kind, float(finite.min()), high, bright, self.declared)


@dataclass(frozen=True)
class Statistics:
    """Statistics of one image."""

    kind: str
    low: float
    high: float
    bright: float  # the quantile BRIGHT
    declared: Range | None


# ---- which values are black and white ----


def check_range(value_range: Sequence[float] | None) -> Range | None:
    """Raises InputError unless these are two finite numbers, the first of them smaller."""
    if value_range is None:
        return None
    pair = list(value_range) if isinstance(value_range, Iterable) else [value_range]
    is_pair = len(pair) == 2 and all(isinstance(bound, Real) and isfinite(bound) for bound in pair)
    if not is_pair or not pair[0] < pair[1]:
        words = " ".join(map(str, pair))
        raise InputError(f"--value_range {words}", "wanted two numbers, the values of black and white, as in 0 4095")
    return float(pair[0]), float(pair[1])


def range_of(kind: str, found: Sequence[Statistics]) -> Range:
    """Black and white of images of one kind, from statistics of some of them. ValueError if these do not decide it."""
    low, high, bright = extremes(found)
    declared = {image.declared for image in found if image.high > image.low}  # a flat image declares nothing
    if len(declared) == 1:
        (span,) = declared
        if span is not None and span[0] <= low and high <= span[1]:
            return span
    if kind in TYPE_RANGES:
        black, white = TYPE_RANGES[kind]
        if black <= low and high <= white and bright > white / 2:
            return black, white
    values = f"values from {low:g} to {high:g} ({kind}), and nothing says which of them are black and white"
    black, white = guess(kind, found)
    raise ValueError(f"{values}; --value_range LOW HIGH does, perhaps {black:g} {white:g}")


def extremes(found: Sequence[Statistics]) -> tuple[float, float, float]:
    """The lowest and the highest value of some images, and the largest of their quantiles BRIGHT."""
    low = min(image.low for image in found)
    high = max(image.high for image in found)
    bright = max(image.bright for image in found)
    return low, high, bright


def guess(kind: str, found: Sequence[Statistics]) -> Range:
    """A likely range: the first usual one that holds all but single bright pixels, else all values that were found."""
    low, high, bright = extremes(found)
    if kind == "float32":
        spans = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 65535.0)]
    else:
        spans = [(0.0, 2.0**bits - 1) for bits in (8, 10, 12, 14, 16, 24, 32)]
    for black, white in spans:
        if black <= low and bright <= white:
            return black, white
    return low, max(low + 1, high)


def check_guess(samples: Samples, span: Range) -> None:
    """OSError if more than MOST_OUTSIDE of an image's values are outside a range that was guessed from other images."""
    outside = ((samples.values < span[0]) | (samples.values > span[1])).mean()
    if outside > MOST_OUTSIDE:
        found = samples.statistics
        values = f"{100 * outside:.0f}% of its values, from {found.low:g} to {found.high:g} ({found.kind})"
        raise OSError(f"{values}, are outside {span[0]:g} to {span[1]:g}, a guess; --value_range LOW HIGH decides")


def to_bytes(values: np.ndarray, span: Range) -> np.ndarray:
    """Values as 8 bits: black is 0, white 255, values beyond them are cut; nan is black. uint8"""
    black, white = span
    shares = (np.nan_to_num(values.astype(np.float64), nan=black) - black) / (white - black)
    return (shares.clip(0, 1) * 255).round().astype(np.uint8)


def as_bytes(samples: Samples, span: Range) -> np.ndarray:
    """The values of an image as 8 bits, the highest is white. OSError if they were not decoded in this range."""
    if samples.white_of_8_bits is not None and span != (0.0, samples.white_of_8_bits):
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
    """Samples of an image of any other format, which declares nothing."""
    kinds = {"I": "int32", "F": "float32"}
    if image.mode.startswith("I;16"):
        return Samples(_array(image), "uint16")
    if image.mode in kinds:
        return Samples(_array(image), kinds[image.mode])
    codec, _ = _decoder(image)
    if codec == "SGI16" or _layout(image).endswith((";16B", ";16L")):
        return _decoded_to_8_bits(image, 65535)
    return None


def _array(image: Image.Image) -> np.ndarray:
    """The values of an image, in the machine's order of bytes."""
    values = np.asarray(image)
    return values.astype(values.dtype.newbyteorder("="))


def _up_to(top: float) -> Range | None:
    """The range that a file declares by its highest value; None if that is the highest of its type or above."""
    return (0.0, float(top)) if top < 65535 else None


def _decoded_to_8_bits(image: Image.Image, top: float, declared: Range | None = None) -> Samples:
    """Samples of an image that Pillow decodes to 8 bits, of which 255 stands for `top`."""
    image.load()
    alpha = None
    if image.mode in ("RGBA", "LA"):
        alpha = np.asarray(image.getchannel("A"))
    values = np.asarray(image.convert("RGB")) * (top / 255)
    return Samples(values, "uint16", declared, alpha, white_of_8_bits=float(top))


def _decoder(image: Image.Image) -> tuple[str, tuple]:
    """The name of an image's decoder and its arguments; "" and () if the image is loaded."""
    tiles = getattr(image, "tile", [])
    if not tiles:
        return "", ()
    codec, _, _, arguments = tiles[0]
    return codec, arguments if isinstance(arguments, tuple) else (arguments,)


def _layout(image: Image.Image) -> str:
    """Pillow's name for the layout of an image that is not loaded, such as RGB;16B; "" if its decoder has none."""
    _, arguments = _decoder(image)
    if arguments and isinstance(arguments[0], str):
        return arguments[0]
    return ""


def _content(image: Image.Image) -> bytes:
    """The whole file of an image; nothing if the image is loaded."""
    if not getattr(image, "tile", []):
        return b""
    position = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(position)
    return content


def _opaque_except(transparent: np.ndarray) -> np.ndarray:
    """The alpha of an image with these transparent pixels, [h, w] bool -> [h, w] uint8."""
    return np.where(transparent, 0, 255).astype(np.uint8)


def _png(image: Image.Image) -> Samples | None:
    layout = _layout(image)
    alpha = None
    if image.mode.startswith("I;16"):
        content = _content(image)
        values = _array(image)
        key = image.info.get("transparency")
        if isinstance(key, int):
            alpha = _opaque_except(values == key)
        return Samples(values, "uint16", _declared_by_png(content, values), alpha)

    kind, _, order = layout.partition(";16")
    if not order:
        return _plain(image)
    if kind not in ("RGB", "RGBA"):  # grey with alpha: Pillow has no decoder that keeps the lower byte
        return _decoded_to_8_bits(image, 65535)
    content = _content(image)
    values = _both_bytes(image, kind, order)
    if kind == "RGBA":
        alpha = _upper_bytes(values[..., 3])
    values = values[..., :3]
    key = image.info.get("transparency")
    if isinstance(key, tuple):
        alpha = _opaque_except((values == key).all(-1))
    return Samples(values, "uint16", _declared_by_png(content, values), alpha)


def _upper_bytes(values: np.ndarray) -> np.ndarray:
    """Values of 16 bits as 8 bits, rounded."""
    return (values * (255 / 65535)).round().astype(np.uint8)


def _declared_by_png(content: bytes, values: np.ndarray) -> Range | None:
    """0..2^b - 1 of a file whose chunk sBIT says b bits, if its values are these bits as they were.

    The PNG specification (11.3.2.7) wants them scaled up to 16 bits, and then the range is that of the type; writers
    that only note the camera's bits leave them as they were.
    """
    start = 8
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4])
        name = content[start + 4 : start + 8]
        if name == b"IDAT":
            return None
        if name == b"sBIT" and length:
            bits = content[start + 8]
            if bits >= 16 or values.max() >= 2**bits:
                return None
            lower = (1 << (16 - bits)) - 1
            is_scaled_up = not (values & lower).any()
            return None if is_scaled_up else _up_to(2**bits - 1)
        start += 12 + length
    return None


def _tiff(image: Image.Image) -> Samples | None:
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(BITS_PER_SAMPLE, (1,)))
    layout = _layout(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        inverted = tags.get(PHOTOMETRIC, 0) == 0 and bool(tags)
        declared = _declared_by_tiff(tags, bits)
        values = _array(image)
        kind = "int32"
        if image.mode.startswith("I;16"):
            kind = "uint16"
        elif image.mode == "F":
            kind = "float32"
        elif tags.get(SAMPLE_FORMAT, (2,))[0] == 1:
            kind = "uint32"
            values = values.view(np.uint32)
        elif bits == 16:
            kind = "int16"
        return Samples(values, kind, declared, inverted=inverted)
    if bits <= 8:
        return None
    if tags.get(PLANAR) == 2:
        raise OSError(f"its colours are separate planes of {bits} bits, which Pillow mixes up; wanted them interleaved")
    declared = _declared_by_tiff(tags, bits)
    kind, _, order = layout.partition(";16")
    if kind not in ("RGB", "RGBX", "RGBA") or not order:
        return _decoded_to_8_bits(image, 65535, declared)
    values = _both_bytes(image, kind, order)
    alpha = None
    if values.shape[2] == 4 and ALPHA & set(tags.get(EXTRA_SAMPLES, ())):
        alpha = _upper_bytes(values[..., 3])
    return Samples(values[..., :3], "uint16", declared, alpha)


def _both_bytes(image: Image.Image, kind: str, order: str) -> np.ndarray:
    """Colours of 16 bits, [h, w, c]: decoded twice, since Pillow keeps only the byte that is the upper one in `order`.

    `order` is L, B or N, the machine's.
    """
    upper = NATIVE if order == "N" else order
    content = _content(image)
    image.load()

    def decoded(by: str) -> np.ndarray:
        with Image.open(io.BytesIO(content)) as again:
            tiles = []
            for tile in again.tile:
                layout = f"{kind};16{by}"  # all arguments, or the first of them
                arguments = layout if isinstance(tile.args, str) else (layout, *tile.args[1:])
                tiles.append(tile._replace(args=arguments))
            again.tile = tiles
            return np.asarray(again).astype(np.int32)

    return decoded(upper) * 256 + decoded(SWAPPED[upper])


def _declared_by_tiff(tags, bits: int) -> Range | None:
    """The range that the tags of a TIFF declare, if they do."""
    if 8 < bits < 16:
        return 0.0, 2.0**bits - 1
    for lowest, highest in EXTREMES:
        low = _common_number(tags.get(lowest, 0))
        high = _common_number(tags.get(highest))
        if low is not None and high is not None and low < high:
            return low, high
    return None


def _common_number(value) -> float | None:
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
    _, arguments = _decoder(image)
    has_top = len(arguments) == 2 and isinstance(arguments[1], int)
    top = arguments[1] if has_top else 65535
    if image.mode == "I":
        values = (_array(image) * (top / 65535)).round().astype(np.int64)  # Pillow scales them to 0..65535
        return Samples(values, "uint16", _up_to(top))
    if image.mode == "RGB" and len(arguments) == 2 and top > 255:
        return _decoded_to_8_bits(image, top, _up_to(top))
    return _plain(image)


def _jpeg2000(image: Image.Image) -> Samples | None:
    content = _content(image)
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
        return Samples(values, "uint16", _up_to(2**bits - 1))
    return _decoded_to_8_bits(image, 2**bits - 1, _up_to(2**bits - 1))
