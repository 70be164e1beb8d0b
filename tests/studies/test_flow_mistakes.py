"""The shifted levels by hand; the table, on two images; what is no flow-matching model."""

import re

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from helpers import import_script

from diffusion.core.process import Process

SCRIPT = "studies/flow_mistakes.py"


def test_shifted_levels():
    """sigma = k u / (1 + (k - 1) u): 1/2 becomes 3/4 at k = 3, the last stays 1; they are those of diffusers."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    moved = import_script(SCRIPT).shifted(Process.from_scheduler(scheduler), 3.0)
    assert moved.sigma[499] == 0.75 and moved.sigma[-1] == 1 and torch.equal(moved.alpha, 1 - moved.sigma)
    torch.testing.assert_close(moved.sigma.float().flip(0), scheduler.sigmas, rtol=1e-6, atol=0)
    torch.testing.assert_close(moved.time.float().flip(0), scheduler.timesteps, rtol=1e-6, atol=0)


@pytest.mark.slow
def test_the_table(run_main, monkeypatch):
    """Both images are easy ones, at few points; comparing with the wrong sign finds neither."""
    module = import_script(SCRIPT)
    monkeypatch.setattr(module, "POINTS", (2, 6))
    done = run_main(module, "--every", 300)
    assert done.code == 0, done.err
    rows = {m[1].strip(): m[2].split() for m in re.finditer(r"^(.{44})(.*%?)$", done.out, re.M)}
    shares = {name: [cell for cell in cells if "(" not in cell] for name, cells in rows.items()}
    assert shares["right: levels even in sigma"][-1] == "100.0"
    assert shares["wrong sign: prediction taken for x - eps"][-1] == "0.0"
    assert len(done.out.splitlines()) == 12


def test_other_models(run_main):
    done = run_main(SCRIPT, "--version", "digits")
    assert done.code == 2 and "StableDiffusionPipeline" in done.err and done.err.count("\n") == 1
