"""The noise of a run: a file's, the same for all images, or that of the seed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion import InputError, one_line
from diffusion.core.noise import ImageNoise
from diffusion.core.schedule import Points
from diffusion.io.reading import check_pt
from diffusion.io.wording import count, few

FITTED = {"noise", "levels", "loss", "model"}  # the keys of a file by scripts/adapt.py


@dataclass(frozen=True)
class Noise:
    """Where the noise of each image comes from."""

    latent: tuple[int, int, int]
    seed: int = 0
    bank: Tensor | None = None  # [n, c, h, w] for all images; None: drawn from the seed
    shared: bool = False  # without a bank: all images have the noise of the first
    fitted_for: dict[str, str] | None = None  # fingerprints of the model's parts, if the bank was fitted

    def of_image(self, index: int) -> Tensor | ImageNoise:
        """The noise of an image, to be indexed by draws."""
        if self.bank is not None:
            return self.bank
        return ImageNoise(self.seed, 0 if self.shared else index, self.latent)


def read_noise(path: Path, points: Points, latent: tuple[int, int, int], *, loss: str) -> Noise:
    """The noise of --noise_path, for these points and latents of this shape.

    InputError: a file that cannot be read, or that does not fit; noise by scripts/adapt.py that was fitted for other
    levels, another loss, or independent points.
    """
    where = f"--noise_path {path}"
    try:
        check_pt(path)
        bank = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # whatever a foreign or broken file makes torch raise
        raise InputError(where, f"cannot be read ({one_line(error)})") from None

    fitted_for = None
    if isinstance(bank, dict) and bank.keys() == FITTED:
        _check_fitted(where, bank, points, loss)
        bank, fitted_for = bank["noise"], bank["model"]

    if not isinstance(bank, Tensor) or tuple(bank.shape[1:]) != latent:
        found = list(bank.shape) if isinstance(bank, Tensor) else type(bank).__name__
        raise InputError(where, f"holds {found}, the model's latents need [n, c, h, w] = {['n', *latent]}")
    n_draws = points.draws.max() + 1
    if len(bank) < n_draws:
        raise InputError(where, f"holds {count(len(bank), 'draw')}, the schedule needs {n_draws}")
    return Noise(latent, bank=bank[:n_draws].float(), fitted_for=fitted_for)


def _check_fitted(where: str, file: dict, points: Points, loss: str) -> None:
    """InputError unless the file was fitted for these points and this loss."""
    if points.signs is not None:
        raise InputError("--noise antithetic", f"{where} was fitted; wanted --noise independent")
    levels = file["levels"]
    if len(levels) <= points.draws.max() or levels[points.draws].tolist() != points.levels.tolist():
        fitted = few(np.unique(levels).tolist(), 5)
        asked = few(np.unique(points.levels).tolist(), 5)
        wanted = "wanted the same --levels, as many points, and for each its own draw (--randomize_noise)"
        raise InputError(where, f"was fitted for the levels {fitted}, not {asked}; {wanted}")
    if file["loss"] != loss:
        raise InputError(where, f"was fitted for --loss {file['loss']}, not {loss}")
