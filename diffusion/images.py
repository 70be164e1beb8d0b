"""Images: decoded as they are to be seen, and the two crops."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torchvision.transforms.functional as TF
from PIL import Image, ImageOps
from torch import Tensor

from diffusion.files import said


def open_rgb(file: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """The image in `file` as RGB; OSError naming it (or `name`) whatever keeps it from being decoded whole."""
    try:
        with Image.open(file) as image:
            return to_rgb(image)
    except Exception as error:  # decoders raise SyntaxError, ValueError, DecompressionBombError, ... on bad files
        raise OSError(f"cannot read image {name or file}: {said(error)}") from error


def hub_image(cell: dict | None, name: str) -> Image.Image:
    """The image in an undecoded cell of the hub's library, {"bytes", "path"}: one or the other. OSError as open_rgb."""
    if cell is None:
        raise OSError(f"{name} is missing")
    return open_rgb(cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"]), name)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB: upright by its EXIF tag, on white where transparent, deep greys scaled, not clipped.

    16 and 32-bit integers count as 0..65535 and floats as 0..1, 0..255 or 0..65535, the first that holds the image;
    beyond 65535, white is the image's own maximum.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        x = np.nan_to_num(np.asarray(image, dtype=np.float64))
        ranges = (1, 255, 65535) if image.mode == "F" else (65535,)
        white = next((top for top in ranges if x.max() <= top), x.max())
        image = Image.fromarray((x.clip(0, white) * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def crop(image: Image.Image, size: int, interpolation: str) -> Tensor:
    """`centre_crop`, or `adm_crop` where the interpolation is "adm". [3, size, size]

    OSError where the image is so narrow that resizing it would take gigabytes.
    """
    if max(image.size) * size**2 > 2**27 * min(image.size):
        raise OSError(f"an image of {image.width}x{image.height} pixels is too narrow to be resized to {size}")
    return adm_crop(image, size) if interpolation == "adm" else centre_crop(image, size, interpolation)


def centre_crop(image: Image.Image, size: int, interpolation: str = "bicubic") -> Tensor:
    """The middle square of an RGB image, its short side resized to `size` -> [3, size, size] float32 in [-1, 1]."""
    image = TF.resize(image, size, TF.InterpolationMode(interpolation))
    return TF.to_tensor(TF.center_crop(image, [size, size])) * 2 - 1


def adm_crop(image: Image.Image, size: int) -> Tensor:
    """The crop that ADM and DiT were trained on, of an RGB image -> [3, size, size] float32 in [-1, 1].

    Halved by box filter while the short side is at least 2 size, then bicubic to size, then the middle.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2  # rounds down; torchvision's centre is to even
    return TF.to_tensor(image.crop((left, top, left + size, top + size))) * 2 - 1


def to_grey(images: Tensor) -> Tensor:
    """Images [n, 3, h, w] -> [n, 1, h, w], by Pillow's weights of the colours (ITU-R 601); grey stays as it is."""
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
