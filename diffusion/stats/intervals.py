"""The figures of a run, each with its 95% interval: accuracy, and those that other fields report. Pure functions."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import numpy as np

from diffusion.stats import metrics

DRAWS = 999  # of a bootstrap
SPECIFICITIES = 0.9, 0.95  # at which sensitivity is measured


@dataclass(frozen=True)
class Measure:
    """A share or a score between 0 and 1, and its 95% interval."""

    key: str  # CLIP_benchmark's name, if it has this measure
    name: str
    value: float
    interval: tuple[float, float]
    n: int  # number of images that it is measured on
    how: str = "Wilson"  # method of the interval

    @classmethod
    def share(cls, key: str, name: str, hits: np.ndarray) -> "Measure":
        """The share of hits [n] bool that are true."""
        return cls(key, name, *metrics.share(hits), len(hits))


def bootstrap(samples: tuple[np.ndarray, ...], statistic: Callable, n: int | None = None) -> tuple[float, float]:
    """The 95% percentile interval of a statistic, 0 to 1, of samples [n_k] that are each resampled independently.

    If no two draws differ, as when all answers are right, the bootstrap's interval would be empty: then it is Wilson's
    of `n` images, by default the size of the smallest sample.
    """
    from scipy.stats import bootstrap

    least = min(map(len, samples))
    if least > 1:
        found = bootstrap(samples, statistic, n_resamples=DRAWS, method="percentile", vectorized=False, rng=0)
        low, high = map(float, found.confidence_interval)
        if low < high:
            value = float(statistic(*samples))
            return min(low, value), max(high, value)  # beside the draws of a biased statistic, as best - worst
    return metrics.wilson(float(statistic(*samples)), least if n is None else n)


def accuracy(pred: np.ndarray, label: np.ndarray, top: int | None = None, ranks: Iterable[int] = ()) -> list[Measure]:
    """Accuracy and mean per class of pred and label [n]; with `top`, the share of labels whose rank [n] is below it."""
    found = [Measure.share("acc1", "top-1 accuracy", pred == label)]
    if top is not None:
        found.append(Measure.share(f"acc{top}", f"top-{top} accuracy", np.array(list(ranks), dtype=int) < top))
    mean = metrics.mean_per_class(pred, label)
    return [*found, Measure("mean_per_class_recall", "mean per class", *mean, len(label))]


def of_class(pred: np.ndarray, label: np.ndarray, class_id: int) -> tuple[Measure, Measure, Measure]:
    """Precision, recall and F1 of a class, of pred and label [n]; 0 / 0 is 0, as in scikit-learn."""
    answered = pred == class_id
    true = label == class_id

    def share(key: str, hits: np.ndarray) -> Measure:
        value, interval = metrics.share(hits) if len(hits) else (0.0, (0.0, 1.0))
        return Measure(key, key, value, interval, len(hits))

    def f1(rows: np.ndarray) -> float:
        return 2 * np.sum(answered[rows] & true[rows]) / max(np.sum(answered[rows]) + np.sum(true[rows]), 1)

    rows = np.arange(len(pred))
    interval = bootstrap((rows,), f1, int(np.sum(answered | true)))
    return (
        share("precision", true[answered]),
        share("recall", answered[true]),
        Measure("f1", "F1", float(f1(rows)), interval, int(true.sum()), "bootstrap"),
    )


def macro_f1(pred: np.ndarray, label: np.ndarray) -> Measure:
    """The mean F1 of the classes that have images; pred and label [n]. metrics.mean_per_class is that of recall."""
    classes, true = np.unique(label, return_inverse=True)
    K = len(classes)
    answered = np.where(np.isin(pred, classes), np.searchsorted(classes, pred), K)  # K: a class without images

    def count(rows: np.ndarray) -> np.ndarray:
        return np.bincount(rows, minlength=K + 1)[:K]

    def f1(rows: np.ndarray) -> float:
        t, a = true[rows], answered[rows]
        right = count(t[t == a])
        return float(np.mean(2 * right / (count(t) + count(a)).clip(1)))

    rows = np.arange(len(pred))
    return Measure("macro_f1", "macro F1", f1(rows), bootstrap((rows,), f1), len(label), "bootstrap")


def two_class(score: np.ndarray, positive: np.ndarray) -> list[Measure]:
    """AUROC, average precision, and sensitivity at some specificities, of finite scores [n]; positive [n] bool.

    Sensitivity is the largest at any threshold of at least that specificity on these images. For the intervals,
    positive and negative images are resampled independently. ValueError unless there are both.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if positive.all() or not positive.any():
        raise ValueError("images of both classes are needed")

    def ranked(measure: Callable, yes: np.ndarray, no: np.ndarray) -> float:
        return float(measure(np.repeat([True, False], [len(yes), len(no)]), np.concatenate([yes, no])))

    def sensitivity(specificity: float, yes: np.ndarray, no: np.ndarray) -> float:
        above = int((1 - specificity) * len(no) + 1e-9)  # so many negatives may lie above the threshold
        return float(np.mean(yes > np.sort(no)[::-1][above]))

    measures: dict[tuple[str, str], Callable] = {
        ("auroc", "AUROC"): partial(ranked, roc_auc_score),
        ("average_precision", "average precision"): partial(ranked, average_precision_score),
    }
    for s in SPECIFICITIES:
        measures[f"sensitivity_at_{s:g}", f"sensitivity at {100 * s:g}% specificity"] = partial(sensitivity, s)
    sides = score[positive], score[~positive]
    return [
        Measure(key, name, measure(*sides), bootstrap(sides, measure), len(score), "bootstrap")
        for (key, name), measure in measures.items()
    ]


def groups(hits: np.ndarray, group: np.ndarray) -> list[Measure]:
    """Accuracy of each group of images, of the worst one, and best - worst; hits [n] bool, group [n]."""
    each, sides = [], []
    for name in np.unique(group).tolist():
        of_group = hits[group == name]
        each.append(Measure.share(f"acc1_{name}", f"group {name}", of_group))
        sides.append(of_group.astype(float))
    worst, best = min(each, key=attrgetter("value")), max(each, key=attrgetter("value"))
    called = f"worst, {worst.name}"

    def gap(*sides: np.ndarray) -> float:
        shares = list(map(np.mean, sides))
        return float(max(shares) - min(shares))

    interval = bootstrap(tuple(sides), gap) if len(sides) > 1 else (0.0, 0.0)
    return [
        *each,
        Measure("worst_group", called, worst.value, worst.interval, worst.n),
        Measure("group_gap", "best - worst", best.value - worst.value, interval, len(hits), "bootstrap"),
    ]


def texture_of(file: str) -> str | None:
    """The class whose texture a cue-conflict image has, from its name: .../cat7-elephant1.png -> elephant."""
    found = re.fullmatch(r"(?:.*[/_])?[^/_-]+-([a-z]+)\d*\.\w+", file)
    return found and found[1]


def shape_bias(answer: list[str], shape: list[str], files: list[str], classes: Iterable[str]) -> list[Measure]:
    """How often the answer is the class of an image's shape, or that of its texture; all are class names.

    Only images count whose shape and texture are different classes. Shape bias is the share of shape among the answers
    that are one of the two (arXiv 1811.12231). ValueError if no file's name has a texture.
    """
    names = set(classes)
    hits = []  # (by shape, by texture) of each image that counts
    for a, s, file in zip(answer, shape, files, strict=True):
        t = texture_of(file)
        if t in names and t != s:
            hits.append((a == s, a == t))
    if not hits:
        raise ValueError("no file is named as SHAPE1-TEXTURE1.png with two classes")
    by_shape, by_texture = np.array(hits).T
    return [
        Measure.share("shape_bias", "shape bias", by_shape[by_shape | by_texture]),
        Measure.share("shape", "answers by shape", by_shape),
        Measure.share("texture", "answers by texture", by_texture),
    ]


def votes(share: np.ndarray, hits: np.ndarray) -> list[Measure]:
    """The mean share of points that prefer the answer, over right and over wrong answers; share and hits [n]."""
    found = []
    for name, chosen in {"right": share[hits], "wrong": share[~hits]}.items():
        if len(chosen):
            mean, interval = float(chosen.mean()), bootstrap((chosen,), np.mean)
            found.append(Measure(f"votes_{name}", f"votes if {name}", mean, interval, len(chosen), "bootstrap"))
    return found
