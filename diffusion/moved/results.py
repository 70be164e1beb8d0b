"""Moved to diffusion.runs.results."""

from diffusion.runs.results import *
