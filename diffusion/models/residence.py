"""When the weights of a model are in memory, and where: text encoders only while prompts are encoded.

On an accelerator they wait in host memory. On the CPU a large text encoder is read from its files for each batch of
prompts and dropped afterwards, and a large network is read when it is first called. So both are never there at once
before an image is measured.
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator

import torch

SMALL = 100e6  # bytes of files; smaller text encoders stay in memory, since it takes longer to read them again


@contextlib.contextmanager
def visiting(modules: list[torch.nn.Module], device: torch.device) -> Iterator[None]:
    """Have modules on a device, and afterwards again where they were, without a copy back."""
    places = []
    for module in modules:
        for each in module.modules():
            for table in (each._parameters, each._buffers):
                places += [(table, key, value, value.data) for key, value in table.items() if value is not None]
    try:
        with torch.inference_mode(False):
            for module in modules:
                module.to(device)
        yield
    finally:
        for table, key, value, data in places:
            value.data = data  # a parameter is moved in place
            table[key] = value


@contextlib.contextmanager
def borrowed(pipeline, parts: list[str], load: Callable[[str], torch.nn.Module]) -> Iterator[None]:
    """Have parts of a pipeline, each as `load(part)`, in place of their outlines on the meta device."""
    outlines = {part: getattr(pipeline, part) for part in parts}
    try:
        with torch.inference_mode(False):
            for part in parts:
                setattr(pipeline, part, load(part))
        yield
    finally:
        for part, outline in outlines.items():
            module = getattr(pipeline, part)
            setattr(pipeline, part, outline)
            module.to("meta")  # whoever holds the module, its memory is free
        _return_memory()


def _return_memory() -> None:
    """Let the C library give freed memory back; glibc keeps blocks of less than 32 MB, as most weights are."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
