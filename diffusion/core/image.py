"""One image: a search over errors, and the record of it."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffusion.core.batching import Block
from diffusion.core.constants import LOSSES
from diffusion.core.search import Search
from diffusion.stats.metrics import class_errors, class_means, errors_of_class, margin, nearest_other, pair_squares


@dataclass(frozen=True)
class Measured:
    """What was measured on one image: for each arm, its errors at a prefix of the points."""

    winner: int  # the winning class, as a row of the classes that the search was given
    decided: bool  # whether the search came to its end, rather than to its budget's
    margin: float  # how much larger the next class's mean error is, relatively; inf if no other came as far
    levels: Tensor  # [P] int64, the level of each point, in evaluation order
    rows: Tensor  # [P] int64, its noise draw
    counts: Tensor  # [arms] int64, how many leading points each arm was measured on
    errors: Tensor  # [sum(counts), k] float32, arm by arm; the first columns are LOSSES
    weights: Tensor  # [P] float64, what an error counted at each point
    signs: Tensor | None = None  # [P] int8, 1 or -1: a point's noise is its draw times this; None: the draw itself
    squares: tuple[float, float] = (0.0, 0.0)  # metrics.pair_squares of the winner and the class that came next

    @property
    def nfe(self) -> int:
        """Network evaluations spent: one for one arm at one point."""
        return int(self.counts.sum())

    def record(self, **about) -> dict:
        """What is saved: `about` the image, then the measurements."""
        more = {} if (self.weights == 1).all() else {"weights": self.weights}
        if self.signs is not None:
            between, within = self.squares
            more |= {"signs": self.signs, "between_pairs": between, "within_pairs": within}
        return about | {
            "nfe": self.nfe,
            "decided": self.decided,
            "margin": self.margin,
            "losses": list(LOSSES),
            "levels": self.levels,
            "noise": self.rows,
            "counts": self.counts,
            "errors": self.errors,
            **more,
        }


def map_between(measured: Measured, arm_class: np.ndarray, shape: tuple[int, int]) -> dict:
    """What a record keeps of the squared errors at each place (errors.with_map), shape [h, w] of the latent.

    `map` [h, w] float16: by how much the rival's error is larger there than the winner's, a mean over channels and over
    the points that both were measured on, times their weights; its mean over places is the rival's excess. `map_of`:
    the rows of winner and rival, which is the class that came next as far, and of those the best. `errors`: the losses.
    """
    record = measured.record()
    rival = nearest_other(record, arm_class, measured.winner, "l2")
    n = class_errors(record, arm_class, "l2")[1][rival]
    arms = measured.errors[:, len(LOSSES) :].split(measured.counts.tolist())  # of each [its points, h w]
    own, other = (
        torch.stack([arms[arm][:n] for arm in np.flatnonzero(arm_class == k)]).double().mean(0)
        for k in (measured.winner, rival)
    )
    difference = (measured.weights[:n, None] * (other - own)).mean(0)
    return {
        "map": difference.reshape(shape).half(),
        "map_of": [measured.winner, rival],
        "errors": measured.errors[:, : len(LOSSES)].clone(),
    }


def search_image(
    x: Tensor,
    conditions,
    arm_class: np.ndarray,
    start: Callable[[np.ndarray], Search],
    levels: np.ndarray,
    rows: np.ndarray,
    noise,
    *,
    loss: str,
    signs: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    among: np.ndarray | None = None,
    loras: Sequence[tuple[str, ...]] | None = None,
) -> Generator[Block, Tensor, Measured]:
    """Run a search on one image, as a task for `errors.together`.

    x [c, h, w] clean latent; conditions of all arms; arm_class [arms] the class (row) of each arm; the points, shared
    by all arms: levels [P] and rows [P], the draws of `noise`, and signs [P] of these if there are any (see
    errors.Block). The error of a class at a point is the mean over its arms, so that a class never wins by having more
    of them. `loss` decides, times the `weights` [T] of the levels if there are any; all is returned, unweighted.
    `start(among)` gives the search, between the classes `among`, ascending rows, default all of them; others are not
    measured. `loras` as in errors.Block.
    """
    among = np.arange(arm_class.max() + 1) if among is None else among
    search = start(among)
    weights = np.ones(len(levels)) if weights is None else weights[levels]  # [P]
    levels, rows = torch.as_tensor(levels), torch.as_tensor(rows)
    signs = None if signs is None else torch.as_tensor(signs, dtype=torch.int8)
    parts = [[] for _ in arm_class]  # per arm, its errors [new points, k] stage by stage
    seen = np.zeros(arm_class.max() + 1, dtype=int)  # points of each class
    try:
        places, end = next(search)
        while True:
            classes = among[places]
            new = slice(seen[classes[0]], end)
            seen[classes] = end
            arms = np.flatnonzero(np.isin(arm_class, classes))
            of_points = None if signs is None else signs[new]
            errors = yield Block(x, conditions, arms, levels[new], rows[new], noise, loras, of_points)
            for arm, block in zip(arms, errors, strict=True):
                parts[arm].append(block)
            deciding = errors[..., LOSSES.index(loss)].numpy() * weights[new]  # [arms, new points]
            places, end = search.send(class_means(deciding, arm_class[arms]))
    except StopIteration as stop:
        winner, *others = among[stop.value].tolist()
    counts, P = torch.from_numpy(seen[arm_class]), seen.max()
    errors = torch.cat([block for blocks in parts for block in blocks])
    found = {"counts": counts, "losses": LOSSES, "errors": errors, "weights": torch.from_numpy(weights[:P])}
    means, points = class_errors(found, arm_class, loss)
    closest = margin(means[points == P])
    measured = Measured(winner, not others, closest, levels[:P], rows[:P], counts, errors, found["weights"])
    if signs is None:
        return measured
    measured = replace(measured, signs=signs[:P])
    return replace(measured, squares=_squares(measured, arm_class, loss))


def _squares(measured: Measured, arm_class: np.ndarray, loss: str) -> tuple[float, float]:
    """metrics.pair_squares of the error of the class that came next less the winner's, at the pairs of both.

    A pair is a point of sign 1 and the next one, of sign -1: the last point of an odd stage is alone.
    """
    record = measured.record()
    if len(np.unique(arm_class[record["counts"].numpy() > 0])) < 2:
        return 0.0, 0.0
    rival = nearest_other(record, arm_class, measured.winner, loss)
    own, other = (errors_of_class(record, arm_class, k, loss) for k in (measured.winner, rival))
    n = min(len(own), len(other))
    signs, levels = measured.signs[:n].numpy(), measured.levels[:n].numpy()
    first = np.flatnonzero((signs[:-1] == 1) & (signs[1:] == -1))
    paired = np.stack([first, first + 1], 1).ravel()
    return pair_squares((other[:n] - own[:n])[paired], levels[paired])
