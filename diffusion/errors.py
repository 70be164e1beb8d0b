"""The kernel: how badly the network, told each arm, predicts what it was trained to predict, at shared points."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = ("l2", "l1", "huber")  # the last axis of every error tensor; all three come from one network call
CPU_ROWS = 16  # matrix kernels for fewer rows than this round differently: a CPU's network never sees so few


def losses(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over c, h, w of d^2, |d| and Huber(d) (delta 1), d = prediction - target, in float32.

    prediction [p, a, c, h, w], target [p, c, h, w] -> [p, a, 3]
    """
    prediction = prediction.float()
    target = target.float()[:, None].expand_as(prediction)
    mean = (-3, -2, -1)
    return torch.stack([
        F.mse_loss(prediction, target, reduction="none").mean(mean),
        F.l1_loss(prediction, target, reduction="none").mean(mean),
        F.huber_loss(prediction, target, reduction="none").mean(mean),
    ], -1)  # fmt: skip


@torch.inference_mode()
def measure(model, x: Tensor, conditions, levels: Tensor, noise: Tensor, *, batch_size: int) -> Tensor:
    """Errors of every arm at every point, ||target - network(z_i, i, c)|| under each loss.

    x [c, h, w] clean latent; conditions of a arms; levels [p] and noise [p, c, h, w], one row a point, shared by all
    arms -> [a, p, 3] float32 on the CPU. About `batch_size` evaluations go through the network at once, whole points
    while that fits; on a CPU the answer is the same bits for any batch size. Costs a * p NFE.
    """
    arms, points = len(conditions), len(levels)
    assert noise.shape == (points, *x.shape), f"noise {tuple(noise.shape)} for {points} points of {tuple(x.shape)}"
    x, noise = x.float(), noise.to(x.device, torch.float32)  # levels stay on the host, where the tables are
    errors = torch.empty(arms, points, len(LOSSES), device=x.device)
    rows = CPU_ROWS if x.device.type == "cpu" else 1
    most = max(batch_size, rows)
    a_step = math.ceil(arms / math.ceil(arms / most))  # blocks of equal size: 37 arms as 19 + 18, not 32 + 5
    p_step = most // arms or 1
    for p in range(0, points, p_step):
        i, eps = levels[p : p + p_step], noise[p : p + p_step]
        z, target = model.process.noised(x, eps, i), model.process.target(x, eps, i)
        for a in range(0, arms, a_step):
            block = conditions[a : a + a_step]
            pad = max(0, -(-rows // len(block)) - len(i))  # rows too few: the last point again, its answers dropped
            shown = torch.arange(len(i) + pad).clamp(max=len(i) - 1) if pad else slice(None)
            prediction = model.denoise(z[shown], i[shown], block)[: len(i)]  # [p, a, c, h, w]
            errors[a : a + a_step, p : p + p_step] = losses(prediction, target).transpose(0, 1)
    return errors.cpu()  # the one copy, and the one wait, of the whole block
