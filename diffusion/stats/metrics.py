"""Pure functions of arrays: how often the answers are right, with 95% intervals; decisions from measured errors."""

import numpy as np
from scipy.special import stdtrit

from diffusion import InputError

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95% interval


def wilson(p: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion p seen in n trials (n need not be whole); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return min(low, float(p)), max(high, float(p))  # rounding puts the ends beside p = 0 and 1


def share(hits: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The share of hits [n] bool that are true and its 95% interval; nan for n = 0."""
    if len(hits) == 0:
        return float("nan"), (0.0, 1.0)
    p = float(np.mean(hits))
    return p, wilson(p, len(hits))


def accuracy(pred: np.ndarray, label: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Top-1 accuracy of pred [n], label [n] and its 95% interval; nan for n = 0."""
    return share(pred == label)


def per_class(pred: np.ndarray, label: np.ndarray) -> dict[int, tuple[int, int]]:
    """Class id -> (right, images), for the classes that occur as labels."""
    return {int(c): (int(np.sum(pred[label == c] == c)), int(np.sum(label == c))) for c in np.unique(label)}


def mean_per_class(pred: np.ndarray, label: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The mean over classes of their accuracies, and its 95% interval; nan for no images.

    Wilson's with the effective number of images K^2 / sum_k 1/n_k, which is n when the K classes are balanced.
    """
    counts = np.array(list(per_class(pred, label).values()), dtype=float).reshape(-1, 2)
    if len(counts) == 0:
        return float("nan"), (0.0, 1.0)
    right, images = counts.T
    p = float(np.mean(right / images))
    return p, wilson(p, len(counts) ** 2 / float(np.sum(1 / images)))


def confusion(pred: np.ndarray, label: np.ndarray, classes: list[int]) -> np.ndarray:
    """Counts [true, predicted] of pred and label [n], over these class ids."""
    row = {c: k for k, c in enumerate(classes)}
    table = np.zeros((len(classes), len(classes)), dtype=int)
    for p, t in zip(pred.tolist(), label.tolist(), strict=True):
        table[row[t], row[p]] += 1
    return table


# ---- errors of a record, whose numbers are tensors, or arrays (see runs/plain.py) ----


def class_means(errors: np.ndarray, arm_class: np.ndarray) -> np.ndarray:
    """Mean over the arms of each class, classes ascending: errors [arms, ...], arm_class [arms] -> [classes, ...]."""
    size = np.bincount(arm_class)
    if size.max() == 1:  # nothing to average, and no rounding
        return errors[np.argsort(arm_class)]
    total = np.zeros((len(size), *errors.shape[1:]))
    np.add.at(total, arm_class, errors)
    return total[size > 0] / size[size > 0].reshape(-1, *[1] * (errors.ndim - 1))


def point_errors(record: dict, loss: str) -> np.ndarray:
    """The errors of a record under one loss, arm by arm, times the weights of their points if it has weights.

    -> [sum(counts)] float64
    """
    errors = np.asarray(record["errors"])[:, list(record["losses"]).index(loss)].astype(np.float64)
    if "weights" not in record:
        return errors
    weights = np.asarray(record["weights"])  # [P]
    return errors * weights[_point_of(np.asarray(record["counts"]))]


def _point_of(counts: np.ndarray) -> np.ndarray:
    """The point of each error of a record, from counts [arms]. [sum(counts)] int"""
    first = np.cumsum(counts) - counts  # where the errors of each arm begin
    return np.arange(counts.sum()) - np.repeat(first, counts)


def arm_errors(record: dict, loss: str) -> list[np.ndarray]:
    """`point_errors` of each arm, [its points]."""
    return np.split(point_errors(record, loss), np.cumsum(np.asarray(record["counts"]))[:-1])


def class_errors(
    record: dict, arm_class: np.ndarray, loss: str, error: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean error of each class over the points it was measured on, from a record, and the number of these points.

    arm_class [arms] is the class row (0..K-1) of each arm; `error`: `point_errors`, if they were computed before
    -> errors [K] float64, inf if the class was not measured; points [K]
    """
    if error is None:
        error = point_errors(record, loss)
    counts = np.asarray(record["counts"])
    K = int(arm_class.max()) + 1
    points = np.zeros(K, dtype=int)
    points[arm_class] = counts  # every arm of a class goes equally far
    total = np.bincount(np.repeat(arm_class, counts), error, minlength=K)
    measured = np.bincount(arm_class, counts, minlength=K)
    return np.divide(total, measured, out=np.full(K, np.inf), where=measured > 0), points


def errors_of_class(record: dict, arm_class: np.ndarray, k: int, loss: str) -> np.ndarray:
    """The error of one class at each point that it was measured on, the mean over its arms. [its points]"""
    arms = arm_errors(record, loss)
    return np.mean([arms[arm] for arm in np.flatnonzero(arm_class == k)], 0)


def nearest_other(record: dict, arm_class: np.ndarray, winner: int, loss: str) -> int:
    """The class row of the runner-up: of the classes measured furthest, except the winner, the smallest mean error."""
    _, points = class_errors(record, arm_class, loss)
    order = np.lexsort((excess(record, arm_class, winner, loss), -points))
    return int(order[order != winner][0])


def pair_squares(difference: np.ndarray, levels: np.ndarray) -> tuple[float, float]:
    """Sums of squares between and within the pairs of an image, from which `pair_correlation` estimates rho.

    difference [n] at levels [n]; points 2k and 2k + 1 are a pair, a last point without a partner is left out. Between:
    half the sum of the squares of the m - 1 steps between the sums of m pairs, in the order of levels. Within: the sum
    of the squares of the m differences within pairs, times (m - 1) / m. If both points have the variance v and
    correlate by rho, their expectations are 2 v (1 + rho) (m - 1) and 2 v (1 - rho) (m - 1).
    """
    m = len(difference) // 2
    if m < 2:
        return 0.0, 0.0
    pair = difference[: 2 * m].reshape(m, 2)
    steps = np.diff(pair.sum(1)[np.argsort(levels[: 2 * m : 2], kind="stable")])
    within = np.sum((pair[:, 0] - pair[:, 1]) ** 2) * (m - 1) / m
    return float(np.sum(steps**2) / 2), float(within)


def pair_correlation(between: np.ndarray, within: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The correlation within pairs and its 95% interval, from `pair_squares` of n images; nan if it is undefined.

    rho = (R - 1) / (R + 1), R = sum between / sum within. The interval is that of log R, a ratio of sums over images,
    whose variance is n / (n - 1) sum (b_i - R w_i)^2 / (sum b)^2.
    """
    informative = within > 0
    between, within = between[informative], within[informative]
    n = len(within)
    if n < 2 or between.sum() <= 0:
        return float("nan"), (-1.0, 1.0)
    R = between.sum() / within.sum()
    half = Z95 * np.sqrt(n / (n - 1) * np.sum((between - R * within) ** 2)) / between.sum()
    rho, low, high = (float((r - 1) / (r + 1)) for r in (R, R * np.exp(-half), R * np.exp(half)))
    return rho, (low, high)


def excess(
    record: dict,
    arm_class: np.ndarray,
    winner: int,
    loss: str,
    means: tuple[np.ndarray, np.ndarray] | None = None,
    error: np.ndarray | None = None,
) -> np.ndarray:
    """Mean error of each class minus the winner's, over the points that both were measured on.

    arm_class [arms] is the class row of each arm, winner one of the rows that were measured to the end; a class's error
    at a point is the mean over its arms. `means`, `error`: `class_errors` and `point_errors`, if they were computed
    before.
    -> [K] float64, 0 for the winner, inf if the class was not measured
    """
    if error is None:
        error = point_errors(record, loss)
    errors, points = class_errors(record, arm_class, loss, error) if means is None else means
    counts = np.asarray(record["counts"])
    ends = np.cumsum(counts)  # of the errors of each arm
    winners = [error[ends[arm] - counts[arm] : ends[arm]] for arm in np.flatnonzero(arm_class == winner)]
    at_point = np.mean(winners, 0)
    so_far = np.cumsum(at_point) / np.arange(1, len(at_point) + 1)  # mean over the first 1, 2, ... points
    difference = errors - so_far[points - 1]
    difference[winner] = 0  # not the rounding of two ways to sum
    return difference


def class_point_errors(
    record: dict, arm_class: np.ndarray, loss: str, error: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean error over the arms of each class at each point that the class was measured on, in any order.

    arm_class [arms] is the class row of each arm; `error`: `point_errors`, if they were computed before
    -> error [n] float64, class row [n], point [n]
    """
    if error is None:
        error = point_errors(record, loss)
    counts = np.asarray(record["counts"])
    row = np.repeat(arm_class, counts)
    point = _point_of(counts)
    if np.bincount(arm_class).max() == 1:  # nothing to average
        return error, row, point
    order = np.lexsort((row, point))
    error, row, point = error[order], row[order], point[order]
    new = np.ones(len(error), dtype=bool)
    new[1:] = (row[1:] != row[:-1]) | (point[1:] != point[:-1])
    starts = np.flatnonzero(new)
    arms = np.diff(starts, append=len(error))
    return np.add.reduceat(error, starts) / arms, row[starts], point[starts]


def votes(record: dict, arm_class: np.ndarray, loss: str, error: np.ndarray | None = None) -> np.ndarray:
    """The number of points at which each class has the smallest error of those measured there. [K] int

    A point has no vote if only one class was measured on it, or if its weight is 0; a tie goes to the smaller class.
    arm_class [arms] is the class row of each arm; errors are finite; `error`: `point_errors`, if they were computed
    before.
    """
    K, P = int(arm_class.max()) + 1, len(record["levels"])
    error, row, point = class_point_errors(record, arm_class, loss, error)
    counted = np.bincount(point, minlength=P) > 1  # at least one class was measured on each point
    if "weights" in record:
        counted &= np.asarray(record["weights"]) > 0

    smallest = np.full(P, np.inf)
    np.minimum.at(smallest, point, error)
    best = np.flatnonzero(error == smallest[point])  # several at a point if errors are equal
    first = np.full(P, K)
    np.minimum.at(first, point[best], row[best])
    return np.bincount(first[counted], minlength=K)


def paired(a: np.ndarray, b: np.ndarray) -> tuple[float, tuple[float, float], float]:
    """How much more often b is right than a on the same images, its 95% interval, and p; hits [n] bool.

    The interval is Bonett and Price's (2012): Wald's after adding one image that only a has right and one that only b
    has right. p is McNemar's exact test: among the images that only one has right, either is equally likely.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    n, only_a, only_b = len(a), int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = Z95 * np.sqrt((p + q - (q - p) ** 2) / (n + 2))
    exact = binomtest(only_b, only_a + only_b).pvalue if only_a + only_b else 1.0
    return (only_b - only_a) / n, (max(-1.0, float(q - p - half)), min(1.0, float(q - p + half))), float(exact)


def margin(errors: np.ndarray) -> float:
    """How much larger the second smallest mean error is than the smallest, relatively; inf if there is only one."""
    best, *others = np.sort(errors)
    return float(others[0] / best - 1) if others else np.inf


def rescore(record: dict, arm_class: np.ndarray, loss: str, among: np.ndarray | None = None) -> int:
    """The class row with the smallest mean error of a loss, of the classes measured furthest. InputError: no such loss.

    With `among` [K] bool, only these classes compete.
    """
    if loss not in record["losses"]:
        raise InputError(f"loss {loss!r}", f"a record has {', '.join(record['losses'])}")
    errors, points = class_errors(record, arm_class, loss)
    return best_row(errors, points if among is None else np.where(among, points, -1))


def best_row(errors: np.ndarray, points: np.ndarray) -> int:
    """The row with the smallest mean error, of those with the most points; both [K], as from `class_errors`."""
    return int(np.argmin(np.where(points == points.max(), errors, np.inf)))


# ---- matching: errors of captions under images; `right` [captions(, images)] bool says which belong together ----

# A margin is by how much the worst right caption or image beats the best wrong one, as a difference of errors: it is
# right if the margin is above 0, so a tie is wrong. nan: the item has no such question.


def text_margin(errors: list[np.ndarray], right: np.ndarray) -> float:
    """By how much an image prefers each of its right captions to each wrong one; errors [captions] of [points].

    A race measures captions at prefixes of the same points and drops those that have lost. So a right caption beats
    those dropped before it, and those that are worse at the right one's points; inf if all others were dropped before.
    """
    margins = []
    for k in np.flatnonzero(right):
        n = len(errors[k])
        for other in np.flatnonzero(~right):
            dropped = len(errors[other]) < n
            margins.append(np.inf if dropped else errors[other][:n].mean() - errors[k].mean())
    return float(min(margins, default=np.nan))


def image_margin(errors: np.ndarray, right: np.ndarray) -> float:
    """By how much each caption that is right for exactly one of several images prefers that image to the others.

    errors [captions, images]. All images must have been measured at the same points.
    """
    margins = []
    for of_caption, is_right in zip(errors, right, strict=True):
        if is_right.sum() == 1 and len(is_right) > 1:
            margins += (of_caption[~is_right] - of_caption[is_right]).tolist()
    return float(min(margins, default=np.nan))


def clusters(keys: list[list]) -> np.ndarray:
    """The number of each item's cluster: items that share a key, directly or through others, are one cluster.

    keys: n lists of hashable things -> [n]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    different = dict.fromkeys(key for each in keys for key in each)
    node = {key: len(keys) + k for k, key in enumerate(different)}  # items come first
    edges = [(k, node[key]) for k, each in enumerate(keys) for key in each]
    row, column = np.array(edges, dtype=int).reshape(-1, 2).T
    size = len(keys) + len(node)
    graph = coo_array((np.ones(len(edges)), (row, column)), (size, size))
    _, cluster = connected_components(graph, directed=False)
    return cluster[: len(keys)]


def share_of_clusters(hits: np.ndarray, cluster: np.ndarray) -> tuple[float, tuple[float, float]]:
    """As `share`, if items of a cluster [n] may be alike: Wilson's interval at the effective number of items.

    The effective number is p (1 - p) / var, at most n, times (z / t)^2 for the degrees of freedom of C clusters, with
    the variance of a ratio between clusters, C / (C - 1) sum_c (h_c - p m_c)^2 / n^2, h_c hits of m_c items (Korn and
    Graubard, 1998; Dean and Pagano, 2015). If all or none are right, this variance is 0 and has no information: then
    items of a cluster count as one, n^2 / sum_c m_c^2. If no two items share a cluster, it is Wilson's interval.
    """
    _, at, m = np.unique(cluster, return_inverse=True, return_counts=True)
    n, C = len(hits), len(m)
    if n == C:
        return share(hits)
    p, h = float(np.mean(hits)), np.bincount(at, hits)
    variance = C / max(C - 1, 1) * np.sum((h - p * m) ** 2) / n**2
    if p in (0, 1) or C == 1:
        return p, wilson(p, n**2 / np.sum(m**2))
    effective = min(n, p * (1 - p) / variance) if variance else n
    return p, wilson(p, effective * (Z95 / stdtrit(C - 1, 0.975)) ** 2)
