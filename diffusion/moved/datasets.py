"""Moved to diffusion.data.datasets."""

from diffusion.data.datasets import *
