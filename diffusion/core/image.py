"""One image: a search over errors, and the record of it."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.core.batching import Block
from diffusion.core.conditions import Conditions
from diffusion.core.constants import LOSSES
from diffusion.core.schedule import Points
from diffusion.core.search import Search, check_end, check_step
from diffusion.stats.metrics import class_errors, class_means, errors_of_class, margin, nearest_other, pair_squares


@dataclass(frozen=True)
class Question:
    """One image, and the candidates that compete for it."""

    x: Tensor  # [c, h, w] clean latent
    conditions: Conditions  # of all arms
    arm_class: np.ndarray  # [arms] the class of each arm, a row 0..K-1
    start: Callable[[np.ndarray], Search]  # start(among) is the search between the classes `among`
    noise: Any  # a bank [n, c, h, w], or an object that returns such when indexed by draws (noise.ImageNoise)
    among: np.ndarray | None = None  # ascending rows of the classes that compete; None: all


@dataclass(frozen=True)
class Measured:
    """What was measured on one image: for each arm, its errors at a prefix of the points."""

    winner: int  # the winning class, a row 0..K-1 of all classes
    decided: bool  # whether the search came to its end, not to its budget's, and no other class has the same error
    margin: float  # how much larger the next class's mean error is, relatively; inf if no other came as far
    levels: Tensor  # [P] int64, the level of each point, in evaluation order
    draws: Tensor  # [P] int64, its noise draw
    counts: Tensor  # [arms] int64, how many leading points each arm was measured on
    errors: Tensor  # [sum(counts), k] float32, arm by arm; the first columns are LOSSES
    weights: Tensor  # [P] float64, what an error counted at each point
    signs: Tensor | None = None  # [P] int8, 1 or -1: a point's noise is its draw times this; None: the draw itself
    squares: tuple[float, float] = (0.0, 0.0)  # metrics.pair_squares of the winner and the class that came next

    @property
    def nfe(self) -> int:
        """Network evaluations spent: one for one arm at one point."""
        return int(self.counts.sum())

    def record(self, **fields) -> dict:
        """What is saved: `fields` about the image, then the measurements."""
        more: dict = {}
        if (self.weights != 1).any():
            more["weights"] = self.weights
        if self.signs is not None:
            between, within = self.squares
            more |= {"signs": self.signs, "between_pairs": between, "within_pairs": within}
        return fields | {
            "nfe": self.nfe,
            "decided": self.decided,
            "margin": self.margin,
            "losses": list(LOSSES),
            "levels": self.levels,
            "noise": self.draws,
            "counts": self.counts,
            "errors": self.errors,
            **more,
        }


def map_between(measured: Measured, arm_class: np.ndarray, shape: tuple[int, int]) -> dict:
    """The part of a record that --save_maps adds, from errors kept by losses.with_map; shape [h, w] of the latent.

    `map` [h, w] float16: the rival's squared error less the winner's at each place, a mean over channels and over the
    points measured for both, times their weights; the mean over places is the rival's excess. `map_of`: the rows of
    winner and rival, which is the best of the classes that came next as far. `errors`: the losses alone.
    """
    record = measured.record()
    rival = nearest_other(record, arm_class, measured.winner, "l2")
    n = class_errors(record, arm_class, "l2")[1][rival]
    maps = measured.errors[:, len(LOSSES) :].split(measured.counts.tolist())  # per arm [its points, h w]

    def mean_map(row: int) -> Tensor:
        arms = np.flatnonzero(arm_class == row)
        return torch.stack([maps[arm][:n] for arm in arms]).double().mean(0)  # [n, h w]

    difference = measured.weights[:n, None] * (mean_map(rival) - mean_map(measured.winner))
    return {
        "map": difference.mean(0).reshape(shape).half(),
        "map_of": [measured.winner, rival],
        "errors": measured.errors[:, : len(LOSSES)].clone(),
    }


def search_image(question: Question, points: Points, *, loss: str) -> Generator[Block, Tensor, Measured]:
    """Answer a question by a search over errors at the points, as a task for `batching.together`.

    The error of a class at a point is the mean over its arms, so a class never wins by having more of them. The search
    is sent errors under `loss`, times the weights of the points; Measured has those of all losses, without weights.
    ValueError: the search breaks a rule of core.search.
    """
    arm_class = question.arm_class
    n_classes = arm_class.max() + 1
    among = np.arange(n_classes) if question.among is None else question.among
    search = question.start(among)
    if not isinstance(search, Generator):
        raise ValueError(f"a search is a {type(search).__name__}; wanted a generator, which yields (classes, points)")
    levels, draws = torch.as_tensor(points.levels), torch.as_tensor(points.draws)
    signs = None
    if points.signs is not None:
        signs = torch.as_tensor(points.signs, dtype=torch.int8)
    parts: list[list[Tensor]] = [[] for _ in arm_class]  # per arm, its errors [new points, k] stage by stage
    seen = np.zeros(n_classes, dtype=int)  # points of each class
    try:
        step = next(search)
        while True:
            places, end = check_step(step, seen[among], len(levels))
            classes = among[places]
            new = slice(seen[classes[0]], end)
            seen[classes] = end
            arms = np.flatnonzero(np.isin(arm_class, classes))
            errors = yield Block(
                question.x,
                question.conditions,
                arms,
                levels[new],
                draws[new],
                question.noise,
                None if signs is None else signs[new],
            )
            for arm, block in zip(arms, errors, strict=True):
                parts[arm].append(block)
            deciding = errors[..., LOSSES.index(loss)].numpy() * points.weights[new]  # [arms, new points]
            step = search.send(class_means(deciding, arm_class[arms]))
    except StopIteration as stop:
        left = stop.value
    winner, *others = among[check_end(left, seen[among])].tolist()
    n_points = seen.max()
    counts = torch.from_numpy(seen[arm_class])
    errors = torch.cat([block for blocks in parts for block in blocks])
    weights = torch.from_numpy(points.weights[:n_points])
    found = {"counts": counts, "losses": LOSSES, "errors": errors, "weights": weights}
    mean_errors, class_points = class_errors(found, arm_class, loss)
    ahead = margin(mean_errors[class_points == n_points])
    measured = Measured(
        winner,
        not others and ahead != 0,  # with equal errors the order of the classes chose the winner
        ahead,
        levels[:n_points],
        draws[:n_points],
        counts,
        errors,
        weights,
    )
    if signs is None:
        return measured
    measured = replace(measured, signs=signs[:n_points])
    return replace(measured, squares=_squares(measured, arm_class, loss))


def _squares(measured: Measured, arm_class: np.ndarray, loss: str) -> tuple[float, float]:
    """metrics.pair_squares of the runner-up's error less the winner's, at the pairs of points measured for both.

    A pair is a point of sign 1 and the next one, of sign -1; the last point of an odd stage is in no pair.
    """
    record = measured.record()
    if len(np.unique(arm_class[record["counts"].numpy() > 0])) < 2:
        return 0.0, 0.0
    rival = nearest_other(record, arm_class, measured.winner, loss)
    winner_errors = errors_of_class(record, arm_class, measured.winner, loss)
    rival_errors = errors_of_class(record, arm_class, rival, loss)
    n = min(len(winner_errors), len(rival_errors))
    signs, levels = record["signs"][:n].numpy(), record["levels"][:n].numpy()
    first = np.flatnonzero((signs[:-1] == 1) & (signs[1:] == -1))
    paired = np.stack([first, first + 1], 1).ravel()
    return pair_squares((rival_errors[:n] - winner_errors[:n])[paired], levels[paired])
