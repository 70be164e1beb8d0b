"""The kernel: errors of conditions at shared points, many images in one network call.

A search over one image is a generator, a *task*: it yields the `Block` of evaluations that it wants next and is sent
their errors. `together` runs many tasks side by side and puts the rows of their blocks into full network calls.
"""

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from diffusion import InputWarning
from diffusion.core.conditions import Conditions, places_of
from diffusion.core.losses import losses_only

CPU_ROWS = 16  # matrix kernels for fewer rows than this round differently: a CPU's network never sees so few


@dataclass(frozen=True)
class Block:
    """Evaluations of one image: every arm at every point.

    Its rows are the a * p pairs, point by point: row k is arm k mod a at point k // a.
    """

    x: Tensor  # [c, h, w] clean latent
    conditions: Conditions  # of all arms of the image
    arms: np.ndarray  # [a] the rows of `conditions` that are evaluated
    levels: Tensor  # [p]
    draws: Tensor  # [p] the noise draw of each point
    noise: Tensor  # a bank [n, c, h, w], or anything that gives [p, c, h, w] when indexed by draws [p]
    signs: Tensor | None = None  # [p] 1 or -1, factor of each point's draw; default 1

    def __len__(self) -> int:
        return len(self.arms) * len(self.levels)

    @property
    def settings(self) -> list[Hashable]:
        """The setting of each arm, None if there is none."""
        if self.conditions.settings is None:
            return [None] * len(self.arms)
        return [self.conditions.settings[arm] for arm in self.arms]


Task = Generator[Block, Tensor, object]  # yields blocks, is sent their errors [a, p, k] float32, returns a result
Part = tuple[Block, int, int]  # rows [start, stop) of a block


# ---- one network call ----


def errors_of_call(model, parts: list[Part], size: int, to_errors: Callable) -> Tensor:
    """Errors of some rows of several blocks, which all have one setting, by one network call.

    The call is filled up to `size` rows with copies of the last one. The error of a row is
    ||target - network(z_i, i, c)|| under each loss. -> [n, k], the k columns that `to_errors` makes
    """
    latents, draws, levels, of_parts = zip(*itertools.starmap(_inputs, parts), strict=True)
    x, eps, i = torch.cat(latents), torch.cat(draws), torch.cat(levels)
    conditions = Conditions.cat(of_parts)
    z = model.process.noised(x, eps, i)  # levels stay on the host, as the tables do

    setting = parts[0][0].settings[0]
    if setting is not None:
        model.switch(setting)
    n = len(i)
    time = model.process.time[i]
    if n < size:
        filled = torch.arange(size).clamp(max=n - 1)
        z, time, conditions = z[filled], time[filled], conditions[filled]
    prediction = model.denoise(z, time, conditions)[:n]
    return to_errors(model.process, x, eps, i, prediction)


@torch.inference_mode()
def measure(model, parts: list[Part], size: int, to_errors: Callable) -> Tensor:
    """errors_of_call, without gradients."""
    return errors_of_call(model, parts, size, to_errors)


def _inputs(block: Block, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, Conditions]:
    """x and eps [n, c, h, w], levels [n] and conditions of rows [start, stop)."""
    point, arm = np.divmod(np.arange(start, stop), len(block.arms))
    points = slice(point[0], point[-1] + 1)
    eps = block.noise[block.draws[points]].to(block.x.device, torch.float32)  # one draw for all arms of a point
    if block.signs is not None:
        eps = eps * block.signs[points].to(eps)[:, None, None, None]
    eps = eps[point - point[0]]
    x = block.x.float().expand_as(eps)
    return x, eps, block.levels[point], block.conditions[block.arms[arm]]


# ---- many images, one stream of network calls ----


@dataclass(eq=False)
class _Request:
    """The arms of one setting in a block that a task waits for."""

    block: Block  # of these arms only
    places: list[int]  # of these arms among those of the task's block
    setting: Hashable
    asked: "_Asked"
    sent: int = 0  # leading rows that are part of a call
    answers: list[Tensor] = field(default_factory=list)  # errors [n, k] of leading rows

    @property
    def unsent(self) -> int:
        """Number of rows not sent yet."""
        return len(self.block) - self.sent

    @property
    def answered(self) -> bool:
        return sum(map(len, self.answers)) == len(self.block)

    def errors(self) -> Tensor:
        """[a, p, k]"""
        by_point = torch.cat(self.answers).unflatten(0, (-1, len(self.block.arms)))
        return by_point.transpose(0, 1)


@dataclass(eq=False)
class _Asked:
    """A task that waits for the errors of a block, in one request for each setting."""

    number: int  # of the task; the lowest is served first
    task: Task
    requests: list[_Request] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        return all(request.answered for request in self.requests)

    def errors(self) -> Tensor:
        """[a, p, k], the arms in the order of the task's block."""
        places: list[int] = []
        for request in self.requests:
            places += request.places
        errors = torch.cat([request.errors() for request in self.requests])
        return errors[np.argsort(places)]


class _Running:
    """The tasks in progress, and their requests that have rows to send."""

    def __init__(self, tasks: Iterable[Task], in_flight: int | None):
        self.upcoming = enumerate(tasks)
        self.in_flight = in_flight
        self.running = 0
        self.exhausted = False
        self.requests: list[_Request] = []  # those of the oldest task first

    @property
    def may_start(self) -> bool:
        return not self.exhausted and self.running != self.in_flight

    def start(self) -> list:
        """Start the next task; its result if it ended at once, as `resume`."""
        try:
            number, task = next(self.upcoming)
        except StopIteration:
            self.exhausted = True
            return []
        self.running += 1
        return self.resume(number, task, None)

    def resume(self, number: int, task: Task, errors: Tensor | None) -> list:
        """Run a task until it asks for a block: []; or to its end: [its result]."""
        try:
            block = task.send(errors)  # type: ignore[arg-type]  # None is sent first, as to every generator
        except StopIteration as end:
            self.running -= 1
            return [end.value]
        if not len(block):
            raise ValueError("a task asks for a block without evaluations: it would never be resumed")
        asked = _Asked(number, task)
        for setting, places in places_of(block.settings).items():
            part = replace(block, arms=block.arms[places])
            asked.requests.append(_Request(part, places, setting, asked))
        self.requests += asked.requests
        self.requests.sort(key=lambda request: request.asked.number)
        return []

    def next_requests(self) -> list[_Request]:
        """Requests that may share a call: those of the setting with the most unsent rows."""
        groups: dict[Hashable, list[_Request]] = {}
        for request in self.requests:
            groups.setdefault(request.setting, []).append(request)
        return max(groups.values(), key=_unsent, default=[])

    def mark_sent(self, taken: list[tuple[_Request, int, int]]) -> None:
        for request, _, stop in taken:
            request.sent = stop
        self.requests = [request for request in self.requests if request.unsent]


def _unsent(requests: list[_Request]) -> int:
    """Number of rows not sent yet."""
    return sum(request.unsent for request in requests)


def _take(requests: list[_Request], room: int) -> list[tuple[_Request, int, int]]:
    """Unsent rows for one call, at most `room`: requests and their rows [start, stop)."""
    taken = []
    for request in requests:
        n = min(request.unsent, room)
        if n:
            taken.append((request, request.sent, request.sent + n))
            room -= n
    return taken


def together(
    model,
    tasks: Iterable[Task],
    *,
    batch_size: int,
    in_flight: int | None = None,
    to_errors: Callable = losses_only,
    spent: Callable[[int], None] = lambda nfe: None,
) -> Iterator:
    """Run tasks side by side, so that every network call is full; yields the results of tasks as they end.

    Calls hold `batch_size` rows, those of the oldest tasks first; when the tasks in progress want fewer, the next one
    is started (with `in_flight`, at most so many at a time). All rows of a call have the same setting: the one with the
    most unsent rows is next. On a CPU a row has the same bits whatever shares its call (calls are of at least CPU_ROWS
    rows); elsewhere every call is filled up to the same shape. The errors of one call are read while the next one runs;
    then `spent` is called with its NFE, one per row of the blocks. A call that does not fit into memory is made again
    in halves, and so are those after it.
    """
    on_cpu = model.device.type == "cpu"
    least = CPU_ROWS if on_cpu else 1
    batch_size = max(batch_size, least)
    running = _Running(tasks, in_flight)
    unread: deque[tuple[list[tuple[_Request, int, int]], Tensor]] = deque()  # calls whose errors are on the device

    while True:
        requests = running.next_requests()
        wanted = _unsent(requests)
        if wanted < batch_size and running.may_start:
            yield from running.start()
            continue

        if wanted >= batch_size or (wanted and not unread):
            taken = _take(requests, batch_size)
            parts = [(request.block, start, stop) for request, start, stop in taken]
            try:
                errors = measure(model, parts, least if on_cpu else batch_size, to_errors)
            except torch.OutOfMemoryError:
                if batch_size == least:
                    raise
                batch_size = max(batch_size // 2, least)
                halved = f"out of memory: evaluations in a call are at most {batch_size} from here on"
                warnings.warn(halved, InputWarning, stacklevel=2)
                continue
            running.mark_sent(taken)
            unread.append((taken, errors))

        if not unread:
            return
        if len(unread) == 2 or wanted < batch_size:
            taken, errors = unread.popleft()
            errors = errors.cpu()
            spent(len(errors))
            rows = errors.split([stop - start for _, start, stop in taken])
            for (request, _, _), answer in zip(taken, rows, strict=True):
                request.answers.append(answer)
                asked = request.asked
                if asked.answered:
                    yield from running.resume(asked.number, asked.task, asked.errors())
