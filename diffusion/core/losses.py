"""Losses of a prediction, and the term of the variational bound: tensors in, tensors out."""

import math
import re
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.core.constants import LOSSES

NAME = r"\w[\w.+-]*"  # of a loss, as run.json may have it
TAKEN = ("vb", "cosine", "nll", "vote")  # columns of records that are no losses of a prediction

LOSS_OF: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # each of LOSSES -> its function, as add_loss takes it
    "l2": partial(F.mse_loss, reduction="none"),
    "l1": partial(F.l1_loss, reduction="none"),
    "huber": partial(F.huber_loss, reduction="none"),  # delta 1
}


def add_loss(name: str, loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Add a loss: from now on every error has it as a further column, and it may decide by its name.

    loss_of(prediction, target), both [n, c, h, w] float32 -> the loss at each place [n, c, h, w], whose mean is taken.
    Modules share the one list of names, so it does not matter which of them were imported before. ValueError: the name
    is taken, or could not stand in a file's name, or the function returns another shape.
    """
    if name in (*LOSSES, *TAKEN):
        raise ValueError(f"loss {name!r} is taken, as are {', '.join((*LOSSES, *TAKEN))}")
    if not re.fullmatch(NAME, name):
        raise ValueError(f"loss {name!r}: wanted letters, digits and . + - _, a letter or digit first")
    sample = torch.zeros(2, 3, 4, 5)
    found = loss_of(sample, sample).shape
    if found != sample.shape:
        raise ValueError(f"loss {name!r} gives {list(found)} for [2, 3, 4, 5]; wanted the loss at each place")
    LOSS_OF[name] = loss_of
    LOSSES.append(name)


def losses(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over c, h, w of d^2, |d| and Huber(d) (delta 1), d = prediction - target, in float32.

    prediction [n, c, h, w], target [n, c, h, w] -> [n, 3], or as many columns as there are LOSSES
    """
    prediction, target = prediction.float(), target.float()
    return torch.stack([LOSS_OF[name](prediction, target).mean((-3, -2, -1)) for name in LOSSES], -1)


def variational_bound(process, x: Tensor, eps: Tensor, i: Tensor, prediction: Tensor, variance: Tensor) -> Tensor:
    """The term of the variational bound at each point, in bits per dimension, for a network that learned its variance.

    Level i > 0: KL(q(z_{i-1} | z_i, x) || p(z_{i-1} | z_i)); level 0: -log p(x | z_0), a Gaussian integrated over bins
    of 2/255, the outer ones open beyond +-0.999 (arXiv 2006.11239, eqs. 5-8, 13). The log variance lies between those
    of the posterior (-1) and of the forward step (+1) (arXiv 2102.09672, eq. 15). For networks that predict epsilon.

    x, eps, prediction and variance [n, c, h, w], i [n] -> [n]
    """
    abar = process.alpha**2
    before = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
    beta = 1 - abar / before  # [T], float64 like every table here
    posterior = beta * (1 - before) / (1 - abar)
    posterior[0] = posterior[1]  # level 0 has none; this is what the networks were trained with
    spread = beta.log() - posterior.log()

    def at(table: Tensor) -> Tensor:
        return table[i.cpu()].to(torch.float32).to(eps.device)[:, None, None, None]

    eps, prediction, variance = eps.float(), prediction.float(), variance.float()
    wider = at(spread) * (variance + 1) / 2  # log variance above the posterior's
    step = beta / (process.sigma * (1 - beta).sqrt())  # an error in eps, as an error in the mean
    kl = 0.5 * (wider + torch.expm1(-wider) + at(step**2 / posterior) * (prediction - eps) ** 2 * torch.exp(-wider))
    bound = kl.mean((-3, -2, -1))
    first = (i == 0).to(eps.device)
    if first.any():
        off = (at(step) * (prediction - eps))[first]  # x - mean
        sd = torch.exp((at(posterior.log()) + wider)[first] / 2)
        x = x.float()[first]
        low, high = (off - 1 / 255) / sd, (off + 1 / 255) / sd
        low, high = torch.where(off > 0, -high, low), torch.where(off > 0, -low, high)  # the lower tail keeps digits
        a, b = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
        log_p = b + torch.log(-torch.expm1(a - b))
        log_p = torch.where(x < -0.999, torch.special.log_ndtr((off + 1 / 255) / sd), log_p)
        log_p = torch.where(x > 0.999, torch.special.log_ndtr((1 / 255 - off) / sd), log_p)
        bound[first] = -log_p.mean((-3, -2, -1))
    return bound / math.log(2)


# Functions of (process, x [n, c, h, w], eps [n, c, h, w], levels i [n], the network's output [n, c or 2c, h, w])
# -> [n, k], the columns that are kept; the first three are the losses.


def losses_only(process, x: Tensor, eps: Tensor, i: Tensor, output: Tensor) -> Tensor:
    """The losses. [n, 3]"""
    return losses(output[:, : x.shape[1]], process.target(x, eps, i))


def with_bound(process, x: Tensor, eps: Tensor, i: Tensor, output: Tensor) -> Tensor:
    """The losses and the term of the variational bound. [n, 4]"""
    prediction, variance = output.chunk(2, 1)
    bound = variational_bound(process, x, eps, i, prediction, variance)
    return torch.cat([losses(prediction, process.target(x, eps, i)), bound[:, None]], 1)


def with_map(process, x: Tensor, eps: Tensor, i: Tensor, output: Tensor) -> Tensor:
    """The losses and the squared error at each place of the latent, its mean over channels. [n, 3 + h w]"""
    square = (output[:, : x.shape[1]].float() - process.target(x, eps, i)) ** 2
    return torch.cat([losses_only(process, x, eps, i, output), square.mean(1).flatten(1)], 1)


def with_prediction(process, x: Tensor, eps: Tensor, i: Tensor, output: Tensor) -> Tensor:
    """The losses and what the network predicts. [n, 3 + c h w]"""
    return with_output(process, x, eps, i, output[:, : x.shape[1]])


def with_output(process, x: Tensor, eps: Tensor, i: Tensor, output: Tensor) -> Tensor:
    """The losses and all channels of the output. [n, 3 + (c or 2c) h w]"""
    return torch.cat([losses_only(process, x, eps, i, output), output.float().flatten(1)], 1)
