"""The kernel: how badly the network, told each arm, predicts what it was trained to predict, at shared points.

An evaluation is one row of a network call: one image's latent at one point, told one arm. Rows of several images fill
one call (see `together`); what a row gives does not depend on the others.
"""

import math
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion import InputWarning
from diffusion.names import LOSSES

CPU_ROWS = 16  # matrix kernels for fewer rows than this round differently: a CPU's network never sees so few


LOSS_OF = {  # each of names.LOSSES -> its function of prediction and target [n, c, h, w], at each place
    "l2": partial(F.mse_loss, reduction="none"),
    "l1": partial(F.l1_loss, reduction="none"),
    "huber": partial(F.huber_loss, reduction="none"),  # delta 1
}


def losses(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over c, h, w of d^2, |d| and Huber(d) (delta 1), d = prediction - target, in float32.

    prediction [n, c, h, w], target [n, c, h, w] -> [n, 3], or as many columns as there are LOSSES
    """
    prediction, target = prediction.float(), target.float()
    return torch.stack([LOSS_OF[name](prediction, target).mean((-3, -2, -1)) for name in LOSSES], -1)


def variational_bound(process, x: Tensor, eps: Tensor, i: Tensor, prediction: Tensor, variance: Tensor) -> Tensor:
    """The term of the variational bound at each point, in bits per dimension, for a network that learned its variance.

    Level i > 0: KL(q(z_{i-1} | z_i, x) || p(z_{i-1} | z_i)); level 0: -log p(x | z_0), a Gaussian integrated over bins
    of 2/255, the outer ones open beyond +-0.999 (arXiv 2006.11239, eqs. 5-8, 13). The log variance lies between those
    of the posterior (-1) and of the forward step (+1) (arXiv 2102.09672, eq. 15). For networks that predict epsilon.

    x, eps, prediction and variance [n, c, h, w], i [n] -> [n]
    """
    abar = process.alpha**2
    before = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
    beta = 1 - abar / before  # [T], float64 like every table here
    posterior = beta * (1 - before) / (1 - abar)
    posterior[0] = posterior[1]  # level 0 has none; this is what the networks were trained with
    spread = beta.log() - posterior.log()

    def at(table: Tensor) -> Tensor:
        return table[i.cpu()].to(torch.float32).to(eps.device)[:, None, None, None]

    eps, prediction, variance = eps.float(), prediction.float(), variance.float()
    wider = at(spread) * (variance + 1) / 2  # log variance above the posterior's
    step = beta / (process.sigma * (1 - beta).sqrt())  # an error in eps, as an error in the mean
    kl = 0.5 * (wider + torch.expm1(-wider) + at(step**2 / posterior) * (prediction - eps) ** 2 * torch.exp(-wider))
    bound = kl.mean((-3, -2, -1))
    if (first := (i == 0).to(eps.device)).any():
        off = (at(step) * (prediction - eps))[first]  # x - mean
        sd = torch.exp((at(posterior.log()) + wider)[first] / 2)
        x = x.float()[first]
        low, high = (off - 1 / 255) / sd, (off + 1 / 255) / sd
        low, high = torch.where(off > 0, -high, low), torch.where(off > 0, -low, high)  # the lower tail keeps digits
        a, b = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
        log_p = b + torch.log(-torch.expm1(a - b))
        log_p = torch.where(x < -0.999, torch.special.log_ndtr((off + 1 / 255) / sd), log_p)
        log_p = torch.where(x > 0.999, torch.special.log_ndtr((1 / 255 - off) / sd), log_p)
        bound[first] = -log_p.mean((-3, -2, -1))
    return bound / math.log(2)


# What is kept of the network's answers [n, c or 2c, h, w]: functions of (process, x [n, c, h, w], eps [n, c, h, w],
# i [n], answer) -> [n, k], whose first three columns are the losses.


def plain(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses. [n, 3]"""
    return losses(answer[:, : x.shape[1]], process.target(x, eps, i))


def with_bound(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses and the term of the variational bound. [n, 4]"""
    prediction, variance = answer.chunk(2, 1)
    bound = variational_bound(process, x, eps, i, prediction, variance)
    return torch.cat([losses(prediction, process.target(x, eps, i)), bound[:, None]], 1)


def with_map(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses and the squared error at each place of the latent, its mean over channels. [n, 3 + h w]"""
    square = (answer[:, : x.shape[1]].float() - process.target(x, eps, i)) ** 2
    return torch.cat([plain(process, x, eps, i, answer), square.mean(1).flatten(1)], 1)


def with_prediction(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses and what the network predicts. [n, 3 + c h w]"""
    return with_answer(process, x, eps, i, answer[:, : x.shape[1]])


def with_answer(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses and all that the network says. [n, 3 + (c or 2c) h w]"""
    return torch.cat([plain(process, x, eps, i, answer), answer.float().flatten(1)], 1)


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


class ImageNoise:
    """Standard normal draws [n, c, h, w] that depend on (seed, dataset index, number of the draw) alone.

    Indexed like a bank of noise; a draw is made when it is asked for, since a search uses few of them.
    """

    def __init__(self, seed: int, index: int, latent: tuple[int, int, int]):
        self.seed, self.index, self.latent = seed, index, latent

    def __getitem__(self, rows: Iterable[int]) -> torch.Tensor:
        # numpy's generator: torch's on a CPU uses 32 bits of a seed, and its first 16 numbers depend on how many follow
        drawn = [np.random.default_rng([self.seed, self.index, int(row)]) for row in rows]
        return torch.from_numpy(np.stack([rng.standard_normal(self.latent, dtype=np.float32) for rng in drawn]))


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
