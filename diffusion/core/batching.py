"""The kernel: errors of conditions at shared points, many images in one network call."""

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from diffusion import InputWarning
from diffusion.core.losses import plain

CPU_ROWS = 16  # matrix kernels for fewer rows than this round differently: a CPU's network never sees so few


# ---- many images, one stream of network calls ----


@dataclass(frozen=True)
class Block:
    """Evaluations wanted of one image: every arm at every point, a rows for each of p points."""

    x: Tensor  # [c, h, w] clean latent
    conditions: Tensor  # of all arms of the image, indexable by arm
    arms: np.ndarray  # [a] which of them
    levels: Tensor  # [p]
    rows: Tensor  # [p] the noise draw of each point
    noise: Tensor  # a bank [n, c, h, w], or anything that gives such when indexed by draws
    loras: Sequence[tuple[str, ...]] | None = None  # of all arms of the image: the model's that each has for itself
    signs: Tensor | None = None  # [p] 1 or -1, what the draw of each point is multiplied by; default 1

    def __len__(self) -> int:
        return len(self.arms) * len(self.levels)

    @property
    def on(self) -> tuple[str, ...] | None:
        """The LoRAs of the first arm."""
        return self.loras and self.loras[self.arms[0]]


def alike(loras: Iterable) -> dict[tuple[str, ...] | None, list[int]]:
    """The places of arms that have the same LoRAs."""
    places: dict = {}
    for place, own in enumerate(loras):
        places.setdefault(own, []).append(place)
    return places


Task = Generator[Block, Tensor, object]  # yields blocks, is sent their errors [a, p, k] float32, returns a result


def differentiable(model, parts: list[tuple[Block, int, int]], size: int, keep: Callable) -> Tensor:
    """One network call for rows [start, stop) of each block, filled up with copies of the last row to `size`.

    Arms have the same LoRAs, if any. The error of a row is ||target - network(z_i, i, c)|| under each loss. -> [n, k],
    the k columns that `keep` keeps
    """
    columns = []
    for block, start, stop in parts:
        point, arm = np.divmod(np.arange(start, stop), len(block.arms))
        seen = slice(point[0], point[-1] + 1)  # its points: each is drawn once
        eps = block.noise[block.rows[seen]].to(block.x.device, torch.float32)
        if block.signs is not None:
            eps = eps * block.signs[seen].to(eps)[:, None, None, None]
        eps = eps[point - point[0]]
        x = block.x.float().expand_as(eps)
        columns.append((x, eps, block.levels[point], block.conditions[block.arms[arm]]))
    x, eps, i, conditions = (torch.cat(column) for column in zip(*columns, strict=True))
    z = model.process.noised(x, eps, i)  # levels stay on the host, where the tables are
    n = len(i)
    if (loras := parts[0][0].on) is not None:
        model.switch(loras)
    shown = torch.arange(size).clamp(max=n - 1) if n < size else slice(None)
    answer = model.denoise(z[shown], model.process.time[i[shown]], conditions[shown])[:n]
    return keep(model.process, x, eps, i, answer)


measure = torch.inference_mode()(differentiable)  # the same, where nobody asks for a gradient


@dataclass
class _Asked:
    """A block that a task waits for, or those of its arms that have the same LoRAs."""

    number: int
    task: Task
    block: Block
    places: list[int]  # of its arms among those that the task asked for
    parts: list["_Asked"]  # all that the task asked for
    sent: int = 0  # rows
    answers: list[Tensor] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        return sum(map(len, self.answers)) == len(self.block)

    def errors(self) -> Tensor:
        """[a, p, k]"""
        return torch.cat(self.answers).unflatten(0, (-1, len(self.block.arms))).transpose(0, 1)


def _split(number: int, task: Task, block: Block) -> list[_Asked]:
    """What a task asks for, in parts of which each has calls of its own."""
    parts: list[_Asked] = []
    for places in alike(block.loras and block.loras[arm] for arm in block.arms).values():
        parts.append(_Asked(number, task, replace(block, arms=block.arms[places]), places, parts))
    return parts


def _rows(asked: list[_Asked]) -> int:
    """How many are still to send."""
    return sum(len(each.block) - each.sent for each in asked)


def _fullest(asked: list[_Asked]) -> list[_Asked]:
    """Those that may share a call, being of the same LoRAs: of these, the most rows; all, where arms have none."""
    same = alike(each.block.on for each in asked).values()
    return max(([asked[k] for k in places] for places in same), key=_rows, default=[])


def _take(asked: list[_Asked], room: int) -> list[tuple[_Asked, int, int]]:
    """At most `room` of the rows still to send, from the first on: whose, and its rows [start, stop)."""
    parts = []
    for each in asked:
        stop = min(each.sent + room, len(each.block))
        if each.sent < stop:
            parts.append((each, each.sent, stop))
            room -= stop - each.sent
    return parts


def together(
    model,
    tasks: Iterable[Task],
    *,
    batch_size: int,
    in_flight: int | None = None,
    keep: Callable = plain,
    spent: Callable[[int], None] = lambda nfe: None,
) -> Iterator:
    """Run tasks side by side, so that every network call is full; yields what they return, as they end.

    Calls hold `batch_size` rows, of the oldest tasks first; when those in flight want fewer, the next task is started
    (with `in_flight`, at most so many at a time). Where arms have LoRAs of their own, a call has rows of the same ones:
    of those with the most rows to send. On a CPU the same row gives the same bits whatever shares its call (calls are
    of at least CPU_ROWS rows); elsewhere every call is filled up to the same shape. The errors of one call are read
    while the next one runs; then `spent` is told of its NFE, one per row of the blocks. A call that does not fit into
    memory is made again in halves, and so are those after it.
    """
    on_cpu = model.device.type == "cpu"
    least = CPU_ROWS if on_cpu else 1
    batch_size = max(batch_size, least)
    tasks = enumerate(tasks)
    asked: list[_Asked] = []  # with rows to send, the oldest first
    unread: deque[tuple[list, Tensor]] = deque()
    running = 0

    def go_on(number: int, task: Task, errors: Tensor | None) -> Iterator:
        """Let a task run until it asks for a block, or else yield its result."""
        nonlocal running
        try:
            asked.extend(_split(number, task, task.send(errors)))
        except StopIteration as end:
            running -= 1
            yield end.value

    while True:
        while (wanted := _rows(fullest := _fullest(asked))) < batch_size and running != in_flight:
            if (new := next(tasks, None)) is None:
                break
            running += 1
            yield from go_on(*new, None)
        if wanted >= batch_size or (asked and not unread):
            parts = _take(fullest, batch_size)
            size = least if on_cpu else batch_size
            try:
                answers = measure(model, [(a.block, start, stop) for a, start, stop in parts], size, keep)
            except torch.OutOfMemoryError:
                if batch_size == least:
                    raise
                batch_size = max(batch_size // 2, least)
                halved = f"out of memory: from here on {batch_size} evaluations in a call"
                warnings.warn(halved, InputWarning, stacklevel=2)
                continue
            for a, _, stop in parts:
                a.sent = stop
            asked = [a for a in asked if a.sent < len(a.block)]
            unread.append((parts, answers))
        if not unread:
            return
        if len(unread) == 2 or wanted < batch_size:
            parts, answers = unread.popleft()
            answers = answers.cpu()
            spent(len(answers))
            answers = answers.split([stop - start for _, start, stop in parts])
            for (a, _, _), part in zip(parts, answers, strict=True):
                a.answers.append(part)
                if all(each.answered for each in a.parts):
                    order = np.argsort([place for each in a.parts for place in each.places])
                    yield from go_on(a.number, a.task, torch.cat([each.errors() for each in a.parts])[order])
            asked.sort(key=lambda a: a.number)
