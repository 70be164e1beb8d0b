"""Moved to diffusion.core.process."""

from diffusion.core.process import *
