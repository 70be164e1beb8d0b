"""Names of the folders of runs."""

import os
import re
from pathlib import Path
from typing import Literal

from diffusion import InputError
from diffusion.paths import expanded

LOG_DIR = expanded(os.environ.get("LOG_DIR") or "data")


def tag(name: str) -> str:
    """A path, hub id or data set's name as one part of a folder name."""
    last = name.removeprefix("hf:").strip("/").removesuffix(".csv").split("/")[-1]
    return re.sub(r"[^\w.+-]+", "_", last).strip("_.") or "data"


def clip_tag(name: str) -> str:
    """The name of a CLIP, such as ViT-L/14, or its folder, as one part of a folder name."""
    return tag(name if os.path.isdir(os.path.expanduser(name)) else name.replace("/", "-"))


def unusual(value, *usual) -> str:
    """A value as a part of a folder's name; "" if it is one of the usual values, which names leave out."""
    return "" if value in usual else str(value)


def joined(*parts: str | Literal[False] | None) -> str:
    """A folder's name from its parts; empty ones, False and None are left out."""
    return "_".join(part for part in parts if part)


def run_folder(dataset: str, extra: str | None, name: str) -> Path:
    """The folder of a run of this name, below $LOG_DIR. InputError if --extra cannot be part of a folder's name."""
    if extra is not None and not re.fullmatch(r"[\w.+-]{1,100}", extra):
        raise InputError(f"--extra {extra!r}", "becomes part of a folder's name: letters, digits and . _ + - only")
    return LOG_DIR / joined(tag(dataset), extra) / name
