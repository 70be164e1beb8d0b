"""Noise fitted to a few labelled images: draws under which the right class has the smallest error after few points."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.core.batching import CPU_ROWS, Block, Task, errors_of_call, together
from diffusion.core.conditions import Conditions
from diffusion.core.constants import LOSSES
from diffusion.core.losses import losses_only
from diffusion.stats.calibration import fit_temperature

IMAGES = 16  # of a step
NEAR = 6  # a step's rivals are drawn from so many classes, those that came nearest before the fit
RIVALS = 2


@dataclass(frozen=True)
class Shots:
    """Labelled images, and the classes that compete for them."""

    x: Tensor  # [n, c, h, w] latents
    label: np.ndarray  # [n] rows of the conditions
    conditions: Conditions  # of the classes, one row each


@dataclass(frozen=True)
class FitOptions:
    loss: str
    batch_size: int  # evaluations in one network call
    steps: int
    lr: float  # learning rate at its highest
    seed: int  # of the order of images, rivals and numbers of points


def errors_before(
    model, shots: Shots, levels: np.ndarray, noise: Tensor, options: FitOptions, spent: Callable[[int], None]
) -> np.ndarray:
    """Errors [n, classes, P] of the shots under all conditions, at levels [P] with noise [P, c, h, w].

    `spent` is called with the NFE of each network call.
    """
    everything = np.arange(len(shots.conditions))

    def task(k: int) -> Task:
        found = yield block(shots.x[k], shots.conditions, everything, levels, noise)
        return k, found[..., LOSSES.index(options.loss)].numpy()

    tasks = map(task, range(len(shots.x)))
    found = dict(together(model, tasks, batch_size=options.batch_size, spent=spent))
    return np.stack([found[k] for k in range(len(shots.x))])


def block(x: Tensor, conditions: Conditions, arms: np.ndarray, levels: np.ndarray, noise: Tensor) -> Block:
    """Some arms of an image, each level with the draw of its place."""
    return Block(x, conditions, arms, torch.as_tensor(levels), torch.arange(len(levels)), noise)


def fit_noise(
    model,
    shots: Shots,
    levels: np.ndarray,
    noise: Tensor,
    before: np.ndarray,
    options: FitOptions,
    report: Callable[[float], None] = lambda cost: None,
) -> Tensor:
    """The noise [P, c, h, w] of the points under which labels are likeliest, begun at `noise`.

        cost = -log softmax_k(-e_k / T) at the label,   e_k the mean error of class k at the first p points

    of IMAGES images, against RIVALS classes each, at p = 1, 2, 4, ... or P points, drawn anew for each step of Adam,
    with cosine learning-rate decay; so that the first few points already classify well. The temperature T is fitted to
    the errors `before` [n, classes, P] under `noise`, and stays.

    levels [P] in the order of measurement; `report` is called with the cost of each step.
    """
    rng = np.random.default_rng(options.seed)
    label, P = shots.label, len(levels)
    means = before.mean(2, dtype=np.float64)  # [n, classes]
    temperature = fit_temperature(means.min(1, keepdims=True) - means, label)
    means[np.arange(len(label)), label] = np.inf
    near = means.argsort(1)[:, : min(NEAR, means.shape[1] - 1)]

    noise = noise.clone().requires_grad_()
    adam = torch.optim.Adam([noise], options.lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.steps)
    lengths = [2**k for k in range((P - 1).bit_length())] + [P]
    queue = np.empty(0, dtype=int)
    for _ in range(options.steps):
        while len(queue) < IMAGES:
            queue = np.concatenate([queue, rng.permutation(len(shots.x))])
        images, queue = queue[:IMAGES], queue[IMAGES:]
        rivals = rng.permuted(near[images], axis=1)[:, :RIVALS]
        p = rng.choice(lengths)
        arms = np.column_stack([label[images], rivals])
        report(_add_gradient(model, shots, images, arms, levels[:p], noise, temperature, options))
        adam.step()
        slower.step()
    return noise.detach()


def _add_gradient(
    model,
    shots: Shots,
    images: np.ndarray,
    arms: np.ndarray,
    levels: np.ndarray,
    noise: Tensor,
    temperature: float,
    options: FitOptions,
) -> float:
    """Set the gradient of the noise to that of a step's cost, and return the cost.

    arms [images, 1 + RIVALS] of each image, the label first; levels [p] of the first points.
    """
    noise.grad, total = torch.zeros_like(noise), 0.0
    calls = min(len(images), -(-arms.size * len(levels) // options.batch_size))
    for part in np.array_split(np.arange(len(images)), calls):
        blocks = [block(shots.x[images[k]], shots.conditions, arms[k], levels, noise) for k in part]
        rows = errors_of_call(model, [(each, 0, len(each)) for each in blocks], CPU_ROWS, losses_only)
        errors = rows[:, LOSSES.index(options.loss)].view(len(part), len(levels), -1).mean(1)  # [images, arms]
        right = torch.zeros(len(part), dtype=torch.long, device=errors.device)
        cost = F.cross_entropy(-errors / temperature, right, reduction="sum") / len(images)
        noise.grad += torch.autograd.grad(cost, [noise])[0]  # no gradient of the network's weights is wanted
        total += cost.item()
    return total
