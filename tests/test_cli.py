"""What the scripts share: noise by the draw, images read ahead, the loop that measures and saves."""

import itertools
import threading
from functools import partial

import numpy as np
import pytest
import torch

from diffusion.core.noise import ImageNoise
from diffusion.evaluate.loop import ahead, evaluate
from diffusion.evaluate.progress import Progress
from diffusion.runs.records import failed, load_record, record_path

LATENT = (4, 8, 8)


# ---- noise, a draw at a time ----


def test_a_draw_is_standard_normal():
    noise = ImageNoise(0, 0, LATENT)[range(400)]
    assert noise.shape == (400, *LATENT) and noise.dtype == torch.float32
    n = noise.numel()
    assert abs(noise.mean()) < 4 / n**0.5 and abs(noise.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((noise**4).mean() - 3) < 4 * (96 / n) ** 0.5  # the variance of the fourth power is 96
    flat = noise.flatten(1)
    assert abs((flat[1:] * flat[:-1]).mean()) < 4 / n**0.5 and abs((flat[:, 1:] * flat[:, :-1]).mean()) < 4 / n**0.5


def test_a_draw_depends_on_seed_index_and_row_alone():
    """Not on what else is asked for, nor on the order, nor on what was asked before."""
    noise = ImageNoise(3, 7, LATENT)
    whole = noise[range(20)]
    for rows in ([0], [19], [5, 0, 5], range(19, -1, -1), torch.tensor([2, 11]), np.array([4])):
        assert torch.equal(noise[rows], whole[torch.as_tensor(list(rows))])
        assert torch.equal(ImageNoise(3, 7, LATENT)[rows], noise[rows])
    bank = whole.clone()
    rows = torch.tensor([3, 1, 4, 1, 5])
    assert torch.equal(noise[rows], bank[rows])  # as the kernel indexes either


def test_no_two_draws_are_the_same():
    """Whichever of the three numbers is another, in whichever place the same number stands."""
    drawn = {
        (seed, index, row): tuple(ImageNoise(seed, index, LATENT)[[row]].flatten().tolist())
        for seed, index, row in itertools.product((0, 1, 2, 10), repeat=3)
    }
    assert len(set(drawn.values())) == len(drawn) == 64


def test_draws_do_not_disturb_the_global_generators():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    ImageNoise(0, 0, LATENT)[range(3)]
    assert torch.equal(torch.rand(3), wanted)


# ---- images ahead ----


def test_ahead_keeps_the_order():
    """Whichever is read first."""
    last_is_read = threading.Event()

    def load(k):
        if k == 3:
            last_is_read.set()
        elif k == 0:
            assert last_is_read.wait(20)
        return 10 * k

    assert list(ahead([0, 1, 2, 3, 9, 4], load, None)) == [(k, 10 * k) for k in (0, 1, 2, 3, 9, 4)]
    assert list(ahead([], load, None)) == []


@pytest.mark.parametrize("most", [1, 5, 16])
def test_ahead_reads_so_many_and_no_more(most):
    """Of what is not asked for yet; with 16, all of the next 16 are read while the consumer does something else."""
    started, lock, enough = [], threading.Semaphore(0), []

    def load(k):
        started.append(k)
        lock.release()
        return k

    for done, (k, _) in enumerate(ahead(range(60), load, None, most), 1):
        while len(started) < min(60, done - 1 + most):  # they come without being asked for
            assert lock.acquire(timeout=20)
        enough.append(len(started) - done)
        assert k == done - 1
    assert max(enough) == most - 1 and sorted(started) == list(range(60))


def test_ahead_leaves_out_what_cannot_be_read():
    """And says so, in its turn; what is no OSError is a bug, and is raised when the image's turn comes."""

    def load(k):
        if k in (2, 5):
            raise OSError(f"cannot read {k}.png")
        if k == 8:
            raise ZeroDivisionError
        return k

    problems = []
    images = ahead(range(10), load, lambda *problem: problems.append(problem), 4)
    assert [k for k, _ in itertools.islice(images, 6)] == [0, 1, 3, 4, 6, 7]
    assert problems == [(2, "cannot read 2.png"), (5, "cannot read 5.png")]
    with pytest.raises(ZeroDivisionError):
        next(images)


def test_ahead_stops_reading_when_it_is_closed():
    """What its four threads are at is finished, what waits for them is not begun."""
    started, gate = [], threading.Event()

    def load(k):
        started.append(k)
        assert k == 0 or gate.wait(20)

    images = ahead(range(1000), load, None, 16)
    assert next(images) == (0, None)
    threading.Timer(0.2, gate.set).start()
    images.close()
    assert gate.is_set() and set(started) <= {0, 1, 2, 3, 4}


# ---- the loop ----


def errors(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None].expand(-1, 3)


@pytest.fixture
def measured(tmp_path):
    """`measured(table, dtype) -> records, problems, turns`: evaluate() on a table dtype -> index -> a record's part.

    An image that stands nowhere cannot be read; turns lists (dtype, indices) as they were asked for.
    """

    def run(table, dtype, *, earlier=()):
        turns = []

        def load(index):
            if not any(index in each for each in table.values()):
                raise OSError("gone")
            return f"image {index}"

        def classify(images, dtype, spent):
            images = list(images)
            assert all(image == f"image {index}" for index, image in images)
            turns.append((dtype, [index for index, _ in images]))
            for index, _ in reversed(images):  # in any order
                record = {"index": index, "label": 1, "pred": index % 2, **table[dtype][index]}
                spent(record["nfe"])
                yield record

        indices = range(max(max(each, default=0) for each in table.values()) + 1)
        path_of, bar = partial(record_path, tmp_path, 100), Progress(len(indices), 20 * len(indices), False, earlier)
        rows, problems = evaluate(list(indices), load, classify, path_of, bar, dtype=dtype, grace=20)
        found = {int(path.stem): load_record(path) for path in sorted(tmp_path.glob("*.pt"))}
        assert sorted(row["index"] for row in rows) == sorted(found)
        assert all({"index", "pred", "label", "nfe"} <= row.keys() for row in rows)
        assert all(row.items() <= {k: v for k, v in found[row["index"]].items() if k in row}.items() for row in rows)
        notes = {f"image {index}: {path.read_text().strip()}" for index, path in failed(tmp_path).items()}
        assert notes == set(problems)
        return found, problems, turns

    return run


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_not_finite_in_a_reduced_dtype_is_measured_in_float32(measured, dtype):
    """And nothing else is, however close the best two are."""
    good = errors(1.0, 2.0)
    first = {
        0: {"nfe": 10, "margin": 1e-3, "errors": good},
        1: {"nfe": 11, "margin": 1.0, "errors": errors(1.0, np.nan)},
        2: {"nfe": 12, "margin": 0.0, "errors": good},
        3: {"nfe": 13, "margin": np.nan, "errors": errors(np.inf, np.inf)},
        5: {"nfe": 15, "margin": 1e-9, "errors": good},
        6: {"nfe": 16, "errors": good},  # CLIP has no margin
        7: {"nfe": 17, "margin": np.inf, "errors": good},
    }
    again = {k: {"nfe": 100 + k, "margin": 0.0, "errors": errors(3.0, 4.0)} for k in (1,)}
    again[3] = {"nfe": 103, "margin": np.nan, "errors": errors(1.0, np.nan)}
    found, problems, turns = measured({dtype: first, "float32": again}, dtype)
    assert turns[0] == (dtype, [0, 1, 2, 3, 5, 6, 7])
    (name, second), *none = turns[1:]
    assert name == "float32" and sorted(second) == [1, 3] and not none
    assert {k: record["nfe"] for k, record in found.items()} == {0: 10, 1: 112, 2: 12, 5: 15, 6: 16, 7: 17}
    for k, record in found.items():
        assert torch.equal(record["errors"], again[k]["errors"] if k in again else good)
        assert record["pred"] == k % 2
    assert problems == [
        "image 4: gone", "image 3: the network's predictions are not all finite, in float32 too"
    ]  # fmt: skip


def test_in_float32_nothing_is_measured_twice(measured):
    """A tie stays one; what is not finite is left out."""
    table = {
        0: {"nfe": 10, "margin": 0.0, "errors": errors(1.0, 1.0)},
        1: {"nfe": 11, "margin": np.nan, "errors": errors(1.0, np.nan)},
        2: {"nfe": 12, "margin": 1e-9, "errors": errors(1.0, 2.0)},
    }
    found, problems, turns = measured({"float32": table}, "float32")
    assert turns == [("float32", [0, 1, 2])]
    assert {k: record["nfe"] for k, record in found.items()} == {0: 10, 2: 12}
    assert problems == ["image 1: the network's predictions are not all finite, in float32 too"]


def test_the_bar_counts_what_was_done_before(measured, capsys):
    """Of two images before, one is right; of the two now, image 1 is: 50% at the end, and 25 NFE an image."""
    table = {k: {"nfe": 20, "margin": 1.0, "errors": errors(1.0)} for k in (0, 1)}
    earlier = [{"pred": 1, "label": 1, "nfe": 20}, {"pred": 0, "label": 1, "nfe": 40}]
    measured({"float32": table}, "float32", earlier=earlier)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "50.0% right, 25 NFE each" in last and "2/2" in last


def test_the_bar_moves_with_calls_and_fits_80_columns(capsys):
    """The paper's ImageNet, one call after another."""
    with Progress(50_000, 50_000 * 124_500, True) as bar:
        bar.bar.dynamic_ncols, bar.bar.ncols = None, 80
        bar.bar.start_t -= 1200  # 100 NFE/s
        bar.call(60_000)
        bar.call(60_000)
        assert bar.bar.n == 120_000
        bar.bar.refresh()
        for k in range(3):
            bar.image({"label": 1, "pred": k % 2, "nfe": 124_500})
        bar.bar.refresh()
    lines = capsys.readouterr().err.splitlines()
    assert any("0/50000" in line and "left" in line and "NFE/s" in line for line in lines)
    assert all(len(line) <= 80 for line in lines[1:])
    assert any("% right, 124,500 NFE each" in line and line.endswith("NFE/s") for line in lines)


def test_what_is_left_of_a_race_costs_as_much_an_image_as_was_spent(capsys):
    with Progress(4, 4000, False) as bar:
        assert bar.bar.total == 4000
        bar.call(150)
        bar.image({"label": -1, "nfe": 100})  # 50 went into others: the other three cost 150 more each
        assert (bar.bar.n, bar.bar.total) == (150, 600)
        bar.call(250)  # and now 400 more each
        assert (bar.bar.n, bar.bar.total) == (400, 1600)
        bar.left_out()
        bar.call(1000)
        assert bar.bar.total == 4000  # at most


def test_a_race_never_is_at_an_end_before_its_last_image(capsys):
    """23 images, 20 side by side, of 1 to 20 calls each: up, below 100% to the last, and no time before the first."""
    costs = [*range(1, 21), 5, 10, 20]
    with Progress(23, 23 * 1000 * 16, False) as bar:
        bar.bar.mininterval = bar.bar.miniters = 0
        waiting, in_hand, seen = iter(costs), [], []
        for _ in range(20):
            in_hand.append([next(waiting)] * 2)
        assert "left" not in bar.bar.bar_format and "<" not in bar.bar.bar_format
        while in_hand:
            for image in list(in_hand):
                bar.call(16)
                image[1] -= 1
                if not image[1]:
                    bar.image({"label": -1, "nfe": 16 * image[0]})
                    in_hand.remove(image)
                    in_hand += [[cost] * 2 for cost in itertools.islice(waiting, 1)]
                seen.append(int(bar.bar.bar_format.split("%")[0]))
        assert "left" in bar.bar.bar_format
    assert seen[-1] == 100 and max(seen[:-1]) < 100
    assert seen == sorted(seen)
    assert capsys.readouterr().err.splitlines()[-1].startswith("100%") and "<" not in bar.bar.bar_format


@pytest.mark.parametrize("exact", [True, False])
def test_a_bar_that_ends_at_nothing(capsys, exact):
    with Progress(46, 46_000, exact):
        pass
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("  0%|") and last.endswith("| 0/46, in 00:00, 0 NFE/s")


def test_nothing_to_do_loads_nothing(tmp_path):
    def never(*_):
        raise AssertionError

    assert evaluate([], never, never, never, Progress(0, 0, True), dtype="bfloat16", grace=20) == ([], [])
