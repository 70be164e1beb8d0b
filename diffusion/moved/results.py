"""Moved to diffusion.runs.results."""

from diffusion.runs import results
from diffusion.runs.results import *


def read_rows(paths, **options):
    """`results.read_rows`, whose `of_run` was named `own`."""
    return results.read_rows(paths, of_run=options.pop("own"), **options)
