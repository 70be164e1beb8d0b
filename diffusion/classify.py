"""One image: a search over errors, and the record of it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import LOSSES, measure
from diffusion.search import Search


@dataclass(frozen=True)
class Measured:
    """What was measured on one image: for each arm, its errors at a prefix of the points."""

    winner: int  # the winning class, as a row of the classes that the search was given
    levels: Tensor  # [P] int64, the level of each point, in evaluation order
    counts: Tensor  # [arms] int64, how many leading points each arm was measured on
    errors: Tensor  # [sum(counts), 3] float32, arm by arm

    @property
    def nfe(self) -> int:
        """Network evaluations spent: one for one arm at one point."""
        return int(self.counts.sum())


def classify(
    model, x: Tensor, conditions, arm_class: np.ndarray, search: Search, levels: np.ndarray, noise: Tensor, *,
    loss: str, batch_size: int,
) -> Measured:  # fmt: skip
    """Run a search on one image.

    x [c, h, w] clean latent; conditions of all arms; arm_class [arms] the class (row) of each arm; levels [P] and
    noise [P, c, h, w] the points, shared by all arms. The error of a class at a point is the mean over its arms, so
    that a class never wins by having more of them. `loss` decides; every loss is kept.
    """
    levels = torch.as_tensor(levels)
    parts = [[] for _ in arm_class]  # per arm, its errors [new points, 3] stage by stage
    seen = 0
    try:
        classes, end = next(search)
        while True:
            arms = np.flatnonzero(np.isin(arm_class, classes))
            errors = measure(model, x, conditions[arms], levels[seen:end], noise[seen:end], batch_size=batch_size)
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
