"""From the errors of a record to probabilities: pure functions of arrays.

    p_k = softmax_k(-d_k / T)

d_k is how much larger the mean error of class k is than the winner's, over the points that both were measured on; T,
the temperature, is fitted on labelled images. Mean errors are so close that with T = 1, the plain softmax
of -error, everyone gets nearly 1/K.

Why d_k and not d_k over its standard error: that says how sure it is that class k is worse, not how much; it grows with
the points, so that the temperature of a race, which measures most classes at a few points, would not do after a
halving. On held-out images of seven races, with three models, its NLL was the worse one each time, by 0.03 to 0.19
nats. Nor was any other better everywhere: over the spread of a point, times the root of the points, less some standard
errors, shrunk by n / (n + n0), with a fitted exponent, with a heavier tail, mixed with the uniform distribution.
"""

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from diffusion.stats.metrics import Z95, excess, rescore

BINS, IN_BIN = 15, 20
EPS = np.finfo(float).eps  # the smallest probability that costs its logarithm, as in sklearn.metrics.log_loss


def scores(record: dict, class_ids: np.ndarray, arm_class: np.ndarray, loss: str) -> np.ndarray:
    """-d of each class, from a record: 0 for the winner, -inf for a class that was never measured.

    class_ids [rows] and arm_class [arms] as results.competitors gives them. Where several rows stand for one class, its
    score is that of its best. A class that was dropped early and yet, at the few points that they share, better than
    the later winner has the winner's 0: a tie. -> [K] float64, class ids ascending
    """
    difference = excess(record, arm_class, rescore(record, arm_class, loss), loss)
    _, column = np.unique(class_ids, return_inverse=True)
    best = np.full(column.max() + 1, -np.inf)
    np.maximum.at(best, column, 0 - np.maximum(difference, 0))
    return best


def rank(scores: np.ndarray, label: int, pred: int) -> int:
    """How many classes come before the label's, 0 if it won; scores [K], label and pred in 0..K-1; a tie is wrong.

    The answer is before all others, where votes chose it too, whatever its score.
    """
    before = scores >= scores[label]
    before[pred] = True
    return 0 if label == pred else int(before.sum()) - 1


def probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(scores / T) over the last axis. [..., K] -> [..., K]"""
    return softmax(scores / temperature, -1)


def _unlikely(log_p: np.ndarray, label: np.ndarray) -> float:
    """Minus the log likelihood of labels [n] under log_p [n, K], and of the two images that `fit_temperature` adds."""
    sure = np.exp(log_p.max(1))
    right, wrong = np.mean(sure), np.mean(1 - sure)
    chosen = np.maximum(log_p[np.arange(len(label)), label], np.log(EPS))
    return -np.sum(chosen) - np.log(right) - np.log(max(wrong, EPS))


def fit_temperature(scores: np.ndarray, label: np.ndarray) -> float:
    """The temperature with the smallest negative log likelihood of labels [n] in 0..K-1, given scores [n, K].

    With one image more of average confidence c that is right, and one that is wrong (Laplace's rule of succession):

        sum_i -log p_i(label_i) - log c - log(1 - c)

    Without these two, images that all are right would make T = 0 and their like infinitely sure.
    """

    def loss(log_t: float) -> float:
        return _unlikely(log_softmax(scores / np.exp(log_t), 1), label)

    typical = np.log(np.median(-scores[np.isfinite(scores) & (scores < 0)]))
    grid = typical + np.linspace(-10, 10, 41)
    best = grid[np.argmin([loss(log_t) for log_t in grid])]
    return float(np.exp(minimize_scalar(loss, bounds=(best - 0.5, best + 0.5), options={"xatol": 1e-6}).x))


def no_better_than_equal(scores: np.ndarray, label: np.ndarray, temperature: float) -> bool:
    """Whether equal probabilities of all measured classes do as well as those of a temperature, scores and labels.

    By the likelihood ratio of the two (Wilks, 1938) at the 95% level; scores [n, K], label [n].
    """
    equal = probabilities(np.where(np.isfinite(scores), 0, -np.inf), 1)
    return 2 * len(label) * (nll(equal, label) - nll(probabilities(scores, temperature), label)) < Z95**2


def fit_weights(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Weights w of several models whose product is likeliest to give the labels: p = softmax(sum_r w_r scores_r).

    scores [n, models, K], finite; label [n] in 0..K-1 -> [models], at least 0. A weight is a model's reliance over its
    temperature; together they are fitted as `fit_temperature` fits one, with the same two images more, from each
    model's own temperature on.
    """
    start = np.array([1 / fit_temperature(scores[:, r], label) for r in range(scores.shape[1])])

    def loss(share: np.ndarray) -> float:
        return _unlikely(log_softmax(np.tensordot(np.abs(share) * start, scores, (0, 1)), 1), label)

    R = len(start)
    found = min((minimize(loss, x, method="Nelder-Mead") for x in [np.full(R, 1 / R), *np.eye(R)]), key=lambda f: f.fun)
    return np.abs(found.x) * start


def nll(p: np.ndarray, label: np.ndarray) -> float:
    """Mean negative log likelihood of labels [n] under p [n, K], in nats; a probability below EPS counts as EPS."""
    return float(-np.mean(np.log(np.maximum(p[np.arange(len(label)), label], EPS))))


def brier(p: np.ndarray, label: np.ndarray) -> float:
    """Mean over images of sum_k (p_k - [k is the label])^2, in 0..2 (Brier, 1950); p [n, K], label [n]."""
    return float(np.mean(np.sum(p**2, 1) + 1 - 2 * p[np.arange(len(label)), label]))


def bins_for(images: int) -> int:
    """How many bins so many images fill with about IN_BIN each, from 1 to BINS."""
    return int(np.clip(images // IN_BIN, 1, BINS))


def reliability(confidence: np.ndarray, hit: np.ndarray, bins: int | None = None) -> np.ndarray:
    """Mean confidence, share of hits and number of images of equally many images each, the least sure first.

    confidence [n], hit [n] bool -> [bins or fewer, 3], by default `bins_for` so many images. Equally many and not
    equally wide: nearly all confidences are close to 1, and bins of equal width would be one that holds them all beside
    fourteen that hold next to nothing.
    """
    order = np.lexsort((hit, confidence))  # among equals too, the order of the images is none
    parts = [part for part in np.array_split(order, bins or bins_for(len(order))) if len(part)]
    return np.array([(confidence[part].mean(), hit[part].mean(), len(part)) for part in parts])


def ece(confidence: np.ndarray, hit: np.ndarray, bins: int | None = None) -> float:
    """Expected calibration error (arXiv 1706.04599, eq. 3) of confidence [n] and hit [n] bool.

    The mean of |confidence - share of hits| over bins of equally many images.
    """
    sure, right, images = reliability(confidence, hit, bins).T
    return float(np.average(np.abs(sure - right), weights=images))


def ece_by_chance(confidence: np.ndarray, draws: int = 100) -> float:
    """The mean ECE of hits that are drawn by confidence [n] itself: what so few images show where all is right."""
    rng = np.random.default_rng(0)
    return float(np.mean([ece(confidence, rng.random(len(confidence)) < confidence) for _ in range(draws)]))


def coverage(confidence: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What share of images [m] is answered, and what share of the answers is right [m], at each threshold.

    confidence [n], hit [n] bool. The thresholds are the confidences that occur, the highest first; the last answers all
    images.
    """
    _, step, images = np.unique(-confidence, return_inverse=True, return_counts=True)
    answered = np.cumsum(images)
    return answered / len(hit), np.cumsum(np.bincount(step, weights=hit)) / answered


def fitted_on(indices: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which images [n] the temperature is fitted on: about that share of them; the others are held out. [n] bool

    It is drawn from (seed, dataset index) alone: an image stays on its side on every machine, and in a run that grows.
    """
    return np.array([np.random.default_rng([seed, int(index)]).random() < share for index in indices], dtype=bool)
