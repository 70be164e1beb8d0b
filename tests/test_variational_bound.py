"""The variational bound against torch.distributions in float64, level by level, and what its definition implies."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch.distributions import Normal, kl_divergence

from diffusion.core.losses import losses, variational_bound, with_bound
from diffusion.core.process import Process

T, SHAPE = 1000, (4, 3, 2)  # SHAPE: c, h, w
PROCESS = Process.from_scheduler(DDIMScheduler(T, 0.0001, 0.02, "linear"))

# The tables of DDPM (arXiv 2006.11239, section 2), from the betas alone. The scheduler keeps those in float32.
BETA = np.linspace(0.0001, 0.02, T, dtype=np.float32).astype(np.float64)
ABAR = np.cumprod(1 - BETA)
BEFORE = np.concatenate([[1.0], ABAR[:-1]])
POSTERIOR = BETA * (1 - BEFORE) / (1 - ABAR)  # eq. 7


def cdf(off: torch.Tensor) -> torch.Tensor:
    """Normal.cdf, which computes (1 + erf) / 2, where that has digits; erfc / 2 in the lower tail."""
    return torch.where(off > -1, Normal(0.0, 1.0).cdf(off), torch.special.erfc(-off / math.sqrt(2)) / 2)


def reference(x, eps, i, prediction, variance) -> torch.Tensor:
    """One row at level i: x, eps, prediction, variance [c, h, w] -> bits per dimension, in float64."""
    x, eps, prediction, variance = (v.double() for v in (x, eps, prediction, variance))
    z = math.sqrt(ABAR[i]) * x + math.sqrt(1 - ABAR[i]) * eps
    low, high = math.log(POSTERIOR[max(i, 1)]), math.log(BETA[i])
    sd = torch.exp((low + (high - low) * (variance + 1) / 2) / 2)  # arXiv 2102.09672, eq. 15
    mean = (z - BETA[i] / math.sqrt(1 - ABAR[i]) * prediction) / math.sqrt(1 - BETA[i])  # 2006.11239, eq. 11
    network = Normal(mean, sd)
    if i > 0:
        to_x = math.sqrt(BEFORE[i]) * BETA[i] / (1 - ABAR[i])
        to_z = math.sqrt(1 - BETA[i]) * (1 - BEFORE[i]) / (1 - ABAR[i])
        posterior = Normal(to_x * x + to_z * z, torch.full_like(mean, math.sqrt(POSTERIOR[i])))
        nats = kl_divergence(posterior, network)
    else:  # eq. 13; where a Gaussian's mass is counted from its lower tail, which has digits left far out
        off = torch.where(x > 0.999, mean - x, torch.where(x < -0.999, x - mean, -(x - mean).abs()))
        to_upper, to_lower = cdf((off + 1 / 255) / sd), cdf((off - 1 / 255) / sd)
        nats = -torch.where(x.abs() > 0.999, to_upper, to_upper - to_lower).log()
    return nats.mean() / math.log(2)


def problem(levels, *, spread=1.0):
    """A row for each level: x with latents beyond +-0.999 and within, eps, i, prediction and variance [n, ...]."""
    draw = torch.Generator().manual_seed(5)
    n = len(levels)
    x = 1.5 * torch.randn(n, *SHAPE, generator=draw)
    eps = torch.randn(n, *SHAPE, generator=draw)
    prediction = eps + spread * torch.randn(n, *SHAPE, generator=draw)
    variance = 3 * torch.rand(n, *SHAPE, generator=draw) - 1.5  # nothing holds it within -1..1
    assert (x < -0.999).any() and (x > 0.999).any() and (x.abs() < 0.999).sum() > 8 * n
    return x, eps, torch.as_tensor(levels), prediction, variance


def references(x, eps, i, prediction, variance) -> torch.Tensor:
    """[n]"""
    return torch.stack([reference(*row) for row in zip(x, eps, i.tolist(), prediction, variance, strict=True)])


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_every_level(spread):
    """Level 0 at many draws more, since one point in a thousand is all of its own formula."""
    args = problem([0] * 60 + list(range(T)), spread=spread)
    bound = variational_bound(PROCESS, *args)
    assert bound.shape == (T + 60,) and bound.dtype == torch.float32
    torch.testing.assert_close(bound.double(), references(*args), rtol=1e-5, atol=0)


@pytest.mark.parametrize("x", [-5.0, -1.0, -0.998, 0.0, 0.998, 1.0, 5.0])
@pytest.mark.parametrize("off", [-6.0, -0.5, 0.0, 0.5, 6.0])
def test_the_last_step_latent_by_latent(x, off):
    """The outer bins are open: a latent far outside is no worse than one at the edge. Eight sd off is finite still."""
    latent = torch.full((1, *SHAPE), x)
    eps = torch.zeros(1, *SHAPE)
    prediction = torch.full((1, *SHAPE), off)
    for v in (-1.0, 0.0, 1.0):
        args = (latent, eps, torch.tensor([0]), prediction, torch.full_like(prediction, v))
        wanted = references(*args)
        assert wanted.isfinite().all()
        torch.testing.assert_close(variational_bound(PROCESS, *args).double(), wanted, rtol=1e-5, atol=1e-7)


def test_the_last_step_where_float64_underflows():
    """Forty sd off, where a probability computed as such is 0: -log of it by the leading term of the tail."""
    x = eps = torch.zeros(1, *SHAPE)
    prediction = torch.full((1, *SHAPE), 40 * math.sqrt(BETA[0]) / 0.01)  # step = sigma / alpha = 0.01, nearly
    args = (x, eps, torch.tensor([0]), prediction, torch.ones_like(prediction))
    off = math.sqrt(BETA[0] / (1 - BETA[0])) * prediction.flatten()[0].item()
    edge = (off - 1 / 255) / math.sqrt(BETA[0])  # nearest edge of the bin, in sd; the rest of the tail is beyond it
    wanted = (edge**2 / 2 + math.log(edge * math.sqrt(2 * math.pi)) + edge**-2) / math.log(2)
    assert variational_bound(PROCESS, *args).item() == pytest.approx(wanted, rel=1e-5)


def test_a_perfect_network_loses_nothing():
    """The right eps with the posterior's own variance: no bit at any level above 0, exactly."""
    x, eps, i, *_ = problem(list(range(1, T)))
    bound = variational_bound(PROCESS, x, eps, i, eps, torch.full_like(eps, -1.0))
    assert torch.equal(bound, torch.zeros(T - 1))


def test_the_right_variance_is_the_best_of_a_perfect_network():
    """KL grows on both sides of it; level 0 has bits to pay whatever the network says."""
    x, eps, i, *_ = problem([0, 1, 2, 10, 100])
    tried = torch.linspace(-3, 1, 9)  # -1 is the fifth
    bound = torch.stack([variational_bound(PROCESS, x, eps, i, eps, torch.full_like(eps, v)) for v in tried], 1)
    assert (bound[0] > 0.1).all()
    assert (bound[1:].diff(dim=1)[:, :4] < 0).all() and (bound[1:].diff(dim=1)[:, 4:] > 0).all()


def test_levels_in_any_order_and_with_repeats():
    """A row's bits are those it has alone: with its own image, draw and level."""
    args = problem([7, 0, 999, 0, 1])
    whole = variational_bound(PROCESS, *args)
    for n in range(5):
        assert torch.equal(variational_bound(PROCESS, *(v[n : n + 1] for v in args))[0], whole[n])


def test_gradients():
    """Training needs the one to the variance: that of the reference, finite at level 0 and beyond +-0.999 too."""
    x, eps, i, prediction, variance = problem([0, 1, 2, 300, 999])
    ours, theirs = (variance.clone().requires_grad_() for _ in range(2))
    variational_bound(PROCESS, x, eps, i, prediction, ours).sum().backward()
    references(x, eps, i, prediction, theirs).sum().backward()
    assert theirs.grad.isfinite().all() and (theirs.grad != 0).all()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-8)  # differences of terms near 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_answers_are_reduced_in_float32(dtype):
    x, eps, i, prediction, variance = problem([0, 1, 500, 999])
    prediction, variance = prediction.to(dtype), variance.to(dtype)
    bound = variational_bound(PROCESS, x, eps, i, prediction, variance)
    assert bound.dtype == torch.float32
    assert torch.equal(bound, variational_bound(PROCESS, x, eps, i, prediction.float(), variance.float()))


def test_it_stands_beside_the_losses():
    """The first half of the answer's channels is the prediction, the second the variance."""
    x, eps, i, prediction, variance = problem([0, 3, 500])
    kept = with_bound(PROCESS, x, eps, i, torch.cat([prediction, variance], 1))
    assert kept.shape == (3, 4)
    assert torch.equal(kept[..., :3], losses(prediction, eps))
    assert torch.equal(kept[..., 3], variational_bound(PROCESS, x, eps, i, prediction, variance))
