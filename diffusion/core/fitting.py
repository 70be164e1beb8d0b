"""Noise fitted to a few labelled images: draws under which the right class has the smallest error after few points."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.core.batching import CPU_ROWS, Block, Task, differentiable, together
from diffusion.core.constants import LOSSES
from diffusion.core.losses import plain
from diffusion.stats.calibration import fit_temperature

IMAGES = 16  # of a step
NEAR = 6  # a step's rivals are drawn from so many classes, those that came nearest before the fit
RIVALS = 2


def errors_before(
    model,
    x: Tensor,
    conditions: Tensor,
    levels: np.ndarray,
    noise: Tensor,
    *,
    loss: str,
    batch_size: int,
    spent: Callable,
) -> np.ndarray:
    """Errors [n, arms, P] of latents x [n, c, h, w] under all conditions, at levels [P] with noise [P, c, h, w].

    batch_size and spent as in errors.together.
    """

    def task(k: int) -> Task:
        found = yield block(x[k], conditions, np.arange(len(conditions)), levels, noise)
        return k, found[..., LOSSES.index(loss)].numpy()

    found = dict(together(model, map(task, range(len(x))), batch_size=batch_size, spent=spent))
    return np.stack([found[k] for k in range(len(x))])


def block(x: Tensor, conditions: Tensor, arms: np.ndarray, levels: np.ndarray, noise: Tensor) -> Block:
    """Some arms of an image, each level with the draw of its place."""
    return Block(x, conditions, arms, torch.as_tensor(levels), torch.arange(len(levels)), noise)


def fit_noise(
    model,
    x: Tensor,
    label: np.ndarray,
    conditions: Tensor,
    levels: np.ndarray,
    noise: Tensor,
    before: np.ndarray,
    *,
    loss: str,
    steps: int,
    lr: float,
    seed: int,
    batch_size: int,
    told: Callable[[float], None] = lambda cost: None,
) -> Tensor:
    """The noise [P, c, h, w] of the points under which labels are likeliest, begun at `noise`.

        cost = -log softmax_k(-e_k / T) at the label,   e_k the mean error of class k at the first p points

    of IMAGES images, against RIVALS classes each, at p = 1, 2, 4, ... or P points, drawn anew for each step of Adam
    (its rate falls to 0 as a cosine): so few points decide as well as may be, and each is of use to those after it. T
    is fitted to the errors `before` [n, classes, P] under `noise`, and stays.

    x [n, c, h, w], label [n] rows of the conditions [classes, ...], levels [P] in the order of measurement; `told` is
    called with the cost of each step.
    """
    rng = np.random.default_rng(seed)
    P, means = len(levels), before.mean(2, dtype=np.float64)
    temperature = fit_temperature(means.min(1, keepdims=True) - means, label)
    means[np.arange(len(label)), label] = np.inf
    near = means.argsort(1)[:, : min(NEAR, means.shape[1] - 1)]
    noise = noise.clone().requires_grad_()
    adam = torch.optim.Adam([noise], lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    lengths = [*(2**k for k in range(P.bit_length()) if 2**k < P), P]
    queue = np.empty(0, dtype=int)
    for _ in range(steps):
        while len(queue) < IMAGES:
            queue = np.concatenate([queue, rng.permutation(len(x))])
        of, queue = queue[:IMAGES], queue[IMAGES:]
        rivals = rng.permuted(near[of], axis=1)[:, :RIVALS]
        p = rng.choice(lengths)
        arms = np.column_stack([label[of], rivals])
        noise.grad, total = torch.zeros_like(noise), 0.0
        calls = min(IMAGES, -(-IMAGES * arms.shape[1] * p // batch_size))
        for part in np.array_split(np.arange(IMAGES), calls):
            blocks = [
                block(x[k], conditions, arm, levels[:p], noise) for k, arm in zip(of[part], arms[part], strict=True)
            ]
            rows = differentiable(model, [(each, 0, len(each)) for each in blocks], CPU_ROWS, plain)
            found = rows[:, LOSSES.index(loss)].view(len(part), p, -1).mean(1)  # [images, arms]
            right = torch.zeros(len(part), dtype=torch.long, device=found.device)
            cost = F.cross_entropy(-found / temperature, right, reduction="sum") / IMAGES
            noise.grad += torch.autograd.grad(cost, [noise])[0]  # of the weights, none is wanted
            total += cost.item()
        adam.step()
        slower.step()
        told(total)
    return noise.detach()
