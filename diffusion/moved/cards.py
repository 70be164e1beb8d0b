"""Moved to diffusion.models.config."""

from diffusion.models.config import *
