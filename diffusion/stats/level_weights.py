"""Which noise levels tell classes apart: pure functions of the errors of runs that measured every class everywhere.

Errors [n, K, P] are of n images, K classes and P points in ascending levels; label [n] are class rows.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

BANDS = 10  # of equally many levels; each has one weight
DRAWS = 30  # looks at each image, of one random point in each band
ROUGH = 1e-3  # the price of a squared difference between neighbouring bands
NUMBERS = 1e7  # at most so many are fitted on


def bands(P: int) -> list[np.ndarray]:
    """The points of each band, the cleanest levels first."""
    return np.array_split(np.arange(P), min(BANDS, P))


def gaps(errors: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how much the nearest other class is worse than the label's, and how much that varies, by band.

    The nearest is that with the smallest mean over all points. -> mean [bands], standard deviation over the images and
    points of the band [bands]; their ratio is the signal-to-noise ratio of one point
    """
    rows = np.arange(len(errors))
    others = errors.mean(2)
    others[rows, label] = np.inf
    gap = errors[rows, others.argmin(1)] - errors[rows, label]  # [n, P]
    return tuple(np.array([of(gap[:, band]) for band in bands(errors.shape[2])]) for of in (np.mean, np.std))


def fit_weights(errors: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weights w of the bands under which the label is likeliest, from one random point of each band. [bands], w >= 0

        p_k = softmax_k(-sum_b w_b e_kb),   NLL + ROUGH sum_b (w_b+1 - w_b)^2 least,   e in units of its spread

    One point and not the mean of them all: few points are what a search decides by, and at all of them hardly an image
    is wrong, so that hardly one says anything. Where nothing is said, all weights are the same. Their scale means
    nothing.
    """
    n, K, P = errors.shape
    draws = int(np.clip(NUMBERS // (n * K * BANDS), 1, DRAWS))
    looks = [np.stack([errors[:, :, rng.choice(band)] for band in bands(P)], 2) for _ in range(draws)]
    X, label = np.concatenate(looks), np.tile(label, draws)  # [draws n, K, bands]
    X -= X.mean(1, keepdims=True)
    X /= X.std()
    rows = np.arange(len(X))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(-(X @ w), 1)
        wrong = np.exp(log_p)  # p less 1 at the label
        wrong[rows, label] -= 1
        steps = np.diff(w)
        slope = np.einsum("nk,nkb->b", wrong, X) / -len(X) - 2 * ROUGH * np.diff(steps, prepend=0, append=0)
        return -log_p[rows, label].mean() + ROUGH * np.sum(steps**2), slope

    return minimize(loss, np.ones(X.shape[2]), jac=True, bounds=[(0, 100)] * X.shape[2]).x


def accuracies(errors: np.ndarray, label: np.ndarray, points: int, weights: np.ndarray, draws: int = 20) -> np.ndarray:
    """How often each image is right when each class is measured at so many points, spread evenly from a random start.

    weights [P]; the draws are the same at every call. -> [n], shares of the draws
    """
    P = errors.shape[2]
    starts = np.random.default_rng(0).random(1 if points == P else draws)
    looks = (((np.arange(points) + start[..., None]) * P / points).astype(int) for start in starts)
    return np.mean([(errors[:, :, look] * weights[look]).mean(2).argmin(1) == label for look in looks], 0)
