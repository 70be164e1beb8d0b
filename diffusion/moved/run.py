"""Moved to diffusion.evaluate.loop."""

from diffusion.evaluate.loop import *
