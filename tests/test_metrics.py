"""Intervals against scipy; everything else on examples worked by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from diffusion import InputError
from diffusion.core.constants import LOSSES
from diffusion.core.image import Question, search_image
from diffusion.core.schedule import Points
from diffusion.core.search import halving
from diffusion.stats import metrics

# 4 classes x 8 images: right are images 0, 1, 2, 4, 7
LABEL = np.array([0, 0, 0, 0, 1, 1, 2, 3])
PRED = np.array([0, 0, 0, 1, 1, 3, 0, 3])


@pytest.mark.parametrize("right, n", [(0, 1), (1, 1), (0, 497), (497, 497), (5, 8), (486, 497), (1, 50_000)])
def test_wilson_against_scipy(right, n):
    wanted = binomtest(right, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert metrics.wilson(right / n, n) == pytest.approx((wanted.low, wanted.high), rel=1e-12, abs=1e-15)


def test_no_interval_leaves_its_estimate_out():
    """All or none of n: one end is the estimate exactly, the other is z^2 / (n + z^2) away."""
    z = metrics.Z95
    for n in range(1, 3000):
        away = z**2 / (n + z**2)
        assert metrics.wilson(0.0, n) == (0, pytest.approx(away))
        assert metrics.wilson(1.0, n) == (pytest.approx(1 - away), 1)


def test_wilson_of_nothing():
    assert metrics.wilson(0.5, 0) == (0, 1)


def test_accuracy_by_hand():
    p, interval = metrics.accuracy(PRED, LABEL)
    assert p == 5 / 8 and interval == metrics.wilson(5 / 8, 8)


def test_per_class_by_hand():
    assert metrics.per_class(PRED, LABEL) == {0: (3, 4), 1: (1, 2), 2: (0, 1), 3: (1, 1)}


def test_mean_per_class_by_hand():
    """(3/4 + 1/2 + 0 + 1) / 4, as sure as 16 / (1/4 + 1/2 + 1 + 1) balanced images make it."""
    p, interval = metrics.mean_per_class(PRED, LABEL)
    assert p == 9 / 16 and interval == pytest.approx(metrics.wilson(9 / 16, 64 / 11))


def test_mean_per_class_of_balanced_classes_is_the_accuracy():
    label = np.repeat([4, 7, 9], 5)
    pred = np.where(np.arange(15) % 4 == 0, 7, label)
    p, interval = metrics.mean_per_class(pred, label)
    wanted, wanted_interval = metrics.accuracy(pred, label)
    assert p == pytest.approx(wanted) and interval == pytest.approx(wanted_interval)


def test_no_images():
    for metric in (metrics.accuracy, metrics.mean_per_class):
        p, interval = metric(np.array([], dtype=int), np.array([], dtype=int))
        assert math.isnan(p) and interval == (0, 1)


def test_confusion_by_hand():
    wanted = [[3, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert metrics.confusion(PRED, LABEL, [0, 1, 2, 3]).tolist() == wanted


def test_confusion_of_class_ids_with_gaps():
    table = metrics.confusion(np.array([30, 7]), np.array([7, 7]), [7, 30, 31])
    assert table.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


# ---- errors of a record ----


def record(counts, l2, l1) -> dict:
    """A record with those leading counts; l2 and l1 arm by arm, huber nowhere used."""
    errors = torch.from_numpy(np.array([l2, l1, [math.nan] * len(l2)], dtype=np.float32).T)
    return {"losses": list(LOSSES), "counts": torch.tensor(counts), "errors": errors}


def test_class_errors_one_prompt_per_class():
    """Class 1 is out after a point; by l2 class 0 wins with 1, by l1 class 2 with 2."""
    r = record([3, 1, 3], [0, 1, 2, 0.5, 3, 3, 3], [4, 5, 6, 0, 2, 2, 2])
    for loss, wanted in (("l2", [1, 0.5, 3]), ("l1", [5, 0, 2])):
        errors, points = metrics.class_errors(r, np.array([0, 1, 2]), loss)
        assert errors.tolist() == wanted and points.tolist() == [3, 1, 3]
    assert metrics.rescore(r, np.array([0, 1, 2]), "l2") == 0
    assert metrics.rescore(r, np.array([0, 1, 2]), "l1") == 2


def test_class_errors_two_prompts_per_class():
    """Arms of classes 0 1 0 1 2 2: the class's error is the mean over its arms, not their sum or their best."""
    r = record([2, 2, 2, 2, 1, 1], [1, 3, 4, 4, 5, 7, 2, 2, 0, 1], [1, 1, 0, 0, 1, 1, 3, 3, 9, 9])
    arm_class = np.array([0, 1, 0, 1, 2, 2])
    errors, points = metrics.class_errors(r, arm_class, "l2")
    assert errors.tolist() == [(2 + 6) / 2, (4 + 2) / 2, 0.5] and points.tolist() == [2, 2, 1]
    assert metrics.rescore(r, arm_class, "l2") == 1
    assert metrics.rescore(r, arm_class, "l1") == 0  # (1 + 1) / 2 against (0 + 3) / 2


def test_class_errors_of_classes_that_were_never_measured():
    """First, in the middle and last: error inf, no points, no part in the decision or the margin."""
    nothing, one = [0, 3, 0, 2, 3, 0], np.arange(6)
    r = record(nothing, [4, 5, 6, 1, 2, 3, 4, 2], [1, 1, 1, 9, 9, 7, 8, 9])
    errors, points = metrics.class_errors(r, one, "l2")
    assert errors.tolist() == [math.inf, 5, math.inf, 1.5, 3, math.inf] and points.tolist() == nothing
    assert metrics.rescore(r, one, "l2") == 4 and metrics.rescore(r, one, "l1") == 1
    assert metrics.margin(errors[points == 3]) == pytest.approx(5 / 3 - 1)
    two = np.array([0, 1, 0, 2, 1, 0])  # classes 0 (unmeasured), 1 (arms 1 and 4), 2
    errors, points = metrics.class_errors(r, two, "l2")
    assert errors.tolist() == [math.inf, 4, 1.5] and points.tolist() == [0, 3, 2]


@pytest.mark.parametrize("arm_class", [[0, 1, 2, 3], [0, 1, 0, 1]])
def test_class_errors_against_a_plain_loop(arm_class):
    rng = np.random.default_rng(0)
    counts = [5, 0, 5, 0] if len(set(arm_class)) == 2 else [5, 2, 0, 7]
    values = rng.random(sum(counts), dtype=np.float32)
    r = record(counts, values, values)
    errors, points = metrics.class_errors(r, np.array(arm_class), "l2")
    for k in range(max(arm_class) + 1):
        starts = np.cumsum(counts) - counts
        own = [float(v) for a, c in enumerate(arm_class) if c == k for v in values[starts[a] : starts[a] + counts[a]]]
        assert errors[k] == (pytest.approx(math.fsum(own) / len(own), rel=1e-12) if own else math.inf)
        assert points[k] * arm_class.count(k) == len(own)


def test_class_errors_of_unequally_many_prompts():
    """Three tickets do not help: class 0 holds the best single prompt, class 1 the better mean."""
    r = record([1, 1, 1, 1], [0, 4, 5, 2], [0, 4, 5, 3])
    errors, _ = metrics.class_errors(r, np.array([0, 0, 0, 1]), "l2")
    assert errors.tolist() == [3, 2] and metrics.rescore(r, np.array([0, 0, 0, 1]), "l2") == 1
    assert metrics.rescore(r, np.array([0, 0, 0, 1]), "l1") == 0  # a tie goes to the smaller class


def test_a_search_that_never_measures_a_class():
    """Class 0 of four is left out from the start; class 1 wins with 1 against 1.5 of class 3, after both went on."""
    sent = iter([[[1], [9], [2]], [[1], [1]]])  # [arms, new points]
    points = Points(np.arange(2), np.zeros(2, dtype=int), None, np.ones(2))

    def start(among):
        return halving(len(among), [1, 2], [2, 1])

    question = Question(None, None, np.arange(4), start, None, among=np.array([1, 2, 3]))
    task = search_image(question, points, loss="l1")
    arms, measured = [], None
    try:
        block = next(task)
        while True:
            arms.append(block.arms.tolist())
            block = task.send(torch.tensor(next(sent), dtype=torch.float32)[..., None].expand(-1, -1, len(LOSSES)))
    except StopIteration as stop:
        measured = stop.value
    assert arms == [[1, 2, 3], [1, 3]]
    assert measured.winner == 1 and measured.counts.tolist() == [0, 2, 1, 2] and measured.nfe == 5
    assert measured.margin == 0.5
    assert metrics.rescore(measured.record(), np.arange(4), "l1") == 1


def test_excess_by_hand():
    """Class 0 has arms 0 and 2, means 2 and 4 at its two points; class 1 wins; class 2 left after two points."""
    r = record([2, 3, 2, 2, 0], *2 * [[1, 3, 1, 2, 9, 3, 5, 4, 2.5]])
    found = metrics.excess(r, np.array([0, 1, 0, 2, 3]), 1, "l2")
    assert found.tolist() == [((2 - 1) + (4 - 2)) / 2, 0, ((4 - 1) + (2.5 - 2)) / 2, math.inf]


def test_excess_over_a_winner_of_several_prompts():
    """The winner's errors are 1, 3, 5, the means of its two arms; another class left after the first of them."""
    r = record([3, 1, 3], *2 * [[0, 2, 4, 1.75, 2, 4, 6]])
    assert metrics.excess(r, np.array([1, 0, 1]), 1, "l1").tolist() == [0.75, 0]


def test_rescore_of_an_unknown_loss():
    with pytest.raises(InputError, match="'l3'"):
        metrics.rescore(record([1], [0], [0]), np.array([0]), "l3")


# ---- Winoground: scores [caption, image], higher is better ----


def winoground(scores: np.ndarray) -> dict[str, np.ndarray]:
    """What is right in each of n examples, from scores [n, caption 2, image 2]; higher is better."""
    own = np.eye(2, dtype=bool)
    sides = [[[-e[:, [i]] for i in (0, 1)] for e in scores]]  # of each image its captions, each at one point
    text = [min(metrics.text_margin(list(of_image), own[i]) for i, of_image in enumerate(e)) > 0 for e in sides[0]]
    image = [metrics.image_margin(-e, own) > 0 for e in scores]
    text, image = np.array(text, dtype=bool), np.array(image, dtype=bool)
    return {"text": text, "image": image, "group": text & image}


WINOGROUND = {  # 2 x 2 scores -> text, image; what is said is what goes wrong
    "all right": ([[2, 1], [1, 2]], True, True),
    "caption 0 prefers image 1": ([[2, 3], [1, 4]], True, False),
    "caption 1 prefers image 0": ([[4, 1], [3, 2]], True, False),
    "image 0 prefers caption 1": ([[2, 1], [3, 4]], False, True),
    "image 1 prefers caption 0": ([[4, 3], [1, 2]], False, True),
    "all wrong": ([[1, 2], [2, 1]], False, False),
    "image 0 is undecided": ([[2, 1], [2, 3]], False, True),
    "image 1 is undecided": ([[3, 2], [1, 2]], False, True),
    "caption 0 is undecided": ([[2, 2], [1, 3]], True, False),
    "caption 1 is undecided": ([[3, 1], [2, 2]], True, False),
    "all undecided": ([[1, 1], [1, 1]], False, False),
}


@pytest.mark.parametrize("scores, text, image", WINOGROUND.values(), ids=WINOGROUND)
def test_winoground_of_one_example_by_hand(scores, text, image):
    right = winoground(np.array([scores], dtype=float))
    assert {name: value.tolist() for name, value in right.items()} == {
        "text": [text], "image": [image], "group": [text and image],
    }  # fmt: skip


def test_winoground_of_random_scores_is_chance():
    """1/4, 1/4, and 1/6: of the 4! orders, the own two are above the other two in 2! 2!."""
    right = winoground(np.random.default_rng(0).standard_normal((20_000, 2, 2)))
    assert [right[name].mean() for name in ("text", "image", "group")] == pytest.approx(
        [1 / 4, 1 / 4, 1 / 6], abs=0.015
    )


# ---- other shapes ----

ORDER = {  # errors [captions] of one image, which are right -> margin
    "the right one is best": ([1, 2, 3], [0], 1),
    "it is second": ([2, 1, 3], [0], -1),
    "a tie": ([1, 1, 3], [0], 0),
    "two are right, both are best": ([1, 2, 4], [0, 1], 2),
    "two are right, one is not": ([1, 5, 4], [0, 1], -1),
    "all are right": ([1, 2, 3], [0, 1, 2], np.nan),
    "none is": ([1, 2, 3], [], np.nan),
}


@pytest.mark.parametrize("errors, right, margin", ORDER.values(), ids=ORDER)
def test_text_margins_by_hand(errors, right, margin):
    found = metrics.text_margin([np.array([e - 0.5, e + 0.5]) for e in errors], np.isin(range(3), right))
    assert found == margin or (np.isnan(found) and np.isnan(margin))


def test_a_race_drops_what_has_lost():
    """Captions are compared at the points of the right one; what was dropped before it has lost."""
    right = np.array([True, False, False])
    long, other, short = np.array([1.0, 1, 4, 4]), np.array([2.0, 2, 2, 3]), np.array([0.0, 3])
    assert metrics.text_margin([long, short, short], right) == np.inf
    assert metrics.text_margin([long, other, short], right) == pytest.approx(2.25 - 2.5)
    assert metrics.text_margin([long[:2], other, short], right) == pytest.approx(0.5)  # short is at 1.5, other at 2
    assert metrics.text_margin([np.array([3.0, 3]), other, np.array([9.0])], right) == pytest.approx(-1)


IMAGES = {  # errors [captions, images], right -> margin
    "the own image is best": ([[1, 2, 3]], [[1, 0, 0]], 1),
    "it is not": ([[2, 1, 3]], [[1, 0, 0]], -1),
    "a tie": ([[1, 1, 3]], [[1, 0, 0]], 0),
    "right for two images: not asked": ([[1, 2, 3]], [[1, 1, 0]], np.nan),
    "only the caption that is right for one": ([[9, 2, 3], [4, 1, 3]], [[1, 1, 0], [0, 1, 0]], 2),
    "one image: not asked": ([[1], [2]], [[1], [0]], np.nan),
}


@pytest.mark.parametrize("errors, right, margin", IMAGES.values(), ids=IMAGES)
def test_image_margins_by_hand(errors, right, margin):
    found = metrics.image_margin(np.array(errors, dtype=float), np.array(right, dtype=bool))
    assert found == margin or (np.isnan(found) and np.isnan(margin))


# ---- intervals by cluster ----


def test_clusters_are_what_hangs_together():
    keys = [["a"], ["b"], ["a", "c"], ["d"], ["c"], [], ["b"]]
    found = metrics.clusters(keys).tolist()
    same = [[found[i] == found[j] for j in range(7)] for i in range(7)]
    assert [sum(row) for row in same] == [3, 2, 3, 1, 3, 1, 2] and same[0][4] and same[1][6]
    assert metrics.clusters([]).tolist() == []


def test_without_clusters_it_is_wilsons():
    hits = np.random.default_rng(0).random(50) < 0.7
    assert metrics.share_of_clusters(hits, np.arange(50)) == metrics.share(hits)
    assert metrics.share_of_clusters(hits[:0], np.arange(0))[1] == (0, 1)


def test_items_of_a_cluster_count_as_one_where_all_are_right():
    p, interval = metrics.share_of_clusters(np.ones(40, bool), np.repeat(np.arange(10), 4))
    assert p == 1 and interval == pytest.approx(metrics.wilson(1, 10))
    assert metrics.share_of_clusters(np.ones(8, bool), np.zeros(8, int))[1] == pytest.approx(metrics.wilson(1, 1))


@pytest.mark.parametrize("C, m, rho, p", [(100, 4, 0.5, 0.7), (20, 4, 0.5, 0.8), (20, 5, 0.9, 0.5), (100, 4, 0, 0.9)])
def test_intervals_by_cluster_hold_what_they_promise(C, m, rho, p):
    """Clusters whose own shares are Beta distributed: 95% of intervals hold p, where Wilson's of all items do not."""
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(C), m)
    inside = np.zeros(2)
    for _ in range(1000):
        own = rng.beta(p * (1 / rho - 1), (1 - p) * (1 / rho - 1), C) if rho else np.full(C, p)
        hits = rng.random(C * m) < own[cluster]
        both = metrics.share_of_clusters(hits, cluster)[1], metrics.share(hits)[1]
        inside += [low <= p <= high for low, high in both]
    assert 0.935 < inside[0] / 1000 < 0.985
    assert inside[1] / 1000 < 0.85 or not rho


def test_votes_equal_those_of_a_loop_over_classes():
    """Random records of classes with several prompts, in any order of prompts, some with weights, many with ties."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        K = int(rng.integers(1, 7))
        arm_class = rng.permutation(np.repeat(np.arange(K), rng.integers(1, 4, K)))
        points = rng.integers(0, 6, K)
        points[rng.integers(K)] = 6
        counts = points[arm_class]
        record = {
            "losses": ["l2"],
            "levels": torch.arange(6),
            "counts": torch.from_numpy(counts),
            "errors": torch.from_numpy(rng.integers(0, 4, (counts.sum(), 1)).astype(np.float32)),
            "weights": torch.from_numpy(rng.integers(0, 2, 6).astype(float)),
        }
        arms = metrics.arm_errors(record, "l2")
        wanted = np.zeros(K, dtype=int)
        for point in range(6):
            mean = np.full(K, np.inf)
            for k in range(K):
                if point < points[k]:
                    mean[k] = np.mean([arms[arm][point] for arm in np.flatnonzero(arm_class == k)])
            if np.isfinite(mean).sum() > 1 and record["weights"][point] > 0:
                wanted[mean.argmin()] += 1
        assert np.array_equal(metrics.votes(record, arm_class, "l2"), wanted)


# ---- how pairs correlate ----


def test_pair_squares_by_hand():
    """Pairs (1, 3), (5, 5) and (2, 0), at levels 10, 30 and 20: sums 4, 2, 10 in their order; within -2, 0, 2."""
    levels = np.array([10, 11, 30, 31, 20, 21, 40])
    found = metrics.pair_squares(np.array([1.0, 3, 5, 5, 2, 0, 99]), levels)
    assert found == (((2 - 4) ** 2 + (10 - 2) ** 2) / 2, (4 + 0 + 4) * 2 / 3)
    assert metrics.pair_squares(np.array([1.0, 3, 5]), levels[:3]) == (0, 0)


@pytest.mark.parametrize("rho", [-0.9, 0.4])
def test_pair_correlation_is_that_of_the_noise(rho):
    """Whatever the scale of an image, its mean difference, a trend over its levels, and how many pairs it has."""
    rng = np.random.default_rng(5)
    held = []
    for _ in range(40):
        squares = []
        for m in rng.integers(1, 9, 300):
            noise = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], m) * rng.uniform(0.5, 2)
            levels = np.repeat(rng.permutation(m), 2)
            squares.append(metrics.pair_squares(noise.ravel() + 3 + 0.05 * levels, levels))
        found, (low, high) = metrics.pair_correlation(*np.array(squares).T)
        assert found == pytest.approx(rho, abs=0.15) and low < found < high
        held.append(low <= rho <= high)
    assert np.mean(held) > 0.85


def test_pair_correlation_by_hand():
    """R = (2 + 4) / (6 + 2) = 3 / 4, rho = -1 / 7; an image of one pair says nothing."""
    rho, (low, high) = metrics.pair_correlation(np.array([2.0, 0, 4]), np.array([6.0, 0, 2]))
    assert rho == pytest.approx(-1 / 7)
    half = metrics.Z95 * np.sqrt(2 * ((2 - 4.5) ** 2 + (4 - 1.5) ** 2)) / 6
    assert (low, high) == pytest.approx([(r - 1) / (r + 1) for r in 0.75 * np.exp([-half, half])])
    assert np.isnan(metrics.pair_correlation(np.zeros(3), np.zeros(3))[0])
    assert np.isnan(metrics.pair_correlation(np.ones(1), np.ones(1))[0])
