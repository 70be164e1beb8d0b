"""The figures of a run, each with its 95% interval: accuracy, and those that other fields report. Pure functions."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from diffusion.stats import metrics

DRAWS = 999  # of a bootstrap
SPECIFICITIES = 0.9, 0.95  # at which sensitivity is given


@dataclass(frozen=True)
class Measure:
    """A share or a score between 0 and 1, and its 95% interval."""

    key: str  # where CLIP_benchmark has it, its name there
    name: str
    value: float
    interval: tuple[float, float]
    n: int  # images it is measured on
    how: str = "Wilson"  # the interval

    @classmethod
    def share(cls, key: str, name: str, hits: np.ndarray) -> "Measure":
        """Of hits [n] bool."""
        return cls(key, name, *metrics.share(hits), len(hits))


def bootstrap(samples: tuple[np.ndarray, ...], statistic: Callable, n: int | None = None) -> tuple[float, float]:
    """The 95% percentile interval of a statistic, 0 to 1, of some samples [n_k], each drawn anew by itself.

    Where no two draws differ, as when all answers are right, that would say nothing: then Wilson's of `n` images, by
    default those of the smallest sample.
    """
    from scipy.stats import bootstrap

    least = min(len(sample) for sample in samples)
    if least > 1:
        found = bootstrap(samples, statistic, n_resamples=DRAWS, method="percentile", vectorized=False, rng=0)
        low, high = map(float, found.confidence_interval)
        if low < high:
            return low, high
    return metrics.wilson(float(statistic(*samples)), least if n is None else n)


def accuracy(pred: np.ndarray, label: np.ndarray, top: int | None = None, ranks: Iterable[int] = ()) -> list[Measure]:
    """Of pred and label [n]; with `top`, how often the label is among so many best, by its rank [n]."""
    found = [Measure.share("acc1", "top-1 accuracy", pred == label)]
    if top is not None:
        found.append(Measure.share(f"acc{top}", f"top-{top} accuracy", np.array(list(ranks), dtype=int) < top))
    mean = metrics.mean_per_class(pred, label)
    return [*found, Measure("mean_per_class_recall", "mean per class", *mean, len(label))]


def of_class(pred: np.ndarray, label: np.ndarray, class_id: int) -> tuple[Measure, Measure, Measure]:
    """Precision, recall and F1 of a class, of pred and label [n]. Nothing of 0 / 0 is right: 0, as in scikit-learn."""
    answered, true = pred == class_id, label == class_id
    share = {"precision": true[answered], "recall": answered[true]}
    found = [
        Measure(key, key, *((0.0, (0.0, 1.0)) if not len(hits) else metrics.share(hits)), len(hits))
        for key, hits in share.items()
    ]

    def f1(rows: np.ndarray) -> float:
        return 2 * np.sum(answered[rows] & true[rows]) / max(np.sum(answered[rows]) + np.sum(true[rows]), 1)

    rows = np.arange(len(pred))
    return *found, Measure(
        "f1", "F1", float(f1(rows)), bootstrap((rows,), f1, int(np.sum(answered | true))), int(true.sum()), "bootstrap"
    )


def macro_f1(pred: np.ndarray, label: np.ndarray) -> Measure:
    """The mean F1 of the classes that have images, as metrics.mean_per_class is of recall; pred and label [n]."""
    classes, true = np.unique(label, return_inverse=True)
    K = len(classes)
    answered = np.where(np.isin(pred, classes), np.searchsorted(classes, pred), K)  # K: a class without images

    def f1(rows: np.ndarray) -> float:
        t, a = true[rows], answered[rows]
        right, *count = (np.bincount(of, minlength=K + 1)[:K] for of in (t[t == a], t, a))
        return float(np.mean(2 * right / sum(count).clip(1)))

    rows = np.arange(len(pred))
    return Measure("macro_f1", "macro F1", f1(rows), bootstrap((rows,), f1), len(label), "bootstrap")


def two_class(score: np.ndarray, positive: np.ndarray) -> list[Measure]:
    """AUROC, average precision, and sensitivity at some specificities, of finite scores [n]; positive [n] bool.

    Sensitivity is the largest at a threshold of at least that specificity on these images. Intervals: positive and
    negative images are drawn anew, each by themselves. ValueError unless there are both.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if positive.all() or not positive.any():
        raise ValueError("images of both classes are needed")

    def ranked(measure):
        def of(yes: np.ndarray, no: np.ndarray) -> float:
            return float(measure(np.repeat([True, False], [len(yes), len(no)]), np.concatenate([yes, no])))

        return of

    def sensitivity(specificity: float):
        def of(yes: np.ndarray, no: np.ndarray) -> float:
            beside = int((1 - specificity) * len(no) + 1e-9)  # so many negatives may lie above the threshold
            return float(np.mean(yes > np.sort(no)[::-1][beside]))

        return of

    asked = {
        ("auroc", "AUROC"): ranked(roc_auc_score),
        ("average_precision", "average precision"): ranked(average_precision_score),
        **{
            (f"sensitivity_at_{s:g}", f"sensitivity at {100 * s:g}% specificity"): sensitivity(s) for s in SPECIFICITIES
        },
    }
    sides = score[positive], score[~positive]
    return [
        Measure(key, name, measure(*sides), bootstrap(sides, measure), len(score), "bootstrap")
        for (key, name), measure in asked.items()
    ]


def groups(hits: np.ndarray, group: np.ndarray) -> list[Measure]:
    """Accuracy of each group of images, the worst again, and how far the best is above it; hits [n] bool, group [n]."""
    names = np.unique(group).tolist()
    each = [Measure.share(f"acc1_{name}", f"group {name}", hits[group == name]) for name in names]
    worst, best = (pick(each, key=lambda m: m.value) for pick in (min, max))
    called = f"worst, {worst.name}"

    def gap(*sides: np.ndarray) -> float:
        shares = [side.mean() for side in sides]
        return max(shares) - min(shares)

    sides = tuple(hits[group == name].astype(float) for name in names)
    wide = bootstrap(sides, gap) if len(sides) > 1 else (0.0, 0.0)
    return [
        *each,
        Measure("worst_group", called, worst.value, worst.interval, worst.n),
        Measure("group_gap", "best less worst", best.value - worst.value, wide, len(hits), "bootstrap"),
    ]


def texture_of(file: str) -> str | None:
    """The class whose texture a cue-conflict image has, from its name: .../cat7-elephant1.png -> elephant."""
    found = re.fullmatch(r"(?:.*[/_])?[^/_-]+-([a-z]+)\d*\.\w+", file)
    return found and found[1]


def shape_bias(answer: list[str], shape: list[str], files: list[str], classes: Iterable[str]) -> list[Measure]:
    """Of images whose shape is of one class and texture of another, how often the answer is either; by class names.

    Shape bias is the share of shape among the answers that are one of the two (arXiv 1811.12231). ValueError where no
    file's name says its texture.
    """
    rows = [(a, s, texture_of(file)) for a, s, file in zip(answer, shape, files, strict=True)]
    rows = [(a, s, t) for a, s, t in rows if t in set(classes) - {s}]
    if not rows:
        raise ValueError("no file is named as SHAPE1-TEXTURE1.png with two classes")
    by_shape, by_texture = (np.array([row[0] == row[k] for row in rows], dtype=bool) for k in (1, 2))
    return [
        Measure.share("shape_bias", "shape bias", by_shape[by_shape | by_texture]),
        Measure.share("shape", "answers by shape", by_shape),
        Measure.share("texture", "answers by texture", by_texture),
    ]


def votes(share: np.ndarray, hits: np.ndarray) -> list[Measure]:
    """How many points prefer the answer, on the average of right and of wrong answers; share and hits [n]."""
    found = []
    for name, chosen in {"right": share[hits], "wrong": share[~hits]}.items():
        if len(chosen):
            mean, wide = float(chosen.mean()), bootstrap((chosen,), np.mean)
            found.append(Measure(f"votes_{name}", f"votes if {name}", mean, wide, len(chosen), "bootstrap"))
    return found
