"""The affine Gaussian path z_i = alpha_i x + sigma_i eps, and what a network predicts on it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Process:
    """A noise schedule of T levels, i = 0 almost clean, and the *target*: what the network was trained to predict."""

    alpha: Tensor  # [T] float64
    sigma: Tensor  # [T] float64
    time: Tensor  # [T] the network's time input at level i
    predicts: str  # "epsilon" | "v_prediction" | "sample" | "flow" | "edm"
    data: float = 1.0  # the standard deviation of x that EDM's preconditioning takes

    def __len__(self) -> int:
        return len(self.alpha)

    def noised(self, x: Tensor, eps: Tensor, i: Tensor) -> Tensor:
        """x [c, h, w], eps [p, c, h, w], i [p] -> z [p, c, h, w] = alpha_i x + sigma_i eps."""
        return _at(self.alpha, i, eps) * x + _at(self.sigma, i, eps) * eps

    def target(self, x: Tensor, eps: Tensor, i: Tensor) -> Tensor:
        """The prediction without error at z; shapes as `noised`.

        eps, v = alpha eps - sigma x (arXiv 2202.00512), x, u = dz/dsigma = eps - x (arXiv 2210.02747), or EDM's
        F = sigma x / data - alpha data eps (arXiv 2206.00364, eq. 8: c_skip z / c_in + c_out F = x).
        """
        if self.predicts == "epsilon":
            return eps
        if self.predicts == "v_prediction":
            return _at(self.alpha * self.data, i, eps) * eps - _at(self.sigma / self.data, i, eps) * x
        if self.predicts == "edm":
            return _at(self.sigma / self.data, i, eps) * x - _at(self.alpha * self.data, i, eps) * eps
        if self.predicts == "sample":
            return x.expand_as(eps)
        if self.predicts == "flow":
            return eps - x
        raise ValueError(f"the network predicts {self.predicts!r}; wanted epsilon, v_prediction, sample, flow or edm")

    @classmethod
    def from_scheduler(cls, scheduler) -> "Process":
        """Read off a discrete diffusers scheduler; in float64, since float32 products cost 1 - abar three digits.

        Flow matching: alpha = 1 - sigma and time T sigma. The T levels are even in sigma; a scheduler's `shift` makes
        sampling steps and training dense at high noise, and such levels decide worse (docs/models.md).
        EDM: z is the network's input, c_in (x + s eps), and time is log(s) / 4. The levels are the scheduler's s.
        """
        config = scheduler.config
        if type(scheduler).__name__.startswith("EDM"):
            s, data = scheduler.sigmas[:-1].double().flip(0), config.sigma_data  # the last is 0, or there twice
            alpha = (s**2 + data**2) ** -0.5
            predicts = config.prediction_type
            if predicts == "epsilon":
                predicts = "edm"
            return cls(alpha, alpha * s, s.log() / 4, predicts, data)
        predicts = config.get("prediction_type") or "epsilon"
        if not hasattr(scheduler, "betas"):  # flow matching; a prediction type in its file is left from another class
            predicts = "flow"
        if predicts not in ("flow", "flow_prediction"):
            abar = (1 - scheduler.betas.double()).cumprod(0)
            changed = getattr(scheduler, "alphas_cumprod", abar).double()
            if (changed - abar).abs().max() > 1e-4:  # CogVideoX rescales them
                abar = changed
            return cls(abar.sqrt(), (1 - abar).sqrt(), torch.arange(len(abar)), predicts)
        T = config.num_train_timesteps
        sigma = torch.arange(1, T + 1, dtype=torch.float64) / T
        return cls(1 - sigma, sigma, T * sigma, "flow")


def _at(table: Tensor, i: Tensor, like: Tensor) -> Tensor:
    """Entries i [p] of a table, as [p, 1, 1, 1] in the dtype and on the device of `like`."""
    return table[i].to(like.dtype).to(like.device)[:, None, None, None]  # cast first: MPS has no float64
