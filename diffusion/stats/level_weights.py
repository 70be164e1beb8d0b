"""Which noise levels distinguish classes: pure functions of the errors of runs that measured every class everywhere.

errors [n, K, P]: n images, K classes, P points in ascending levels; label [n] are class rows.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

BANDS = 10  # of equally many levels; each has one weight
DRAWS = 30  # draws of each image: one random point in each band
ROUGH = 1e-3  # penalty of a squared difference between neighbouring bands
NUMBERS = 1e7  # the fit uses at most so many errors


def bands(P: int) -> list[np.ndarray]:
    """The points of each band, the cleanest levels first."""
    return np.array_split(np.arange(P), min(BANDS, P))


def gaps(errors: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much worse the nearest other class is than the label's, by band, and how much that varies.

    The nearest class has the smallest mean over all points. -> mean [bands], standard deviation over the images and
    points of the band [bands]; their ratio is the signal-to-noise ratio of one point
    """
    rows = np.arange(len(errors))
    others = errors.mean(2)
    others[rows, label] = np.inf
    gap = errors[rows, others.argmin(1)] - errors[rows, label]  # [n, P]
    in_band = [gap[:, band] for band in bands(errors.shape[2])]
    return np.array([each.mean() for each in in_band]), np.array([each.std() for each in in_band])


def fit_weights(errors: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weights w of the bands under which the label is likeliest, from one random point of each band. [bands], w >= 0

        p_k = softmax_k(-sum_b w_b e_kb),   NLL + ROUGH sum_b (w_b+1 - w_b)^2 minimal,   e in units of its spread

    One point and not the mean of all: a search decides by few points, and at all points hardly an image is wrong, so
    that hardly one carries information. Without information all weights are equal. Their scale has no meaning.
    """
    n, K, P = errors.shape
    draws = int(np.clip(NUMBERS // (n * K * BANDS), 1, DRAWS))
    looks = []
    for _ in range(draws):
        drawn = [errors[:, :, rng.choice(band)] for band in bands(P)]
        looks.append(np.stack(drawn, 2))
    X = np.concatenate(looks)  # [draws n, K, bands]
    label = np.tile(label, draws)
    X -= X.mean(1, keepdims=True)
    X /= X.std()
    rows = np.arange(len(X))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(-(X @ w), 1)
        wrong = np.exp(log_p)  # p - 1 at the label
        wrong[rows, label] -= 1
        steps = np.diff(w)
        slope = np.einsum("nk,nkb->b", wrong, X) / -len(X) - 2 * ROUGH * np.diff(steps, prepend=0, append=0)
        return -log_p[rows, label].mean() + ROUGH * np.sum(steps**2), slope

    return minimize(loss, np.ones(X.shape[2]), jac=True, bounds=[(0, 100)] * X.shape[2]).x


def accuracies(errors: np.ndarray, label: np.ndarray, points: int, weights: np.ndarray, draws: int = 20) -> np.ndarray:
    """The share of draws in which each image is right, if every class is measured at `points` points. [n]

    Points are spread evenly from a random start; the draws are the same at every call. weights [P]
    """
    P = errors.shape[2]
    starts = np.random.default_rng(0).random(1 if points == P else draws)
    right = []
    for start in starts:
        look = ((np.arange(points) + start) * P / points).astype(int)
        means = (errors[:, :, look] * weights[look]).mean(2)  # [n, K]
        right.append(means.argmin(1) == label)
    return np.mean(right, 0)
