"""One image: a search over errors, and the record of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import LOSSES, measure, plain
from diffusion.search import Search


@dataclass(frozen=True)
class Measured:
    """What was measured on one image: for each arm, its errors at a prefix of the points."""

    winner: int  # the winning class, as a row of the classes that the search was given
    levels: Tensor  # [P] int64, the level of each point, in evaluation order
    counts: Tensor  # [arms] int64, how many leading points each arm was measured on
    errors: Tensor  # [sum(counts), k] float32, arm by arm; the first columns are LOSSES

    @property
    def nfe(self) -> int:
        """Network evaluations spent: one for one arm at one point."""
        return int(self.counts.sum())

    def record(self, rows: np.ndarray, **about) -> dict:
        """What is saved: `about` the image, then the measurements; rows [>= P] is the noise draw of each point."""
        return about | {
            "nfe": self.nfe,
            "losses": list(LOSSES),
            "levels": self.levels,
            "noise": torch.as_tensor(rows[: len(self.levels)]),
            "counts": self.counts,
            "errors": self.errors,
        }


def classify(
    model, x: Tensor, conditions, arm_class: np.ndarray, search: Search, levels: np.ndarray, noise: Tensor, *,
    loss: str, batch_size: int, keep: Callable = plain,
) -> Measured:  # fmt: skip
    """Run a search on one image.

    x [c, h, w] clean latent; conditions of all arms; arm_class [arms] the class (row) of each arm; levels [P] and
    noise [P, c, h, w] the points, shared by all arms. The error of a class at a point is the mean over its arms, so
    that a class never wins by having more of them. `loss` decides; all that `keep` keeps (see errors.py) is returned.
    """
    levels = torch.as_tensor(levels)
    parts = [[] for _ in arm_class]  # per arm, its errors [new points, 3] stage by stage
    seen = 0
    try:
        classes, end = next(search)
        while True:
            arms = np.flatnonzero(np.isin(arm_class, classes))
            points = slice(seen, end)
            errors = measure(
                model, x, conditions[arms], levels[points], noise[points], batch_size=batch_size, keep=keep
            )
            for arm, block in zip(arms, errors, strict=True):
                parts[arm].append(block)
            seen = end
            classes, end = search.send(class_means(errors[..., LOSSES.index(loss)].numpy(), arm_class[arms]))
    except StopIteration as stop:
        winner = int(stop.value[0])
    counts = torch.tensor([sum(map(len, blocks)) for blocks in parts])
    return Measured(winner, levels[:seen], counts, torch.cat([block for blocks in parts for block in blocks]))


def class_means(errors: np.ndarray, arm_class: np.ndarray) -> np.ndarray:
    """Mean over the arms of each class, classes ascending: errors [arms, ...], arm_class [arms] -> [classes, ...]."""
    _, row, size = np.unique(arm_class, return_inverse=True, return_counts=True)
    if len(size) == len(arm_class):  # one arm a class: nothing to average, and no rounding
        return errors[np.argsort(row)]
    total = np.zeros((len(size), *errors.shape[1:]))
    np.add.at(total, row, errors)
    return total / size.reshape(-1, *[1] * (errors.ndim - 1))
