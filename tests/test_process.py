"""The tables and the path, against closed forms and against diffusers."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from diffusion.core.process import Process

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEVELS = torch.tensor([0, 1, 499, 998, 999])


def process(predicts="epsilon", **config) -> Process:
    return Process.from_scheduler(DDPMScheduler(**SD | {"prediction_type": predicts} | config))


def points():
    """x [c, h, w], eps [p, c, h, w] float64, i [p]."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 5, generator=draw, dtype=torch.float64)
    return x, torch.randn(len(LEVELS), 4, 3, 5, generator=draw, dtype=torch.float64), LEVELS


def at(table: torch.Tensor) -> torch.Tensor:
    return table[LEVELS][:, None, None, None]


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("config", [SD, {"beta_schedule": "linear"}, SD | {"num_train_timesteps": 50}])
def test_tables(scheduler, config):
    p = Process.from_scheduler(scheduler(**config))
    betas = scheduler(**config).betas.numpy().astype(np.float64)
    abar = np.cumprod(1 - betas)
    assert len(p) == len(betas) == config.get("num_train_timesteps", 1000)
    assert p.alpha.dtype == p.sigma.dtype == torch.float64
    np.testing.assert_allclose(p.alpha, np.sqrt(abar), rtol=1e-12)
    np.testing.assert_allclose(p.sigma, np.sqrt(1 - abar), rtol=1e-12)
    torch.testing.assert_close(p.alpha**2 + p.sigma**2, torch.ones(len(p), dtype=torch.float64), rtol=1e-14, atol=0)
    assert torch.equal(p.time, torch.arange(len(p)))
    assert (p.alpha.diff() < 0).all() and (p.sigma.diff() > 0).all()


def test_sigma_of_the_cleanest_levels_is_exact():
    """sigma_0^2 = beta_0 and sigma_1^2 = beta_0 + beta_1 - beta_0 beta_1: no digit lost, as float16 loses them all."""
    b0, b1 = DDPMScheduler(**SD).betas[:2].double().tolist()
    assert process().sigma[:2].tolist() == pytest.approx([b0**0.5, (b0 + b1 - b0 * b1) ** 0.5], rel=1e-13)


def test_zero_terminal_snr_ends_in_pure_noise():
    p = process("v_prediction", rescale_betas_zero_snr=True)
    assert p.alpha[-1] == 0 and p.sigma[-1] == 1
    x, eps, i = points()
    assert torch.equal(p.noised(x, eps, i)[-1], eps[-1])
    assert torch.equal(p.target(x, eps, i)[-1], -x)


def test_noise_taken_off_again_is_the_image():
    x, eps, i = points()
    p = process()
    z = p.noised(x, eps, i)
    assert z.shape == eps.shape and z.dtype == eps.dtype
    torch.testing.assert_close((z - at(p.sigma) * eps) / at(p.alpha), x.expand_as(eps), rtol=0, atol=1e-12)


def test_epsilon_and_sample_targets():
    x, eps, i = points()
    assert process("epsilon").target(x, eps, i) is eps
    assert torch.equal(process("sample").target(x, eps, i), x.expand_as(eps))


def test_v_gives_back_image_and_noise():
    x, eps, i = points()
    p = process("v_prediction")
    z, v = p.noised(x, eps, i), p.target(x, eps, i)
    alpha, sigma = at(p.alpha), at(p.sigma)
    torch.testing.assert_close(alpha * z - sigma * v, x.expand_as(eps), rtol=0, atol=1e-13)
    torch.testing.assert_close(sigma * z + alpha * v, eps, rtol=0, atol=1e-13)


def test_agrees_with_diffusers():
    """To float32 rounding of abar: 1e-7 of 1 - abar is 1e-4 of it at level 0."""
    x, eps, i = (a.float() if a.is_floating_point() else a for a in points())
    scheduler = DDPMScheduler(**SD, prediction_type="v_prediction")
    p = Process.from_scheduler(scheduler)
    many = x.expand_as(eps)
    assert p.noised(x, eps, i).dtype == torch.float32
    torch.testing.assert_close(p.noised(x, eps, i), scheduler.add_noise(many, eps, i), rtol=0, atol=3e-6)
    torch.testing.assert_close(p.target(x, eps, i), scheduler.get_velocity(many, eps, i), rtol=0, atol=3e-6)


def test_unknown_prediction_type():
    with pytest.raises(ValueError, match=r"'score'.*epsilon, v_prediction, sample, flow or edm"):
        Process(torch.ones(5), torch.ones(5), torch.arange(5), "score").target(*points())


# ---- flow matching ----


def sana(**config):
    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, **config)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(50, shift=3.0),
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        sana(flow_shift=3.0),
    ],
)
def test_flow_tables(scheduler):
    """Even in sigma, whatever the shift of sampling; the last level is pure noise, and time is T sigma."""
    p = Process.from_scheduler(scheduler)
    T = scheduler.config.num_train_timesteps
    assert len(p) == T and p.predicts == "flow" and p.sigma.dtype == p.alpha.dtype == torch.float64
    assert p.sigma[0] == 1 / T and p.sigma[T // 2 - 1] == 0.5 and p.sigma[-1] == 1 and p.alpha[-1] == 0
    assert torch.equal(p.alpha + p.sigma, torch.ones(T, dtype=torch.float64))
    torch.testing.assert_close(p.time, torch.arange(1, T + 1, dtype=torch.float64), rtol=1e-15, atol=0)


def test_flow_tables_agree_with_diffusers():
    """Without shift the levels are those of its samplers; what is told at a sigma does not depend on the shift."""
    p = Process.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))
    scheduler = FlowMatchEulerDiscreteScheduler()
    torch.testing.assert_close(p.sigma.float().flip(0), scheduler.sigmas, rtol=1e-6, atol=0)
    torch.testing.assert_close(p.time.float().flip(0), scheduler.timesteps, rtol=1e-6, atol=0)
    x, eps, i = (a.float() if a.is_floating_point() else a for a in points())
    z = scheduler.scale_noise(x.expand_as(eps), scheduler.timesteps[999 - i], eps)
    torch.testing.assert_close(p.noised(x, eps, i), z, rtol=0, atol=1e-6)
    solver = sana(flow_shift=1.0)  # Sana's, whose 999 steps leave pure noise out
    solver.set_timesteps(999)
    torch.testing.assert_close(p.sigma[:-1].float().flip(0), solver.sigmas[:-1], rtol=1e-5, atol=0)
    torch.testing.assert_close(p.time[:-1].flip(0).long(), solver.timesteps, rtol=0, atol=1)
    for shifted in (FlowMatchEulerDiscreteScheduler(shift=3.0), sana(flow_shift=3.0)):
        shifted.set_timesteps(20)
        torch.testing.assert_close(shifted.timesteps.float(), 1000 * shifted.sigmas[:-1], rtol=0, atol=1)


def test_flow_gives_back_image_and_noise():
    x, eps, i = points()
    p = Process.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))
    z, u = p.noised(x, eps, i), p.target(x, eps, i)
    torch.testing.assert_close(z - at(p.sigma) * u, x.expand_as(eps), rtol=0, atol=1e-14)
    torch.testing.assert_close(z + at(p.alpha) * u, eps, rtol=0, atol=1e-14)


def test_the_sampler_goes_from_noise_to_the_image_along_u():
    """One step of diffusers' own sampler from level i: x + sigma' eps, not the other way."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    p = Process.from_scheduler(scheduler)
    x, eps, _ = (a.float() if a.is_floating_point() else a for a in points())
    i = torch.tensor([700])
    z, u = p.noised(x, eps[:1], i), p.target(x, eps[:1], i)
    scheduler.set_begin_index(999 - 700)
    after = scheduler.step(u, scheduler.timesteps[999 - 700], z).prev_sample
    torch.testing.assert_close(after, p.noised(x, eps[:1], i - 1), rtol=0, atol=1e-6)
