"""The figures of other fields: against scikit-learn and statistics by hand, on answers that are only numbers."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy.stats import binom

from diffusion.core.constants import LOSSES
from diffusion.runs import summary
from diffusion.stats import intervals, metrics


@pytest.fixture(scope="module")
def answers():
    """400 answers among five classes, of which the last is never answered and one answer is no label."""
    rng = np.random.default_rng(0)
    label = rng.choice([0, 2, 3, 7], 400, p=[0.5, 0.3, 0.15, 0.05])
    pred = np.where(rng.random(400) < 0.8, label, rng.choice([0, 2, 3, 9], 400))
    return np.where(pred == 7, 0, pred), label


def test_classes_as_scikit_learn_has_them(answers):
    pred, label = answers
    classes = np.unique([pred, label])
    wanted = sklearn.metrics.precision_recall_fscore_support(label, pred, labels=classes, zero_division=0)
    for k, class_id in enumerate(classes):
        found = intervals.of_class(pred, label, class_id)
        assert [m.value for m in found] == pytest.approx([column[k] for column in wanted[:3]])
        assert all(m.interval[0] <= m.value + 1e-12 and m.value <= m.interval[1] + 1e-12 for m in found)
        precision = sklearn.metrics.precision_score(label, pred, labels=[class_id], average=None, zero_division=0)[0]
        n = int((pred == class_id).sum())
        assert found[0].n == n and found[0].interval == pytest.approx(metrics.wilson(precision, n))
    macro = intervals.macro_f1(pred, label)
    assert macro.value == pytest.approx(sklearn.metrics.f1_score(label, pred, labels=np.unique(label), average="macro"))
    mean = intervals.accuracy(pred, label)[-1]
    assert mean.value == pytest.approx(sklearn.metrics.balanced_accuracy_score(label, pred))


@pytest.fixture
def few_draws(monkeypatch):
    """For tests of values: their intervals take most of the time."""
    monkeypatch.setattr(intervals, "DRAWS", 9)


def test_a_class_without_images_is_no_part_of_macro_f1():
    """Two classes of two images; one image of the first is taken for a class that has none: F1 2/3 and 1."""
    pred, label = np.array([0, 9, 1, 1]), np.array([0, 0, 1, 1])
    assert intervals.macro_f1(pred, label).value == pytest.approx((2 / 3 + 1) / 2)
    assert [m.n for m in intervals.of_class(pred, label, 9)] == [1, 0, 0]


def test_two_classes_by_hand(few_draws):
    """Five images: of six pairs of a positive and a negative, five are in order."""
    score, positive = np.array([3, 1, 2.0, 0, -1]), np.array([True, True, False, False, False])
    found = {m.key: m.value for m in intervals.two_class(score, positive)}
    assert found["auroc"] == pytest.approx(5 / 6)
    assert found["average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found["sensitivity_at_0.95"] == 0.5  # above 2, where no negative is
    with pytest.raises(ValueError, match="both classes"):
        intervals.two_class(score, np.ones(5, dtype=bool))


def test_sensitivity_is_the_best_threshold_of_all(few_draws):
    rng = np.random.default_rng(1)
    positive = rng.random(300) < 0.4
    score = rng.normal(size=300).round(1) + positive  # with ties
    found = {m.key: m for m in intervals.two_class(score, positive)}
    for s in intervals.SPECIFICITIES:
        best = max(
            (score[positive] >= t).mean()
            for t in [*np.unique(score), np.inf]
            if (score[~positive] < t).mean() >= s - 1e-12
        )
        assert found[f"sensitivity_at_{s:g}"].value == pytest.approx(best)


def test_bootstrap_covers():
    """Of 100 draws of two samples the 95% interval holds the true difference of their means in about 95."""
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        low, high = intervals.bootstrap((rng.random(50), 0.5 * rng.random(40)), lambda a, b: a.mean() - b.mean())
        held += low <= 0.25 <= high
    assert 89 <= held <= 99


def test_a_bootstrap_holds_its_estimate():
    """best - worst of groups is larger in most draws than in the sample: scipy's interval is 0.15 to 0.55 here."""
    hits = np.random.default_rng(17).random(160) < 0.5
    gap = intervals.groups(hits, np.repeat(list("abcdefgh"), 20))[-1]
    assert gap.value == pytest.approx(0.05) and gap.interval == (gap.value, pytest.approx(0.55))


def test_a_file_of_json_ends_with_a_line_break(tmp_path):
    summary.write_json({"a": "\u96ea"}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == '{\n "a": "\u96ea"\n}\n'


def test_where_all_draws_agree_the_interval_is_wilsons():
    label = np.repeat([0, 1], [30, 10])
    precision, recall, f1 = intervals.of_class(label, label, 1)
    assert f1.value == 1 and f1.interval == metrics.wilson(1, 10) == recall.interval == precision.interval


def test_groups_by_hand():
    hits = np.array([1, 1, 1, 0, 1, 0, 0, 0], dtype=bool)
    group = np.array(["a", "a", "a", "a", "b", "b", "b", "b"])
    a, b, worst, gap = intervals.groups(hits, group)
    assert (a.value, b.value, worst.value, gap.value) == (0.75, 0.25, 0.25, 0.5)
    assert worst.name == "worst, group b" and worst.interval == metrics.wilson(0.25, 4)
    assert gap.interval[0] <= 0.5 <= gap.interval[1]
    one = intervals.groups(hits, np.full(8, "x"))
    assert one[-1].value == 0 and one[1].value == 0.5


@pytest.mark.parametrize(
    "file, texture",
    [
        ("airplane/airplane1-bicycle2.png", "bicycle"),
        ("session-1/0001_x_dog10-bird2.png", "bird"),
        ("cat7.png", None),
        ("cat/cat7-elephant1-dog2.png", None),
        ("", None),
    ],
)
def test_texture_of(file, texture):
    assert intervals.texture_of(file) == texture


def test_shape_bias_by_hand():
    """Of six images one has no conflict; of the five, two are answered by shape, one by texture, two by neither."""
    files = ["cat1-dog1.png", "cat2-dog3.png", "dog1-car2.png", "car1-cat1.png", "car2-dog1.png", "cat3-cat9.png"]
    shape = ["cat", "cat", "dog", "car", "car", "cat"]
    answer = ["cat", "dog", "dog", "bird", "truck", "cat"]
    bias, by_shape, by_texture = intervals.shape_bias(answer, shape, files, ["cat", "dog", "car"])
    assert (bias.value, bias.n) == (pytest.approx(2 / 3), 3)
    assert (by_shape.value, by_texture.value, by_shape.n) == (0.4, 0.2, 5)
    with pytest.raises(ValueError, match="SHAPE1-TEXTURE1"):
        intervals.shape_bias(["cat"], ["cat"], ["cat1-val.png"], ["cat", "dog"])


# ---- votes and pairs ----


def record(counts, l2, **more) -> dict:
    columns = torch.tensor(l2, dtype=torch.float32)[:, None].repeat(1, 3)
    return {
        "losses": list(LOSSES),
        "counts": torch.tensor(counts),
        "errors": columns,
        "levels": torch.arange(max(counts)),
    } | more


def test_votes_by_hand():
    """Two classes at four points, a third at two; the last point was measured on one class alone."""
    r = record([5, 4, 2], [1, 5, 1, 5, 0, 2, 2, 2, 2, 3, 1])
    assert metrics.votes(r, np.arange(3), "l2").tolist() == [2, 1, 1]
    r["weights"] = torch.tensor([0.0, 1, 1, 1, 1])  # the first point counts nothing
    assert metrics.votes(r, np.arange(3), "l2").tolist() == [1, 1, 1]
    both = record([2, 2, 2], [1, 9, 3, 3, 4, 4])  # the first two arms are one class: means 2 and 6 against 4 and 4
    assert metrics.votes(both, np.array([0, 0, 1]), "l2").tolist() == [1, 1]


def test_paired_by_hand():
    """McNemar's exact p of 8 and 2 discordant pairs is twice a binomial's tail; more of the same is 1."""
    a = np.array([True] * 2 + [False] * 8 + [True] * 90)
    b = np.array([False] * 2 + [True] * 8 + [True] * 90)
    difference, (low, high), p = metrics.paired(a, b)
    assert difference == pytest.approx(0.06) and p == pytest.approx(2 * binom.cdf(2, 10, 0.5))
    x, y = 3 / 102, 9 / 102
    half = metrics.Z95 * np.sqrt((x + y - (y - x) ** 2) / 102)
    assert (low, high) == pytest.approx((y - x - half, y - x + half))
    assert metrics.paired(b, a)[0] == -difference and metrics.paired(b, a)[1] == pytest.approx((-high, -low))
    same, (low, high), p = metrics.paired(a, a)
    assert same == 0 and p == 1 and low == -high < 0


def test_paired_interval_covers():
    """Of 400 experiments whose true difference is 0.05, about 95% of the intervals hold it."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        kind = rng.choice(4, 200, p=[0.7, 0.15, 0.10, 0.05])  # both, only b, only a, neither
        low, high = metrics.paired(np.isin(kind, [0, 2]), np.isin(kind, [0, 1]))[1]
        held += low <= 0.05 <= high
    assert 0.92 <= held / 400 <= 0.985
