"""Decoding of images to RGB, and the two crops."""

import io
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from diffusion import InputWarning
from diffusion.data import depth
from diffusion.data.depth import Range, Statistics
from diffusion.io.reading import named_error
from diffusion.io.wording import count, few

if TYPE_CHECKING:  # what only reads labels does not need torch
    from torch import Tensor

T = TypeVar("T")
LOOKED_AT = 32  # images of a data set, before a run: are they deep, which values do they have
NO_RANGES: Mapping[str, Range] = {}


def open_rgb(
    file: str | Path | BinaryIO,
    name: str | None = None,
    ranges: Mapping[str, Range] = NO_RANGES,
    guessed: Collection[str] = (),
) -> Image.Image:
    """The image in `file` as RGB. OSError, which names it (or `name`), if it cannot be decoded whole.

    ranges and guessed as in to_rgb.
    """
    return _opened(file, name, lambda image: to_rgb(image, ranges, guessed))


def _opened(file: str | Path | BinaryIO, name: str | None, use: Callable[[Image.Image], T]) -> T:
    """use(image) of the image in `file`; OSError as open_rgb."""
    try:
        with Image.open(file) as image:
            if image.format == "TIFF":
                image.filename = ""  # Pillow 13.0.0 maps those with a name into memory, rotated ones with wrong sides
            return use(image)
    except FileNotFoundError as error:
        raise OSError(f"cannot read image {name or file}: no such file") from error
    except Exception as error:  # decoders raise SyntaxError, ValueError, DecompressionBombError, ... on bad files
        found = f"cannot read image {name or file}: {named_error(error)}"
        raise OSError(f"{found}; mend or remove it") from error


def hub_cell(cell: dict | None, name: str) -> tuple[str | BinaryIO, str]:
    """File and name of the image in an undecoded cell of the hub's library, {"bytes", "path"}. OSError if empty."""
    if cell is None:
        raise OSError(f"{name} is missing")
    if cell["bytes"] is None:
        return cell["path"], name
    return io.BytesIO(cell["bytes"]), name


def to_rgb(image: Image.Image, ranges: Mapping[str, Range] = NO_RANGES, guessed: Collection[str] = ()) -> Image.Image:
    """Any PIL image as 8-bit RGB: upright by its EXIF tag if that can be read, transparent pixels on white.

    More than 8 bits are scaled by the range of their kind (depth.KINDS) in `ranges`, or else by the range that
    depth.range_of finds for this image alone: ValueError if it finds none. OSError if the range of a kind was `guessed`
    and the image does not fit into it.
    """
    samples = depth.read_samples(image)
    image.load()
    orientation = _orientation(image)
    if samples is None:
        rgb = _on_white(image)
    else:
        span = ranges.get(samples.kind) or depth.range_of(samples.kind, [samples.statistics])
        if samples.kind in guessed:
            depth.check_guess(samples, span)
        rgb = Image.fromarray(depth.as_bytes(samples, span)).convert("RGB")
        if samples.alpha is not None:
            rgb.putalpha(Image.fromarray(samples.alpha))
            rgb = _on_white(rgb)
    rgb.info = {}
    rgb.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(rgb)


def _orientation(image: Image.Image) -> int:
    """The EXIF tag; 1, upright, if the EXIF data are broken: the pixels are whole all the same."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises SyntaxError, struct.error, ... on them
        return 1


def _on_white(image: Image.Image) -> Image.Image:
    """An image of 8 bits as RGB. The fourth band of a TIFF without the tag ExtraSamples is not transparency."""
    tags = getattr(image, "tag_v2", None)
    if image.format == "TIFF" and image.mode == "RGBA" and tags and depth.EXTRA_SAMPLES not in tags:
        return image.convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


# ---- the images of a data set ----


@dataclass(frozen=True)
class ImageFiles:
    """Images in files or in cells of the hub's library: `images(k)` is image k as RGB, OSError if unreadable."""

    place: Callable[[int], tuple[str | Path | BinaryIO, str | None]]  # k -> file, its name in messages
    number: int
    ranges: Mapping[str, Range] = field(default_factory=dict)  # kind -> black, white: of images of more than 8 bits
    guessed: Collection[str] = ()  # kinds whose range is a guess

    def __call__(self, k: int) -> Image.Image:
        return open_rgb(*self.place(k), self.ranges, self.guessed)


def listed(paths: Sequence[str | Path], folder: str | Path = "") -> ImageFiles:
    """Images in files, whose paths are absolute or as from the folder."""
    start = "" if str(folder) == "." else str(folder)
    return ImageFiles(lambda k: (os.path.join(start, paths[k]), None), len(paths))


def with_ranges(images: ImageFiles, what: str, value_range: Sequence[float] | None = None) -> ImageFiles:
    """The same images, all with one range: black and white are `value_range`, or found in a sample of the images.

    Looks at LOOKED_AT of them, spread evenly. If they have more than 8 bits, a warning names the range that is used.
    Other warnings are of animations and pages, of which the first is used, and of fourth bands that are hardly
    transparency. They begin with `what`, the name of the images.
    """
    value_range = depth.check_range(value_range)
    looks = _look_at_some(images)
    several = []
    doubtful = []
    deep: dict[str, list[Statistics]] = {}  # kind -> statistics of each image
    for k, look in looks.items():
        file, name = images.place(k)
        if look.has_frames:
            several.append(name or file)
        if look.has_doubtful_alpha:
            doubtful.append(name or file)
        if look.found:
            deep.setdefault(look.found.kind, []).append(look.found)
    if several:
        _warn(f"{what}: only the first frame or page of files with several is read, as of {few(several, 2)}")
    if doubtful:
        band = "is marked as transparency, so it is laid on white; if it is another band, write the files without it"
        _warn(f"{what}: the fourth band of {few(doubtful, 2)} {band}")

    ranges: dict[str, Range] = {}
    guessed = []
    for kind, found in sorted(deep.items()):
        ranges[kind], is_guess = _range_of(kind, found, value_range)
        if is_guess:
            guessed.append(kind)
        _warn_of_range(what, kind, found, len(looks), ranges[kind], value_range, is_guess)
    if value_range is not None:
        if not deep:
            _warn(f"{what}: --value_range is for images of more than 8 bits, none of the {len(looks)} looked at is one")
        ranges = dict.fromkeys(depth.KINDS, value_range)
    return replace(images, ranges=ranges, guessed=guessed)


def _look_at_some(images: ImageFiles) -> dict[int, "_Look"]:
    """The looks at LOOKED_AT images, spread evenly, by index; those that cannot be read are left out."""
    places = np.linspace(0, images.number - 1, min(images.number, LOOKED_AT)).round().astype(int)
    looks = {}
    for k in np.unique(places).tolist():
        try:
            looks[k] = _opened(*images.place(k), _look)
        except OSError:  # it is reported when its turn comes
            continue
    return looks


def _range_of(kind: str, found: list[Statistics], value_range: Range | None) -> tuple[Range, bool]:
    """The range of images of one kind, and whether it is a guess."""
    if value_range is not None:
        return value_range, False
    try:
        return depth.range_of(kind, found), False
    except ValueError:
        return depth.guess(kind, found), True


def _warn_of_range(
    what: str, kind: str, found: list[Statistics], looked_at: int, used: Range, asked: Range | None, is_guess: bool
) -> None:
    """Name the range that is used unless it was asked for; then warn only if it cuts values."""
    low, high, _ = depth.extremes(found)
    looked = f"{len(found)} of the {count(looked_at, 'image')} looked at"
    seen = f"{looked}: values from {low:g} to {high:g} ({kind})"
    if is_guess:
        seen += ", and nothing says which of them are black and white. A guess"
    black, white = used
    if asked is None:
        _warn(f"{what}: {seen}: black is {black:g}, white {white:g}; --value_range LOW HIGH chooses others")
    elif low < black or high > white:
        _warn(f"{what}: {seen}; --value_range {black:g} {white:g} cuts those beyond")


def _warn(text: str) -> None:
    warnings.warn(text, InputWarning, stacklevel=4)


@dataclass(frozen=True)
class _Look:
    """Properties of an image that are looked at before a run."""

    found: Statistics | None  # statistics of its values, if it has more than 8 bits
    has_frames: bool  # it has several
    has_doubtful_alpha: bool  # its fourth band is marked as transparency, and most of it is neither clear nor opaque


def _look(image: Image.Image) -> _Look:
    tags = getattr(image, "tag_v2", {})
    alpha = None
    found = None
    samples = depth.read_samples(image)
    if samples is not None:
        alpha = samples.alpha
        found = samples.statistics
    elif image.format == "TIFF" and image.mode == "RGBA" and depth.EXTRA_SAMPLES in tags:
        alpha = np.asarray(image.getchannel("A"))

    is_doubtful = False
    if image.format == "TIFF" and alpha is not None:
        is_doubtful = bool(((alpha > 0) & (alpha < 255)).mean() > 0.5)
    return _Look(found, _has_frames(image), is_doubtful)


def _has_frames(image: Image.Image) -> bool:
    """Whether there are frames or pages after the first. JPEG's thumbnails and smaller copies in TIFF do not count."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return False
    if image.format != "TIFF":
        return True
    image.seek(1)
    return not image.tag_v2.get(254, 0) & 5  # NewSubfileType: a smaller copy, or a mask


# ---- crops ----


def crop(image: Image.Image, size: int, interpolation: str) -> "Tensor":
    """`centre_crop`, or `adm_crop` if the interpolation is "adm". [3, size, size]

    OSError if the image is so narrow that resizing it would take gigabytes.
    """
    if max(image.size) * size**2 > 2**27 * min(image.size):
        raise OSError(f"an image of {image.width}x{image.height} pixels is too narrow to be resized to {size}")
    return adm_crop(image, size) if interpolation == "adm" else centre_crop(image, size, interpolation)


def centre_crop(image: Image.Image, size: int, interpolation: str = "bicubic") -> "Tensor":
    """The middle square of an RGB image, its short side resized to `size` -> [3, size, size] float32 in [-1, 1]."""
    import torchvision.transforms.functional as TF  # not needed to read labels; takes a second to import

    image = TF.resize(image, size, TF.InterpolationMode(interpolation))
    return TF.to_tensor(TF.center_crop(image, [size, size])) * 2 - 1


def adm_crop(image: Image.Image, size: int) -> "Tensor":
    """The crop that ADM and DiT were trained on, of an RGB image -> [3, size, size] float32 in [-1, 1].

    Halved by box filter while the short side is at least 2 size, then bicubic to size, then the middle.
    """
    from torchvision.transforms.functional import to_tensor

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2  # rounds down; torchvision's centre is to even
    return to_tensor(image.crop((left, top, left + size, top + size))) * 2 - 1


def to_grey(images: "Tensor") -> "Tensor":
    """Images [n, 3, h, w] -> [n, 1, h, w], by Pillow's weights of the colours (ITU-R 601); grey stays as it is."""
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
