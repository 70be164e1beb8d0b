"""Noise samples that depend only on the seed, the image and the number of the draw."""

from collections.abc import Iterable

import numpy as np
import torch


class ImageNoise:
    """Standard normal draws [n, c, h, w] that depend only on (seed, dataset index, number of the draw).

    Indexed like a bank of noise; a draw is made when it is indexed, since a search uses few of them.
    """

    def __init__(self, seed: int, index: int, latent: tuple[int, int, int]):
        self.seed, self.index, self.latent = seed, index, latent

    def __getitem__(self, rows: Iterable[int]) -> torch.Tensor:
        # numpy's generator: torch's on a CPU uses 32 bits of a seed, and its first 16 numbers depend on how many follow
        drawn = [np.random.default_rng([self.seed, self.index, int(row)]) for row in rows]
        return torch.from_numpy(np.stack([rng.standard_normal(self.latent, dtype=np.float32) for rng in drawn]))
