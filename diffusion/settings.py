"""Settings of the process that loading and computing need: set around the work, and restored at its end."""

import contextlib
import functools
import logging
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import torch

INITIALISERS = [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]
_LOCK = threading.Lock()
_SKIPPING: Counter[int] = Counter()  # thread -> how many `no_first_values` it is in
_INITIALISE: dict[str, Callable] = {}  # torch's own functions, while any thread skips them
EXACT: dict[str, str | bool] = {"matmul": "highest", "cudnn": False}


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Let diffusers and transformers print nothing: this package checks what they report, and warns itself.

    The level of their loggers, their progress bars and the warnings' filters are restored at the end.
    """
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    loggers = [logging.getLogger(library) for library in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = [library for library in (of_diffusers, of_transformers) if library.is_progress_bar_enabled()]
    with warnings.catch_warnings():  # some packages add filters when they are imported
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        for library in bars:
            _leaving_the_hubs(library.disable_progress_bar)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            for library in bars:
                _leaving_the_hubs(library.enable_progress_bar)


def _leaving_the_hubs(switch: Callable[[], None]) -> None:
    """Call `switch`, which hides or shows a library's progress bars, and keep huggingface_hub's as they are.

    transformers (5.x) switches those too.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden = are_progress_bars_disabled()
    switch()
    if hidden and not are_progress_bars_disabled():
        disable_progress_bars()
    if not hidden and are_progress_bars_disabled():
        enable_progress_bars()


@contextlib.contextmanager
def no_random_numbers_taken() -> Iterator[None]:
    """Restore torch's generator of the CPU afterwards: new layers, such as a LoRA's, draw their weights from it."""
    with torch.random.fork_rng(devices=[]):
        yield


@contextlib.contextmanager
def no_first_values() -> Iterator[None]:
    """Let torch.nn.init leave the tensors of this thread as they are, for layers whose weights come from a file.

    diffusers and transformers have a `no_init_weights` for this, but it is for all threads: layers that another thread
    makes meanwhile would hold whatever was in memory.
    """
    here = threading.get_ident()
    with _LOCK:
        if not _SKIPPING:  # the first thread replaces the functions, the last one puts them back
            for name in INITIALISERS:
                _INITIALISE[name] = getattr(torch.nn.init, name)
                setattr(torch.nn.init, name, _unless_skipped(_INITIALISE[name]))
        _SKIPPING[here] += 1
    try:
        yield
    finally:
        with _LOCK:
            _SKIPPING[here] -= 1
            if not _SKIPPING[here]:
                del _SKIPPING[here]
            if not _SKIPPING:
                for name, initialise in _INITIALISE.items():
                    setattr(torch.nn.init, name, initialise)


def _unless_skipped(initialise: Callable) -> Callable:
    """A function of torch.nn.init that leaves the tensor as it is in threads that are in `no_first_values`."""

    @functools.wraps(initialise)
    def initialise_or_not(tensor: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if threading.get_ident() in _SKIPPING:
            return tensor
        return initialise(tensor, *args, **kwargs)

    return initialise_or_not


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 in full precision, whatever the caller has set for other work.

    By default torch lets convolutions on CUDA use TF32. The caller may have chosen less precise matrix products (on
    CPUs too), another default dtype or autocast. All of these are restored at the end.
    """
    dtype, older = torch.get_default_dtype(), _older_settings()
    backends = [(backend, backend.fp32_precision) for backend in _backends()]
    try:
        _set_older({setting: EXACT[setting] for setting in older})
        for backend, _ in backends:
            backend.fp32_precision = "ieee"
        torch.set_default_dtype(torch.float32)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_default_dtype(dtype)
        _set_older(older)
        for backend, precision in backends:  # after the line above, which changes some of them
            backend.fp32_precision = precision


def _backends() -> list:
    """The parts of torch that have their own `fp32_precision` (torch 2.9 and later)."""
    if not hasattr(torch.backends.cudnn, "conv"):
        return []
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    return [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, mkldnn.conv, mkldnn.matmul]


def _older_settings() -> dict[str, str | bool]:
    """Those settings of torch from before `fp32_precision` that can be read.

    torch (2.14.1) raises RuntimeError for one that disagrees with its newer counterpart.
    """
    found: dict[str, str | bool] = {}
    with contextlib.suppress(RuntimeError):
        found["matmul"] = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        found["cudnn"] = torch.backends.cudnn.allow_tf32
    return found


def _set_older(settings: dict[str, str | bool]) -> None:
    if "matmul" in settings:
        torch.set_float32_matmul_precision(settings["matmul"])
    if "cudnn" in settings:
        torch.backends.cudnn.allow_tf32 = settings["cudnn"]


def use_exact_float32() -> None:
    """Switch TF32 off for the rest of the process: for scripts."""
    _set_older(EXACT)


@contextlib.contextmanager
def guest() -> Iterator[None]:
    """Around loading and computing in somebody else's process: silent, exact, and all settings are restored."""
    with quiet_libraries(), no_random_numbers_taken(), exact_float32():
        yield
