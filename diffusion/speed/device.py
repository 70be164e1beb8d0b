"""A check of a device: do number formats decide alike, are bits repeated, how fast are networks of published sizes.

Everything is measured in one process and within a limit of time; what would exceed it is skipped, with the reason.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import psutil  # which accelerate installs
import torch
from torch import Tensor

from diffusion.core.image import Measured
from diffusion.io.wording import count
from diffusion.speed import networks
from diffusion.speed.networks import Size
from diffusion.speed.races import Embedded, embedded, race_all

LOGIC_SHARE = 0.3  # of the time goes to number formats at most, the rest to networks
SLOW = 3.0  # seconds; a call on a CPU that takes longer is not repeated
LARGEST = 128  # rows of a call on CUDA; beyond, single tensors of SDXL have 2^31 elements, which some kernels refuse
LARGEST_ELSEWHERE = 8  # where memory that is used up is no OutOfMemoryError


class Clock:
    """Counts down from a limit in seconds."""

    def __init__(self, limit: float):
        self.limit, self.started = limit, time.perf_counter()

    def spent(self) -> float:
        return time.perf_counter() - self.started

    def left(self) -> float:
        return self.limit - self.spent()


# ---- time ----


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of `work()`, the device's part included."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    """Until the device has done everything that was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def call_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of `work()` over half a second or more, after a first call that compiles or chooses kernels.

    On a CPU a call of more than SLOW seconds is made once.
    """
    first = seconds(work, device)
    if device.type == "cpu" and first > SLOW:
        return first

    times = [seconds(work, device) for _ in range(3)]
    while sum(times) < 0.5 and len(times) < 50:
        times.append(seconds(work, device))
    return statistics.median(times)


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """FLOP per second of the product of two square matrices, the best of ten; 2 side^3 FLOP each."""
    if side is None:
        side = 2048 if device.type == "cpu" else 8192
    square = torch.empty(side, side, dtype=dtype, device=device)
    square.normal_(generator=torch.Generator(device).manual_seed(0))
    times = [seconds(lambda: square @ square, device) for _ in range(11)]
    return 2 * side**3 / min(times[1:])  # the first chooses kernels


# ---- number formats and bits ----


@dataclass(frozen=True)
class Format:
    """Races over the same embedded images in one number format."""

    dtype: str
    images: int
    same_decisions: int | None  # images with the winner that float32 found; None without float32
    error_against_float32: float | None  # largest relative difference of an error
    same_bits_twice: int  # images whose records are the same bits in a second run
    error_twice: float  # largest relative difference of an error between the two
    other_batch: int  # rows of a call in a third run
    same_bits_other_batch: int
    error_other_batch: float
    nfe_per_second: float


def same_bits(first: Measured, second: Measured) -> bool:
    """Whether two searches over an image measured the same evaluations, to the same bits."""
    return torch.equal(first.counts, second.counts) and torch.equal(first.errors, second.errors)


def relative_error(found: Measured, reference: Measured) -> float:
    """max |e - e'| / e' over the evaluations that both searches made; nan if an error is not a number."""
    largest = torch.zeros(())
    errors = found.errors.split(found.counts.tolist())
    expected = reference.errors.split(reference.counts.tolist())
    for e, e_ref in zip(errors, expected, strict=True):
        n = min(len(e), len(e_ref))
        difference = (e[:n] - e_ref[:n]).abs() / e_ref[:n]
        largest = torch.maximum(largest, difference.max())  # nan wins
    return float(largest)


def _largest(found: list[Measured], reference: list[Measured]) -> float:
    """The largest `relative_error` over images."""
    each = [relative_error(a, b) for a, b in zip(found, reference, strict=True)]
    return float(torch.tensor(each).max())  # nan wins


def _same(found: list[Measured], reference: list[Measured]) -> int:
    return sum(same_bits(a, b) for a, b in zip(found, reference, strict=True))


def compare_format(
    task: Embedded, dtype: str, latents: list[Tensor], batch_size: int, reference: list[Measured] | None
) -> tuple[Format, list[Measured]]:
    """Races over encoded images: once, again, and in calls of half as many rows; against float32's, if there are any.

    Returns the comparison, and what the first run measured.
    """

    def race(rows: int) -> list[Measured]:
        return race_all(task.model, latents, task.conditions, rows)

    other_batch = batch_size // 2
    race(batch_size)  # chooses kernels
    found: list[Measured] = []
    took = seconds(lambda: found.extend(race(batch_size)), task.model.device)
    again = race(batch_size)
    other = race(other_batch)

    same_decisions, error = None, None
    if reference is not None:
        same_decisions = sum(a.winner == b.winner for a, b in zip(found, reference, strict=True))
        error = _largest(found, reference)
    row = Format(
        dtype=dtype,
        images=len(latents),
        same_decisions=same_decisions,
        error_against_float32=error,
        same_bits_twice=_same(again, found),
        error_twice=_largest(again, found),
        other_batch=other_batch,
        same_bits_other_batch=_same(other, found),
        error_other_batch=_largest(other, found),
        nfe_per_second=sum(each.nfe for each in found) / took,
    )
    return row, found


NFE_PER_IMAGE = 75  # of a race over the embedded images, about
RACES = 4  # of each image in each format


def formats(device: torch.device, clock: Clock, images: int, batch_size: int = 64) -> Iterator[Format | str]:
    """`compare_format` of float32, then of float16 and bfloat16; the reason in place of one that is skipped.

    Skipped is a format in which the races would take longer than LOGIC_SHARE of the clock's limit leaves, by the time
    of one call.
    """
    reference = None
    for dtype in ("float32", "bfloat16", "float16"):
        if dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            yield "bfloat16: the device does not support it"
            continue

        task = embedded(device, getattr(torch, dtype))
        latents = task.latents(range(0, 8 * images, 8))
        once = _one_call(task, latents[0], batch_size)
        expected = RACES * images * NFE_PER_IMAGE / batch_size * once
        left = LOGIC_SHARE * clock.limit - clock.spent()
        if reference is not None and expected > left:
            yield f"{dtype}: races would take {expected:,.0f} s, {max(left, 0):,.0f} s are left for them"
            continue

        row, found = compare_format(task, dtype, latents, batch_size, reference)
        if reference is None:
            reference = found
        yield row


@torch.inference_mode()
def _one_call(task: Embedded, latent: Tensor, rows: int) -> float:
    """Seconds of one call of the embedded network; latent [c, h, w]."""
    z = latent.to(task.model.device).expand(rows, *latent.shape)
    level = torch.full([rows], 500)
    conditions = task.conditions[torch.arange(rows) % len(task.conditions)]

    def call() -> Tensor:
        return task.model.denoise(z, level, conditions)

    call()  # chooses kernels
    return seconds(call, task.model.device)


# ---- networks ----


@dataclass(frozen=True)
class Speed:
    """What was measured of a network in one form."""

    network: str
    form: str  # memory format of the weights, and whether they were compiled
    dtype: str
    parameters: int
    flop_per_nfe: int
    weights_bytes: int
    batch_size: int  # rows of a call, the fastest of those tried
    nfe_per_second: float
    matrix_share: float  # FLOP per second over those of a matrix product
    peak_bytes: int | None  # of device memory, weights included, with that batch; None on a CPU
    speeds: dict[int, float] | None = None  # rows of a call -> NFE per second, where several were tried
    ended_by: str | None = None  # memory, time or limit: why no larger call was tried


Maker = Callable[[int], Callable[[], object]]  # rows -> what makes one call with so many


def batch_speeds(
    maker: Maker, device: torch.device, limit: float, most: int
) -> tuple[dict[int, float], dict[int, int | None], str]:
    """NFE per second in calls of 1, 2, 4, ... rows, until one does not fit or would take longer than `limit` seconds.

    Calls have at most `most` rows. Returns NFE per second by rows, peak bytes of device memory by rows, and why it
    ended: "memory", "time" or "limit". Nothing was measured if not even one row fits.
    """
    clock = Clock(limit)
    speeds: dict[int, float] = {}
    peaks: dict[int, int | None] = {}
    rows = 1
    while rows <= most:
        found = speed_of_call(maker, rows, device)
        if found is None:
            return speeds, peaks, "memory"

        speeds[rows], peaks[rows] = found
        calls = 1 if device.type == "cpu" else 4  # of the next size, at least
        if 2 * calls * rows / speeds[rows] > clock.left():
            return speeds, peaks, "time"
        rows *= 2
    return speeds, peaks, "limit"


def speed_of_call(maker: Maker, rows: int, device: torch.device) -> tuple[float, int | None] | None:
    """NFE per second of a call with so many rows, and peak bytes of memory, on CUDA; None if it does not fit."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        speed = rows / call_seconds(maker(rows), device)
    except torch.OutOfMemoryError:
        speed = None
    if speed is None:  # after the except clause, since the exception holds the call's tensors
        torch.cuda.empty_cache()
        return None
    if device.type == "cuda":
        return speed, torch.cuda.max_memory_allocated(device)
    return speed, None


def memory_formats(device: torch.device) -> list[torch.memory_format]:
    """Of the weights; the first is what a run takes on this device (models.loading.prepare)."""
    if device.type == "cuda":
        return [torch.channels_last, torch.contiguous_format]
    return [torch.contiguous_format, torch.channels_last]


def unfeasible(weights_bytes: int, call_flop: int, device: torch.device, rate: float, left: float) -> str | None:
    """Why a network is not measured: its weights do not fit or, but on CUDA, one call would take too long; else None.

    A call is expected to reach half of the matrix rate; 100 million weights are made in a second.
    """
    free = free_bytes(device)
    if weights_bytes > 0.8 * free:
        return f"{weights_bytes / 1e9:,.1f} GB of weights, {free / 1e9:,.1f} GB of memory are free"

    call, making = 2 * call_flop / rate, weights_bytes / 4 / 1e8
    if device.type != "cuda" and making + call > left:
        expected = f"one call would take {call:,.0f} s and making the weights {making:,.0f} s"
        return f"{expected}, {max(left, 0):,.0f} s are left for it"
    return None


@dataclass(frozen=True)
class Shape:
    """Figures of a network that need no weights."""

    size: Size
    parameters: int
    flop_per_nfe: int


def shape_of(size: Size) -> Shape:
    network = networks.empty(size)
    inputs = size.inputs(1, torch.device("meta"), torch.float32)
    return Shape(size, networks.parameters(network), networks.flop_per_nfe(network, inputs))


def measure_networks(
    sizes: list[Size], device: torch.device, dtype: torch.dtype, rate: float, clock: Clock, compiled: bool = False
) -> Iterator[Speed | str]:
    """`measure_network` of each that is feasible, in equal shares of the time left; the reasons for the others first.

    `rate` is that of `matrix_rate`.
    """
    feasible = []
    for shape in [shape_of(size) for size in sizes]:
        weights = shape.parameters * dtype.itemsize
        reason = unfeasible(weights, shape.flop_per_nfe, device, rate, clock.left() / 2)
        if reason:
            yield f"{shape.size.name}: {reason}"
        else:
            feasible.append(shape)

    for k, shape in enumerate(feasible):
        limit = clock.left() / (len(feasible) - k)
        yield from measure_network(shape, device, dtype, rate, limit, compiled)


def measure_network(
    shape: Shape, device: torch.device, dtype: torch.dtype, rate: float, limit: float, compiled: bool = False
) -> Iterator[Speed | str]:
    """The speed of a network in each memory format of its weights; the reason in place of what is skipped.

    In the first format it is called with 1, 2, 4, ... rows, in the second with as many as were fastest, and so too when
    it is `compiled`, in the first format. `rate` is that of `matrix_rate`, `limit` in seconds, in all.
    """
    clock = Clock(limit)
    size, flop = shape.size, shape.flop_per_nfe
    weights = shape.parameters * dtype.itemsize
    network = networks.random_network(size, device, dtype)

    def maker(rows: int) -> Callable[[], object]:
        inputs = networks.random_inputs(size, rows, device, dtype)
        return lambda: network(**inputs)

    def row(form: str, rows: int, speed: float, peak: int | None) -> Speed:
        return Speed(
            network=size.name,
            form=form,
            dtype=short_name(dtype),
            parameters=shape.parameters,
            flop_per_nfe=flop,
            weights_bytes=weights,
            batch_size=rows,
            nfe_per_second=speed,
            matrix_share=flop * speed / rate,
            peak_bytes=peak,
        )

    usual, other = memory_formats(device)
    network.to(memory_format=usual)
    with torch.inference_mode():
        most = LARGEST if device.type == "cuda" else LARGEST_ELSEWHERE
        speeds, peaks, ended_by = batch_speeds(maker, device, clock.left() / 2, most)
    if not speeds:
        yield f"{size.name}: a call with one row does not fit into memory"
        return
    best = max(speeds, key=speeds.get)
    first = row(short_name(usual), best, speeds[best], peaks[best])
    yield replace(first, speeds=speeds, ended_by=ended_by)

    further = [(other, False)]
    if compiled:
        further.append((usual, True))
    for memory_format, compile_it in further:
        form = short_name(memory_format)
        if compile_it:
            form += ", compiled"
        expected = 2 * best / speeds[best]
        if not compile_it and expected > clock.left():
            yield f"{size.name}, {form}: calls would take {expected:,.0f} s, {max(clock.left(), 0):,.0f} s are left"
            continue
        network.to(memory_format=memory_format)
        if compile_it:
            network.compile(mode="max-autotune", dynamic=False)
        with torch.inference_mode():
            found = speed_of_call(maker, best, device)
        if found is None:
            yield f"{size.name}, {form}: a call with {count(best, 'row')} does not fit into memory"
        else:
            yield row(form, best, *found)
        if compile_it:
            torch.compiler.reset()  # compiled code holds memory


def short_name(each: torch.dtype | torch.memory_format) -> str:
    """float16 or channels_last, of torch's names for them."""
    return str(each).removeprefix("torch.").removesuffix("_format")


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device once what is no longer used is given back; of the host, what is available."""
    if device.type == "cuda":
        gc.collect()  # networks hold themselves in cycles
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
