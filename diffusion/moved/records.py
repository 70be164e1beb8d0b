"""Moved to diffusion.runs.records."""

from diffusion.runs.records import *
