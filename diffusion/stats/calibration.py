"""From the errors of a record to probabilities: pure functions of arrays.

    p_k = softmax_k(-d_k / T)

d_k is how much larger the mean error of class k is than the winner's, over the points that both were measured on; T,
the temperature, is fitted on labelled images. Mean errors are so close that with T = 1, the plain softmax of -error,
every class gets nearly 1/K.

Why d_k and not d_k over its standard error: the latter measures how certain it is that class k is worse, not how much
worse it is. It grows with the points, so that the temperature of a race, which measures most classes at a few points,
would not fit a halving. On held-out images of seven races, with three models, its NLL was worse each time, by 0.03 to
0.19 nats. No other variant was better everywhere: d_k over the spread of a point, times the root of the points, minus
some standard errors, shrunk by n / (n + n0), with a fitted exponent, with a heavier tail, mixed with the uniform
distribution.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from diffusion.stats.metrics import Z95, excess, rescore

BINS, IN_BIN = 15, 20
AT_ONCE = 500  # images whose probabilities are in memory: those of all would take as much as the scores, or twice that
EPS = np.finfo(float).eps  # the smallest probability that costs its logarithm, as in sklearn.metrics.log_loss


def scores(record: dict, class_ids: np.ndarray, arm_class: np.ndarray, loss: str) -> np.ndarray:
    """-d of each class, from a record: 0 for the winner, -inf for a class that was never measured.

    class_ids [rows] and arm_class [arms] as from results.competitors. If several rows stand for one class, its score
    is that of the best row. A class that was dropped early although it was better than the later winner at the few
    points that they share has the winner's score 0: a tie. -> [K] float64, class ids ascending
    """
    _, column = np.unique(class_ids, return_inverse=True)
    return scores_of(excess(record, arm_class, rescore(record, arm_class, loss), loss), column)


def scores_of(difference: np.ndarray, column: np.ndarray) -> np.ndarray:
    """`scores` from the `metrics.excess` of each row [rows]; column [rows] is the class of each row, 0..K-1. [K]"""
    each = 0 - np.maximum(difference, 0)
    best = np.full(column.max() + 1, -np.inf)
    np.maximum.at(best, column, each)
    return best


def rank(scores: np.ndarray, label: int, pred: int) -> int:
    """The number of classes before the label's, 0 if it won; scores [K], label and pred in 0..K-1; a tie is wrong.

    The answer is before all others whatever its score, as votes may have chosen it.
    """
    before = scores >= scores[label]
    before[pred] = True
    return 0 if label == pred else int(before.sum()) - 1


def probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(scores / T) over the last axis. [..., K] -> [..., K]"""
    return softmax(scores / temperature, -1)


def to_probabilities(scores: np.ndarray, temperature: float) -> None:
    """Write `probabilities` over scores [n, K]."""
    for k in range(0, len(scores), AT_ONCE):
        scores[k : k + AT_ONCE] = probabilities(scores[k : k + AT_ONCE], temperature)


def _unlikely(scaled: Callable[[slice], np.ndarray], label: np.ndarray) -> float:
    """Negative log likelihood of labels [n] and of the two images that `fit_temperature` adds.

    scaled(images) are the scores over the temperature of some images, [images, K]
    """
    sure, chosen = np.empty(len(label)), np.empty(len(label))
    for k in range(0, len(label), AT_ONCE):
        images = slice(k, k + AT_ONCE)
        log_p = log_softmax(scaled(images), 1)
        sure[images] = np.exp(log_p.max(1))
        chosen[images] = log_p[np.arange(len(log_p)), label[images]]
    return _with_added_images(chosen, sure)


def _with_added_images(log_chosen: np.ndarray, sure: np.ndarray) -> float:
    """The negative log likelihood from log p of each label [n] and the confidences [n], see `fit_temperature`."""
    right, wrong = np.mean(sure), np.mean(1 - sure)
    return -np.sum(np.maximum(log_chosen, np.log(EPS))) - np.log(right) - np.log(max(wrong, EPS))


def fit_temperature(scores: np.ndarray, label: np.ndarray) -> float:
    """The temperature with the smallest negative log likelihood of labels [n] in 0..K-1, from scores [n, K].

    Two images of average confidence c are added, one right and one wrong (Laplace's rule of succession):

        sum_i -log p_i(label_i) - log c - log(1 - c)

    Without these two, T would be 0 if all images are right, and every answer certain.
    """

    def loss(log_t: float) -> float:
        return _unlikely(lambda images: scores[images] / np.exp(log_t), label)

    behind = scores[np.isfinite(scores) & (scores < 0)]
    typical = np.log(-np.median(behind, overwrite_input=True))
    grid = typical + np.linspace(-10, 10, 41)
    best = grid[np.argmin([loss(log_t) for log_t in grid])]
    return float(np.exp(minimize_scalar(loss, bounds=(best - 0.5, best + 0.5), options={"xatol": 1e-6}).x))


def no_better_than_equal(scores: np.ndarray, label: np.ndarray, temperature: float) -> bool:
    """Whether equal probabilities of all measured classes fit the labels as well as those of this temperature.

    By the likelihood ratio of the two (Wilks, 1938) at the 95% level; scores [n, K], label [n].
    """
    *_, fitted = figures(scores, label, temperature)
    measured = np.isfinite(scores)
    equal = np.where(measured[np.arange(len(label)), label], np.log(measured.sum(1)), -np.log(EPS))
    return 2 * len(label) * float(np.mean(equal) - np.mean(fitted)) < Z95**2


def fit_weights(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Weights w of several models that maximise the likelihood of the labels: p = softmax(sum_r w_r scores_r).

    scores [n, models, K], finite; label [n] in 0..K-1 -> [models], at least 0. A weight is a model's reliance over its
    temperature. All are fitted together, with the two added images of `fit_temperature`. A model whose scores are all
    equal, or that is no better than chance beside the others, gets 0.
    """
    spread = scores.std((0, 2))
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    R = len(scale)

    def loss(share: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = unlikelihood(share * scale, scores, label)
        return value, slope * scale

    fit = minimize(loss, np.full(R, 1 / R), jac=True, method="L-BFGS-B", bounds=R * [(0, None)])
    return fit.x * scale


def unlikelihood(weights: np.ndarray, scores: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """What `fit_weights` makes small, and its derivative by the weights [models]; scores and label as there.

    With p = softmax(sum_r w_r s_r), d log p(k) / d w_r = s_r(k) - sum_j p(j) s_r(j).
    """
    n, R, _ = scores.shape
    log_chosen, sure = np.empty(n), np.empty(n)
    by_chosen, by_sure = np.empty((n, R)), np.empty((n, R))  # derivatives of log p(label), and of the largest p
    for k in range(0, n, AT_ONCE):
        images = slice(k, k + AT_ONCE)
        part = scores[images]
        log_p = log_softmax(np.einsum("r,nrk->nk", weights, part), 1)
        mean = np.einsum("nk,nrk->nr", np.exp(log_p), part)
        rows, top = np.arange(len(part)), log_p.argmax(1)
        log_chosen[images] = log_p[rows, label[images]]
        by_chosen[images] = part[rows, :, label[images]] - mean
        sure[images] = np.exp(log_p[rows, top])
        by_sure[images] = sure[images, None] * (part[rows, :, top] - mean)

    counted = log_chosen > np.log(EPS)
    right, wrong, of_sure = np.mean(sure), np.mean(1 - sure), by_sure.mean(0)
    slope = -by_chosen[counted].sum(0) - of_sure / right
    if wrong > EPS:
        slope += of_sure / wrong
    return _with_added_images(log_chosen, sure), slope


def figures(
    scores: np.ndarray, label: np.ndarray, temperature: float, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, Brier score and negative log likelihood of each image, for labels [n] and scores [n, K].

    `among`: of these images only, a mask [n]; default all. `brier` and `nll` are the means of the latter two. [m] each
    """
    images = np.arange(len(label)) if among is None else np.flatnonzero(among)
    found = []
    for k in range(0, len(images), AT_ONCE):
        part = images[k : k + AT_ONCE]
        p = probabilities(scores[part], temperature)
        found.append((p.max(1), _briers(p, label[part]), _nlls(p, label[part])))
    sure, briers, nlls = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return sure, briers, nlls


def _nlls(p: np.ndarray, label: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(p[np.arange(len(label)), label], EPS))


def _briers(p: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.sum(p**2, 1) + 1 - 2 * p[np.arange(len(label)), label]


def nll(p: np.ndarray, label: np.ndarray) -> float:
    """Mean negative log likelihood of labels [n] under p [n, K], in nats; a probability below EPS counts as EPS."""
    return float(np.mean(_nlls(p, label)))


def brier(p: np.ndarray, label: np.ndarray) -> float:
    """Mean over images of sum_k (p_k - [k is the label])^2, in 0..2 (Brier, 1950); p [n, K], label [n]."""
    return float(np.mean(_briers(p, label)))


def bins_for(images: int) -> int:
    """The number of bins, from 1 to BINS, that so many images fill with about IN_BIN each."""
    return int(np.clip(images // IN_BIN, 1, BINS))


def reliability(confidence: np.ndarray, hit: np.ndarray, bins: int | None = None) -> np.ndarray:
    """Mean confidence, share of hits and number of images of each bin, the least confident first.

    confidence [n], hit [n] bool -> [bins or fewer, 3], by default `bins_for(n)` bins. Bins hold equally many images and
    are not equally wide: nearly all confidences are close to 1, so that one of 15 bins of equal width would hold nearly
    all images.
    """
    order = np.lexsort((hit, confidence))  # so that the order of images of equal confidence has no effect
    parts = [part for part in np.array_split(order, bins or bins_for(len(order))) if len(part)]
    return np.array([(confidence[part].mean(), hit[part].mean(), len(part)) for part in parts])


def ece(confidence: np.ndarray, hit: np.ndarray, bins: int | None = None) -> float:
    """Expected calibration error (arXiv 1706.04599, eq. 3) of confidence [n] and hit [n] bool.

    The mean of |confidence - share of hits| over bins of equally many images.
    """
    sure, right, images = reliability(confidence, hit, bins).T
    return float(np.average(np.abs(sure - right), weights=images))


def ece_by_chance(confidence: np.ndarray, draws: int = 100) -> float:
    """The mean ECE of hits drawn with probability confidence [n]: that of perfect calibration on so few images."""
    rng = np.random.default_rng(0)
    return float(np.mean([ece(confidence, rng.random(len(confidence)) < confidence) for _ in range(draws)]))


def coverage(confidence: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of images answered [m] and the share of right answers among them [m], at each threshold.

    confidence [n], hit [n] bool. The thresholds are the confidences that occur, the highest first; at the last one all
    images are answered.
    """
    _, step, images = np.unique(-confidence, return_inverse=True, return_counts=True)
    answered = np.cumsum(images)
    return answered / len(hit), np.cumsum(np.bincount(step, weights=hit)) / answered


def fitted_on(indices: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which images [n] the temperature is fitted on, about that share of them; the others are held out. [n] bool

    Drawn from (seed, dataset index) alone, so that an image stays on its side on every machine and in a growing run.
    """
    return np.array([np.random.default_rng([seed, int(index)]).random() < share for index in indices], dtype=bool)
