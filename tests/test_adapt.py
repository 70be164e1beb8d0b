"""Noise fitted to a few images: gradients through the kernel, a fit in closed form, and the command line end to end."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import import_script
from PIL import Image

from diffusion import InputError
from diffusion.core.batching import Block, errors_of_call, measure
from diffusion.core.conditions import Conditions
from diffusion.core.fitting import FitOptions, Shots, errors_before, fit_noise
from diffusion.core.losses import losses_only
from diffusion.core.process import Process
from diffusion.models.loading import load_model

SCRIPT = "scripts/adapt.py"
LATENT = (4, 8, 8)


# ---- gradients ----


@pytest.fixture(scope="module")
def problem(model_folder):
    """A block of the embedded Stable Diffusion, three prompts at two points, and its noise."""
    model = load_model(str(model_folder))
    prompts = [f"a photo of the number {word}." for word in ("one", "two", "six")]
    drawn = torch.Generator().manual_seed(0)
    x, noise = torch.randn(LATENT, generator=drawn), torch.randn(2, *LATENT, generator=drawn)
    conditions = model.conditions(prompts).map(torch.clone)

    def rows(kernel, noise):
        block = Block(x, conditions, np.arange(3), torch.tensor([300, 700]), torch.arange(2), noise)
        return kernel(model, [(block, 0, 6)], 16, losses_only)

    return rows, noise


def test_with_gradients_the_errors_are_those_of_the_kernel(problem):
    rows, noise = problem
    out = rows(errors_of_call, noise.clone().requires_grad_())
    assert out.requires_grad
    torch.testing.assert_close(out.detach(), rows(measure, noise), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", range(3))
def test_the_gradient_is_the_slope(problem, loss):
    """Along its own direction, where differences in float32 are large enough to be seen."""
    rows, noise = problem
    moved = noise.clone().requires_grad_()
    (slope,) = torch.autograd.grad(rows(errors_of_call, moved)[:, loss].sum(), [moved])
    way, step = slope / slope.norm(), 1e-2
    ends = [rows(measure, noise + side * step * way)[:, loss].double().sum() for side in (1, -1)]
    assert float(ends[0] - ends[1]) / (2 * step) == pytest.approx(float(slope.norm()), rel=2e-3)


# ---- the fit ----

ONE = Process(torch.tensor([0.5]).double(), torch.tensor([0.5]).double(), torch.tensor([0]), "flow")


def shifted():
    """A flow of latents of one number, whose network predicts its condition: errors are (eps - x - c_a)^2."""
    return SimpleNamespace(
        process=ONE, device=torch.device("cpu"), denoise=lambda z, time, c: c["c"][:, None, None, None].expand_as(z)
    )


def test_a_fit_in_closed_form():
    """All images are 0 and of class 0, which says 1; class 1 says -1.

    e_1 - e_0 = (eps + 1)^2 - (eps - 1)^2 = 4 eps: only eps counts, and the larger it is the likelier the label. Adam's
    step is its rate while the gradient hardly changes, and the rates of n steps, a cosine from 0.1 to 0, sum to
    0.1 (n + 1) / 2.
    """
    c = Conditions({"c": torch.tensor([1.0, -1.0])})
    model, x, levels = shifted(), torch.zeros(5, 1, 1, 1), np.array([0])
    noise = torch.tensor([-0.5]).view(1, 1, 1, 1)
    shots = Shots(x, np.zeros(5, dtype=int), c)
    options = FitOptions("l2", batch_size=16, steps=20, lr=0.1, seed=0)
    before = errors_before(model, shots, levels, noise, options, lambda nfe: None)
    np.testing.assert_allclose(before[:, :, 0], [[2.25, 0.25]] * 5)
    costs = []
    fitted = fit_noise(model, shots, levels, noise, before, options, costs.append)
    assert float(fitted) == pytest.approx(-0.5 + 0.1 * 21 / 2, abs=2e-3)
    assert all(a > b for a, b in itertools.pairwise(costs))
    assert float(noise) == -0.5, "what was given is as it was"


def test_calls_of_any_size_fit_the_same():
    c = Conditions({"c": torch.tensor([1.0, -1.0, 0.3])})
    model, levels = shifted(), np.array([0, 0, 0])
    drawn = torch.Generator().manual_seed(1)
    x, noise = torch.randn(7, 1, 1, 1, generator=drawn), torch.randn(3, 1, 1, 1, generator=drawn)
    label = np.array([0, 1, 2, 0, 1, 2, 0])
    shots = Shots(x, label, c)
    small, large = (FitOptions("l1", batch_size, steps=6, lr=0.1, seed=3) for batch_size in (1, 1000))
    before = errors_before(model, shots, levels, noise, small, lambda nfe: None)
    one, other = (fit_noise(model, shots, levels, noise, before, options) for options in (small, large))
    assert not torch.equal(one, noise)
    torch.testing.assert_close(one, other)


# ---- from the command line ----

SMALL = "--version", "digits", "--shots", 1, "--steps", 1, "--points", 2, "--levels", "0.4-0.6", "--seed", 1


@pytest.mark.parametrize("condition, script", [("text", "eval_prob_adaptive.py"), ("class", "eval_prob_dit.py")])
def test_a_bank_that_the_scripts_take(run_main, tmp_path, condition, script):
    """Fitted again, it is the same."""
    out = tmp_path / "noise.pt"
    fit = [SCRIPT, "digits", *SMALL, "--condition", condition, "--out"]
    done = run_main(*fit, out)
    assert done.code == 0, done.err
    assert "10 images of 10 classes" in done.out and "--max_samples 2" in done.out and "no images" not in done.err
    bank = torch.load(out, weights_only=True)["noise"]
    start = torch.randn(2, *LATENT, generator=torch.Generator().manual_seed(1))[[1, 0]]  # the second level comes first
    assert bank.shape == start.shape and 0 < (bank - start).abs().max() < 0.1
    run = ["--version", "digits", "--dataset", "digits", "--limit", 2, "--levels", "0.4-0.6", "--noise_path", out]
    search = ["--search", "race", "--max_samples", 2]
    if condition == "class":
        search = ["--randomize_noise", "--to_keep", 1, "--n_samples", 2]
        assert run_main(*fit, tmp_path / "again.pt").code == 0
        assert out.read_bytes() == (tmp_path / "again.pt").read_bytes()
    done = run_main(script, *run, *search)
    assert done.code == 0 and "2 of 2" in done.out, done.err


def test_a_bank_is_for_what_it_was_fitted_for(run_main, tmp_path, dit_folder):
    """The same model, loss and levels, each with its own draw; else it is refused before the run begins."""
    out = tmp_path / "noise.pt"
    assert run_main(SCRIPT, "digits", *SMALL, "--condition", "class", "--out", out).code == 0
    run = ["--dataset", "digits", "--limit", 2, "--noise_path", out, "--search", "race", "--device", "cpu"]
    same = [*run, "--version", "digits", "--levels", "0.4-0.6", "--max_samples", 2, "--randomize_noise"]
    weights = tmp_path / "w.csv"
    weights.write_text("level,weight\n400,0\n500,0\n501,1\n")
    for more, says in (
        (["--levels", "0.4-0.8"], "was fitted for the levels 450, 550, not 500, 700"),
        (["--weights", weights], "was fitted for the levels 450, 550, not "),
        (["--loss", "l1"], "was fitted for --loss l2, not l1"),
        (["--n_trials", 2], "was fitted for the levels"),
    ):
        done = run_main("eval_prob_dit.py", *same, *more)
        assert done.code == 2 and says in done.err and done.err.count("\n") == 1, done.err
    done = run_main("eval_prob_dit.py", *same[:-1])
    assert done.code == 2 and "--randomize_noise" in done.err
    done = run_main("eval_prob_adaptive.py", *same[:-1])
    assert done.code == 2 and "was fitted for another model" in done.err
    assert not (tmp_path / "data").exists()
    assert run_main("eval_prob_dit.py", *same, "--version", dit_folder).code == 0, "a copy is the same model"


def test_classes_without_images_are_counted(run_main, monkeypatch):
    """Before a model is loaded. digits-unseen has images of 8 classes of 60."""
    module = import_script(SCRIPT)

    def stop(card):
        raise InputError("a model", "would be loaded now")

    monkeypatch.setattr(module, "check_weights", stop)
    done = run_main(module, "digits-unseen", *SMALL)
    assert done.error.where == "a model" and "52 of 60 classes have no images in --split train" in done.err


def test_bad_data(run_main, tmp_path):
    out = tmp_path / "gone/noise.pt"
    assert run_main(SCRIPT, "digits", *SMALL, "--out", out).error.where == f"--out {out}"
    alone = tmp_path / "alone"
    alone.mkdir()
    Image.new("RGB", (32, 32)).save(alone / "a.png")
    done = run_main(SCRIPT, alone, *SMALL, "--split", "test")
    assert done.code == 2 and "no labels" in done.err, done.err
    (alone / "cat").mkdir()
    (alone / "dog").mkdir()
    (alone / "a.png").rename(alone / "cat/a.png")
    (alone / "dog/b.png").write_bytes(b"no image")
    done = run_main(SCRIPT, alone, *SMALL, "--split", "test")
    assert done.code == 2 and "image 1: " in done.err and "mend or remove it" in done.err, done.err
    assert "warning: fitted to some of all images, as the data has no splits" in done.err
    prompts = tmp_path / "two.csv"
    lines = [f"a {k},{k},{k}" for k in range(10)]
    prompts.write_text("\n".join(["prompt,classname,classidx", *lines, "again,0,0"]))
    done = run_main(SCRIPT, "digits", *SMALL, "--prompt_path", prompts)
    assert done.code == 2 and "11 prompts or ids for 10 classes" in done.err, done.err
