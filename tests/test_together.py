"""Many tasks, one stream of network calls: how full the calls are, and that results do not depend on it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from helpers import ROOT

from diffusion.core.batching import Block, measure, together
from diffusion.core.conditions import Conditions
from diffusion.core.image import Question, search_image
from diffusion.core.losses import losses_only
from diffusion.core.noise import ImageNoise
from diffusion.core.process import Process
from diffusion.core.schedule import Points
from diffusion.core.search import halving, level_sequence, noise_rows, race, spread_sequence
from diffusion.data.datasets import load_dataset
from diffusion.data.images import centre_crop
from diffusion.data.prompts import prompts_file, read_prompts
from diffusion.models.loading import load_model

PROCESS = Process.from_scheduler(DDPMScheduler(beta_schedule="scaled_linear", prediction_type="epsilon"))
SHAPE = (2, 3, 4)  # c, h, w


def fake(device: str = "cpu"):
    """A network that predicts z + c, and the number of rows of each of its calls. Its tensors are on the CPU."""
    calls = []

    def denoise(z, i, c):
        calls.append(len(z))
        return z + c["c"][:, None, None, None]

    return SimpleNamespace(process=PROCESS, device=torch.device(device), denoise=denoise), calls


def asking(k: int, *blocks: tuple[int, int]):
    """A task that asks for blocks of so many arms and points, and returns k and what it was sent."""
    draw = torch.Generator().manual_seed(k)
    x, noise = torch.randn(SHAPE, generator=draw), torch.randn(10, *SHAPE, generator=draw)
    sent = []
    for arms, points in blocks:
        levels = torch.randint(1000, (points,), generator=draw)
        conditions = Conditions({"c": torch.linspace(0, 1, 10)})
        sent.append((yield Block(x, conditions, np.arange(arms), levels, torch.arange(points), noise)))
    return k, sent


def several(n: int) -> list[list[tuple[int, int]]]:
    """For each of n tasks, its blocks: from none to five, of 1 to 81 rows."""
    rng = np.random.default_rng(n)
    blocks = []
    for _ in range(n):
        asked = rng.integers(6)
        blocks.append([tuple(rng.integers(1, 10, 2).tolist()) for _ in range(asked)])
    return blocks


def rows_of(blocks: list[list[tuple[int, int]]]) -> int:
    """Number of evaluations of these blocks of all tasks."""
    return sum(arms * points for each in blocks for arms, points in each)


def alone(model, task):
    """What a task returns when nothing shares its calls, each of 16 rows."""
    try:
        block = next(task)
        while True:
            rows = range(0, len(block), 16)
            parts = [measure(model, [(block, k, min(k + 16, len(block)))], 16, losses_only) for k in rows]
            block = task.send(torch.cat(parts).unflatten(0, (-1, len(block.arms))).transpose(0, 1))
    except StopIteration as end:
        return end.value


def counting():
    """`losses_only`, and the list of how many rows each call gave it."""
    counted = []

    def keep(process, x, eps, i, answer):
        counted.append(len(answer))
        return losses_only(process, x, eps, i, answer)

    return keep, counted


# ---- over a network that answers at once ----


@pytest.mark.parametrize("batch_size, in_flight", [(1, 1), (16, None), (23, 7), (64, 2), (1000, None)])
def test_every_task_is_sent_what_it_asked_for(batch_size, in_flight):
    """The bits that it gets alone, each row evaluated once; calls hold the batch at most, and on a CPU 16 at least."""
    blocks = several(30)
    assert [] in blocks  # a task that never asks
    (model, calls), (keep, counted) = fake(), counting()
    tasks = (asking(k, *blocks[k]) for k in range(30))
    done = dict(together(model, tasks, batch_size=batch_size, in_flight=in_flight, to_errors=keep))
    assert sorted(done) == list(range(30))
    for k, sent in done.items():
        _, wanted = alone(fake()[0], asking(k, *blocks[k]))
        assert [tuple(errors.shape) for errors in sent] == [(*shape, 3) for shape in blocks[k]]
        assert all(torch.equal(errors, other) for errors, other in zip(sent, wanted, strict=True))
    assert sum(counted) == rows_of(blocks)
    assert len(calls) == len(counted) and all(16 <= n <= max(16, batch_size) for n in calls)


@pytest.mark.parametrize("batch_size", [16, 40])
def test_calls_are_full_as_long_as_there_are_images(batch_size):
    """Exactly so; after that, what is in flight may leave a few that are not, of 16 rows at least."""
    model, calls = fake()
    before_the_end = []

    def tasks():
        yield from (asking(k, *blocks) for k, blocks in enumerate(several(60)))
        before_the_end.append(len(calls))

    assert len(list(together(model, tasks(), batch_size=batch_size))) == 60
    (full,) = before_the_end
    assert set(calls[:full]) == {batch_size} and full > 0.8 * len(calls)
    assert all(16 <= n <= batch_size for n in calls[full:])


@pytest.mark.parametrize("batch_size", [1, 32])
def test_elsewhere_than_on_a_cpu_every_call_has_the_same_shape(batch_size):
    """The last too, filled up; and not 16 rows when fewer are wanted."""
    (model, calls), (keep, counted) = fake("meta"), counting()
    blocks = several(20)
    done = dict(together(model, (asking(k, *blocks[k]) for k in range(20)), batch_size=batch_size, to_errors=keep))
    assert set(calls) == {batch_size}
    assert sum(counted) == rows_of(blocks)
    assert all(n == batch_size for n in counted[:-10]) and (batch_size == 1 or counted[-1] < batch_size)
    for k, sent in done.items():
        _, wanted = alone(fake()[0], asking(k, *blocks[k]))
        assert all(torch.equal(errors, other) for errors, other in zip(sent, wanted, strict=True))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_at_most_so_many_in_flight(in_flight):
    model, _ = fake()
    now, most = 0, 0

    def watched(k, blocks):
        nonlocal now, most
        now += 1
        most = max(most, now)
        yield from asking(k, *blocks)
        now -= 1

    tasks = (watched(k, blocks) for k, blocks in enumerate(several(30)))
    assert len(list(together(model, tasks, batch_size=64, in_flight=in_flight))) == 30
    assert now == 0 and most == in_flight


def test_one_in_flight_comes_in_order():
    tasks = (asking(k, *blocks) for k, blocks in enumerate(several(30)))
    assert [k for k, _ in together(fake()[0], tasks, batch_size=64, in_flight=1)] == list(range(30))


def test_the_oldest_come_first():
    """The next block of a task goes into the next call, before those that wait already: ten small ones take 20 calls,
    of which every other is on its way when an answer is read.
    """
    model, calls = fake()
    tasks = (asking(k, *[(2, 4)] * 10 if k == 0 else [(8, 8)]) for k in range(30))
    ends = [(k, len(calls)) for k, _ in together(model, tasks, batch_size=32)]
    assert dict(ends)[0] == 20


def test_no_more_are_started_than_fill_the_batch():
    """What is started holds memory: the latent, and the errors so far."""
    model, calls = fake()
    started = []

    def tasks():
        for k in range(20):
            started.append(len(calls))
            yield asking(k, (4, 8))

    list(together(model, tasks(), batch_size=32))
    assert started == list(range(20))  # each fills one call


def test_errors_are_read_while_the_next_call_runs():
    """The device has its next call before the host waits for the answer to the one before."""
    model, calls = fake()
    read = []

    def task():
        yield from asking(0, (4, 8))
        read.append(len(calls))

    list(together(model, (task() for _ in range(6)), batch_size=32))
    assert read == [2, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("tasks", [[], [[]], [[]] * 5, [[], [(3, 4)], []]], ids=str)
@pytest.mark.parametrize("in_flight", [1, None])
def test_tasks_that_never_ask(tasks, in_flight):
    model, calls = fake()
    made = [asking(k, *blocks) for k, blocks in enumerate(tasks)]
    done = [(k, len(sent)) for k, sent in together(model, made, batch_size=32, in_flight=in_flight)]
    assert sorted(done) == [(k, len(blocks)) for k, blocks in enumerate(tasks)]
    assert calls == [16] * any(tasks)


@pytest.mark.parametrize("place", ["first", "later", "network", "source"])
def test_errors_of_a_task_are_not_swallowed(place):
    """Neither a task's own, nor the network's, nor those of what makes the tasks."""
    model, calls = fake()

    def fails(here: str) -> None:
        if place == here:
            raise ZeroDivisionError(place)

    def denoise(z, i, c):
        calls.append(len(z))
        if len(calls) == 2:
            fails("network")
        return z

    def task(k: int):
        if k == 2:
            fails("first")
        yield from asking(k, (4, 5))
        if k == 2:
            fails("later")

    def tasks():
        for k in range(5):
            yield task(k)
        fails("source")

    model.denoise = denoise
    with pytest.raises(ZeroDivisionError, match=place):
        list(together(model, tasks(), batch_size=32))


@pytest.mark.parametrize("batch_size, in_flight", [(32, None), (23, 3)])
def test_a_call_has_rows_of_the_same_setting(batch_size, in_flight):
    """To which the model is switched first; calls are full while there are images."""
    settings = [(), ("a",), ("b:0.5",), ("a", "b:0.5"), ("a",), (), ("c",), (), ("b:0.5",), ("c",)]
    shift = {each: 10.0 * k for k, each in enumerate(dict.fromkeys(settings))}
    (model, calls), on, kept, before_the_end = fake(), [], [], []
    plainly = model.denoise

    def denoise(z, i, c):
        return plainly(z, i, c) + shift[on[-1]]

    model.denoise, model.switch = denoise, on.append

    def task(k: int):
        draw = torch.Generator().manual_seed(k)
        x, noise = torch.randn(SHAPE, generator=draw), torch.randn(8, *SHAPE, generator=draw)
        points = Points(np.arange(100, 900, 100), np.arange(8), None, np.ones(8))

        def start(_):
            return halving(10, [2, 8], [4, 1])

        conditions = Conditions({"c": torch.zeros(10)}, tuple(settings))
        question = Question(x, conditions, np.arange(10), start, noise)
        return k, (yield from search_image(question, points, loss="l2"))

    def tasks():
        yield from map(task, range(60))
        before_the_end.append(len(calls))

    for k, measured in together(model, tasks(), batch_size=batch_size, in_flight=in_flight):
        x, noise = (torch.randn(*shape, generator=g) for g in [torch.Generator().manual_seed(k)] for shape in [SHAPE, (8, *SHAPE)])  # fmt: skip  # noqa: E501
        for arm, errors in enumerate(measured.errors.split(measured.counts.tolist())):
            n = len(errors)
            z = PROCESS.noised(x.expand(n, *SHAPE), noise[:n], measured.levels[:n])
            torch.testing.assert_close(errors[:, 0], ((z + shift[settings[arm]] - noise[:n]) ** 2).mean((1, 2, 3)))
        kept.append(k)
    assert sorted(kept) == list(range(60)) and len(on) == len(calls) and {*on} == {*settings}
    assert in_flight or set(calls[: before_the_end[0]]) == {batch_size}


# ---- over the embedded model: real images, searches of both kinds side by side ----

IMAGES = (0, 1, 301, 3)
SPREAD = spread_sequence(24, 1000)
NESTED, ENDS = level_sequence([4, 12], 1000)


@pytest.fixture(scope="module")
def images():
    """The embedded model, its prompts, and the latent of each of IMAGES."""
    model = load_model("digits", dtype=torch.float32, device="cpu")
    conditions = model.conditions(read_prompts(ROOT / "prompts" / prompts_file("digits")).texts)
    data = load_dataset("digits")
    return model, conditions, {k: model.encode(centre_crop(data.open(k), 32)[None])[0] for k in IMAGES}


def one_image(images, k: int):
    """Every other image is raced; the others are halved."""
    _, conditions, latents = images
    raced = IMAGES.index(k) % 2
    levels = SPREAD if raced else NESTED

    def start(among):
        return race(SPREAD, np.ones(len(among), dtype=int), 3.0) if raced else halving(len(among), ENDS, [3, 1])

    points = Points(levels, noise_rows(levels, 1, True), None, np.ones(len(levels)))
    question = Question(latents[k], conditions, np.arange(10), start, ImageNoise(0, k, (4, 8, 8)))
    return k, (yield from search_image(question, points, loss="l2"))


@pytest.fixture(scope="module")
def by_themselves(images):
    found = dict(alone(images[0], one_image(images, k)) for k in IMAGES)
    halved = [found[k] for k in IMAGES[::2]]
    raced = [found[k] for k in IMAGES[1::2]]
    assert {measured.nfe for measured in halved} == {10 * 4 + 3 * 8}
    assert {len(measured.levels) for measured in raced} != {24}  # not all go to the end
    return found


def assert_same(done: dict, wanted: dict) -> None:
    assert done.keys() == wanted.keys()
    for k, measured in done.items():
        for name, value in vars(measured).items():
            other = getattr(wanted[k], name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, (k, name)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size, in_flight", [(1, 1), (17, 2), (64, None)])
def test_company_changes_no_bit(images, by_themselves, batch_size, in_flight):
    """Nor does the size of the batch; NFE are the rows that were evaluated."""
    keep, counted = counting()
    tasks = (one_image(images, k) for k in IMAGES)
    done = dict(together(images[0], tasks, batch_size=batch_size, in_flight=in_flight, to_errors=keep))
    assert_same(done, by_themselves)
    assert sum(counted) == sum(measured.nfe for measured in done.values())


def test_the_order_of_the_images_changes_no_bit(images, by_themselves):
    tasks = (one_image(images, k) for k in IMAGES[::-1])
    assert_same(dict(together(images[0], tasks, batch_size=32)), by_themselves)


def test_searches_of_both_kinds_fill_their_calls(images):
    """A race asks for a few rows at a time; together they make full calls, as long as there are images."""
    calls, full = [], []

    def denoise(z, time, conditions):
        calls.append(len(z))
        return images[0].denoise(z, time, conditions)

    def tasks():
        yield from (one_image(images, k) for k in IMAGES * 3)
        full.append(len(calls))

    assert len(list(together(replace(images[0], denoise=denoise), tasks(), batch_size=32))) == 12
    assert set(calls[: full[0]]) == {32} and full[0] > len(calls) / 2
    assert all(16 <= n <= 32 for n in calls)
