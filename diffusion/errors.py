"""The kernel: how badly the network, told each arm, predicts what it was trained to predict, at shared points."""

import math
from collections.abc import Callable

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


def variational_bound(process, x: Tensor, eps: Tensor, i: Tensor, prediction: Tensor, variance: Tensor) -> Tensor:
    """The term of the variational bound at each point, in bits per dimension, for a network that learned its variance.

    Level i > 0: KL(q(z_{i-1} | z_i, x) || p(z_{i-1} | z_i)); level 0: -log p(x | z_0), a Gaussian integrated over bins
    of 2/255, the outer ones open beyond +-0.999 (arXiv 2006.11239, eqs. 5-8, 13). The log variance lies between those
    of the posterior (-1) and of the forward step (+1) (arXiv 2102.09672, eq. 15). For networks that predict epsilon.

    x [c, h, w] (or [p, 1, c, h, w]), eps [p, c, h, w], i [p], prediction and variance [p, a, c, h, w] -> [p, a]
    """
    abar = process.alpha**2
    before = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
    beta = 1 - abar / before  # [T], float64 like every table here
    posterior = beta * (1 - before) / (1 - abar)
    posterior[0] = posterior[1]  # level 0 has none; this is what the networks were trained with
    spread = beta.log() - posterior.log()

    def at(table: Tensor) -> Tensor:
        return table[i.cpu()].to(torch.float32).to(eps.device)[:, None, None, None, None]

    eps, prediction, variance = eps.float()[:, None], prediction.float(), variance.float()
    wider = at(spread) * (variance + 1) / 2  # log variance above the posterior's
    step = beta / (process.sigma * (1 - beta).sqrt())  # an error in eps, as an error in the mean
    kl = 0.5 * (wider + torch.expm1(-wider) + at(step**2 / posterior) * (prediction - eps) ** 2 * torch.exp(-wider))
    bound = kl.mean((-3, -2, -1))
    if (first := (i == 0).to(eps.device)).any():
        off = (at(step) * (prediction - eps))[first]  # x - mean
        sd = torch.exp((at(posterior.log()) + wider)[first] / 2)
        x = x.float().expand_as(prediction)[first]
        low, high = (off - 1 / 255) / sd, (off + 1 / 255) / sd
        low, high = torch.where(off > 0, -high, low), torch.where(off > 0, -low, high)  # the lower tail keeps digits
        a, b = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
        log_p = b + torch.log(-torch.expm1(a - b))
        log_p = torch.where(x < -0.999, torch.special.log_ndtr((off + 1 / 255) / sd), log_p)
        log_p = torch.where(x > 0.999, torch.special.log_ndtr((1 / 255 - off) / sd), log_p)
        bound[first] = -log_p.mean((-3, -2, -1))
    return bound / math.log(2)


# What `measure` keeps of the network's answers [p, a, c or 2c, h, w]: functions of (process, x [c, h, w],
# eps [p, c, h, w], i [p], answer) -> [p, a, k], whose first three columns are the losses.


def plain(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses. [p, a, 3]"""
    return losses(answer[:, :, : len(x)], process.target(x, eps, i))


def with_bound(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses and the term of the variational bound. [p, a, 4]"""
    prediction, variance = answer.chunk(2, 2)
    bound = variational_bound(process, x, eps, i, prediction, variance)
    return torch.cat([losses(prediction, process.target(x, eps, i)), bound[..., None]], -1)


def with_map(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses and the squared error at each place of the latent, its mean over channels. [p, a, 3 + h w]"""
    target = process.target(x, eps, i)[:, None]
    square = (answer[:, :, : len(x)].float() - target) ** 2
    return torch.cat([plain(process, x, eps, i, answer), square.mean(2).flatten(2)], -1)


def with_prediction(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses and what the network predicts. [p, a, 3 + c h w]"""
    return with_answer(process, x, eps, i, answer[:, :, : len(x)])


def with_answer(process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
    """The losses and all that the network says. [p, a, 3 + (c or 2c) h w]"""
    return torch.cat([plain(process, x, eps, i, answer), answer.float().flatten(2)], -1)


@torch.inference_mode()
def measure(
    model, x: Tensor, conditions, levels: Tensor, noise: Tensor, *, batch_size: int, keep: Callable = plain
) -> Tensor:
    """Errors of every arm at every point, ||target - network(z_i, i, c)|| under each loss.

    x [c, h, w] clean latent; conditions of a arms; levels [p] and noise [p, c, h, w], one row a point, shared by all
    arms -> [a, p, k] float32 on the CPU, where the k columns are what `keep` keeps: the losses, by default.
    About `batch_size` evaluations go through the network at once, whole points while that fits; on a CPU the answer is
    the same bits for any batch size. Costs a * p NFE.
    """
    arms, points = len(conditions), len(levels)
    assert noise.shape == (points, *x.shape), f"noise {tuple(noise.shape)} for {points} points of {tuple(x.shape)}"
    x, noise = x.float(), noise.to(x.device, torch.float32)  # levels stay on the host, where the tables are
    kept = []
    rows = CPU_ROWS if x.device.type == "cpu" else 1
    most = max(batch_size, rows)
    a_step = math.ceil(arms / math.ceil(arms / most))  # blocks of equal size: 37 arms as 19 + 18, not 32 + 5
    p_step = most // arms or 1
    for p in range(0, points, p_step):
        i, eps = levels[p : p + p_step], noise[p : p + p_step]
        z = model.process.noised(x, eps, i)
        for a in range(0, arms, a_step):
            block = conditions[a : a + a_step]
            pad = max(0, -(-rows // len(block)) - len(i))  # rows too few: the last point again, its answers dropped
            shown = torch.arange(len(i) + pad).clamp(max=len(i) - 1) if pad else slice(None)
            answer = model.denoise(z[shown], i[shown], block)[: len(i)]  # [p, a, c or 2c, h, w]
            kept.append(keep(model.process, x, eps, i, answer))
    blocks = math.ceil(arms / a_step)
    rows = [torch.cat(kept[k : k + blocks], 1) for k in range(0, len(kept), blocks)]
    return torch.cat(rows).transpose(0, 1).cpu()  # the one copy, and the one wait, of the whole block
