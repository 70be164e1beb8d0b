"""Class-conditional models that people train themselves: U-Nets in pixels or latents, EDM, names of classes."""

import json

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline
from helpers import subset
from PIL import Image

from diffusion.core.noise import ImageNoise
from diffusion.core.process import Process
from diffusion.data.datasets import load_dataset
from diffusion.data.images import adm_crop
from diffusion.models.loading import read_card
from diffusion.runs.records import load_record, read_run

SCRIPT, LEVELS = "eval_prob_dit.py", 2


def sampled(scheduler, unet, x, noise, level: int, class_id: int) -> np.ndarray:
    """The error at a level, as the scheduler adds noise and takes the network's answer: eps, v, x or EDM's F."""
    more = {"encoder_hidden_states": None} if "ConditionModel" in type(unet).__name__ else {}
    told = {"class_labels": torch.tensor([class_id])} | more
    c = x.shape[1]
    if "EDM" in type(scheduler).__name__:
        s, t = scheduler.sigmas[:-1].flip(0)[level], scheduler.timesteps.flip(0)[level]
        noisy = scheduler.add_noise(x, noise, t[None])
        said = unet(scheduler.precondition_inputs(noisy, s), t, **told).sample
        # the answer that would make the scheduler's own D exact: D is affine in it
        at_zero = scheduler.precondition_outputs(noisy, torch.zeros_like(noisy), s).double()
        slope = scheduler.precondition_outputs(noisy, torch.ones_like(noisy), s).double() - at_zero
        wanted = (x.double() - at_zero) / slope
    else:
        t = torch.tensor([level])
        said = unet(scheduler.add_noise(x, noise, t), t, **told).sample[:, :c]
        kind = scheduler.config.prediction_type
        v = DDPMScheduler.from_config(scheduler.config).get_velocity(x, noise, t)
        wanted = {"epsilon": noise, "v_prediction": v, "sample": x}[kind]
    return (said - wanted).detach().double().numpy()


@pytest.mark.parametrize("build", tiny.CLASS_UNETS, ids=lambda build: build.__name__)
def test_errors_agree_with_scheduler_and_network(run_main, tmp_path, saved, build):
    folder = saved(build)
    args = ["--version", folder, "--dataset", "digits", "--device", "cpu", *subset(tmp_path, 2)]
    done = run_main(SCRIPT, *args, "--randomize_noise", "--to_keep", 1, "--n_samples", LEVELS)
    assert done.code == 0, done.err
    (path,) = (tmp_path / "data" / "digits").rglob("002.pt")
    record = load_record(path)
    errors = record["errors"].numpy().reshape(10, LEVELS, 3)

    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    card = read_card(str(folder), conditioned_on="class")
    pixels = adm_crop(load_dataset("digits").open(2), card.image_size)[None]
    red, green, blue = pixels.split(1, 1)
    with torch.no_grad():
        if not hasattr(pipe, "vqvae"):
            x = 0.299 * red + 0.587 * green + 0.114 * blue if card.latent[0] == 1 else pixels
        elif hasattr(code := pipe.vqvae.encode(pixels), "latents"):
            x = code.latents * 0.7
        else:
            x = code.latent_dist.mode() * 0.7
    assert tuple(x.shape[1:]) == card.latent
    noise = ImageNoise(0, 2, card.latent)[record["noise"].tolist()]
    wanted = np.zeros((10, LEVELS, 2))
    for a in range(10):
        for p, level in enumerate(record["levels"].tolist()):
            d = sampled(pipe.scheduler, pipe.unet, x, noise[p][None], level, a)
            wanted[a, p] = (d**2).mean(), abs(d).mean()
    np.testing.assert_allclose(errors[..., :2], wanted, rtol=2e-5 if "edm" in build.__name__ else 1e-5)
    assert np.ptp(wanted.mean(1)[:, 0]) / wanted[..., 0].mean() > 1e-4, "the classes say nothing to this network"


@pytest.mark.parametrize("build", [tiny.edm, tiny.edm_v], ids=lambda build: build.__name__)
def test_edm_is_an_affine_path(build):
    """Unit variance for data of the variance that it takes; its target has that too, at every level."""
    process = Process.from_scheduler(build().scheduler)
    data = process.data
    assert (process.sigma.diff() > 0).all() and (process.alpha.diff() < 0).all()
    torch.testing.assert_close((process.alpha * data) ** 2 + process.sigma**2, torch.ones_like(process.alpha))
    torch.testing.assert_close(process.time, (process.sigma / process.alpha).log() / 4)
    i = torch.arange(0, len(process), 100)
    generator = torch.Generator().manual_seed(0)
    x = data * torch.randn(1, 200, 200, generator=generator)
    eps = torch.randn(len(i), 1, 200, 200, generator=generator)
    target = process.target(x, eps, i)
    assert target.std((1, 2, 3)).sub(1).abs().max() < 0.02


def test_the_bound_of_a_learned_variance(run_main, saved):
    for build, code in (tiny.colour_variance, 0), (tiny.grey_v, 2):
        args = "--dataset", "digits", "--limit", 1, "--save_vb", "--t_interval", 500, "--device", "cpu"
        done = run_main(SCRIPT, "--version", saved(build), *args, "--extra", build.__name__)
        assert done.code == code, done.err
    assert "--save_vb" in done.err


# ---- classes by name ----


def images(folder, classes):
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (40 * k, 90, 200 - 50 * k)).save(folder / name / "a.png")
    return folder


def named(folder, names, classes: int):
    torch.manual_seed(0)
    pipe = DDPMPipeline(tiny.class_unet(classes=classes), DDPMScheduler())
    if names:
        pipe.register_to_config(id2label=dict(enumerate(names)))
    pipe.save_pretrained(folder)
    return folder


RUN = "--search", "race", "--max_samples", 4, "--device", "cpu"


def test_classes_are_matched_by_name(run_main, tmp_path):
    """The model's order is not the folders', and the data lacks one of its classes."""
    model = named(tmp_path / "model", ["owl", "Ant, emmet", "cat", "bee"], 4)
    data = images(tmp_path / "photos", ["ant", "bee", "owl"])
    done = run_main(SCRIPT, "--version", model, "--dataset", data, *RUN)
    assert done.code == 0, done.err
    (path,) = (tmp_path / "data").rglob("run.json")
    assert read_run(path.parent)["arms"] == [[0, "owl", 2], [1, "ant", 0], [3, "bee", 1]]


@pytest.mark.parametrize("classes", [3, 4])
def test_a_null_class_is_no_answer(run_main, tmp_path, classes):
    """Three names: three classes compete, whether or not the U-Net has a fourth for none of them."""
    model = named(tmp_path / "model", ["ant", "bee", "owl"], classes)
    assert read_card(str(model), conditioned_on="class").classes == 3
    done = run_main(SCRIPT, "--version", model, "--dataset", images(tmp_path / "p", ["ant", "bee", "owl"]), *RUN)
    assert done.code == 0, done.err


def test_a_name_of_two_classes_is_refused(run_main, tmp_path):
    model = named(tmp_path / "model", ["crane, bird", "crane", "owl"], 3)
    done = run_main(SCRIPT, "--version", model, "--dataset", images(tmp_path / "a", ["crane", "owl"]), *RUN)
    assert done.code == 2 and "'crane' is the name of several classes" in done.err
    done = run_main(SCRIPT, "--version", model, "--dataset", images(tmp_path / "b", ["bird", "owl"]), *RUN)
    assert done.code == 0, done.err
    done = run_main(SCRIPT, "--version", model, "--dataset", images(tmp_path / "c", ["bird", "crane, bird"]), *RUN)
    assert done.code == 2 and "are one class" in done.err


def test_names_from_a_file(run_main, tmp_path):
    model, file = named(tmp_path / "model", None, 4), tmp_path / "names.txt"
    args = "--version", model, "--dataset", images(tmp_path / "photos", ["ant", "bee", "owl"]), *RUN
    done = run_main(SCRIPT, *args)
    assert done.code == 2 and "--classes" in done.err and done.err.count("\n") == 1, "never by number"
    file.write_text("owl\nbee\nant\n")
    done = run_main(SCRIPT, *args, "--classes", file)
    assert done.code == 0, done.err
    (path,) = (tmp_path / "data").rglob("run.json")
    assert read_run(path.parent)["arms"] == [[0, "owl", 2], [1, "bee", 1], [2, "ant", 0]]
    refusals = ("owl\nbee\n", "2 classes"), ("owl\n\nant\n", "line 2"), ("owl\nbee\ncow\n", "'ant'")
    for text, said in (*refusals, ("bee\nowl\nant\n", "classes: ")):  # the last is another run
        file.write_text(text)
        done = run_main(SCRIPT, *args, "--classes", file)
        assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done.err
    done = run_main(SCRIPT, *args, "--classes", tmp_path / "none.txt")
    assert done.code == 2 and "none.txt" in done.err


# ---- what fits no adapter ----


def refusal(run_main, folder, *more) -> str:
    done = run_main(SCRIPT, "--version", folder, "--dataset", "digits", *RUN, *more)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    return done.err


def test_what_does_not_fit(run_main, tmp_path):
    def saved(name: str, unet):
        DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / name)
        return tmp_path / name

    assert "num_class_embeds" in refusal(run_main, saved("no-classes", tiny.class_unet(classes=None)))
    assert "2 channels" in refusal(run_main, saved("two", tiny.class_unet(channels=2)))
    assert "16 x 8" in refusal(run_main, saved("oblong", tiny.class_unet(size=(16, 8))))
    assert "sample_size" in refusal(run_main, saved("no-size", tiny.class_unet(size=None)))
    text = tiny.class_unet(tiny.UNet2DConditionModel, mid_block_type="UNetMidBlock2DCrossAttn")
    assert "a text besides the class" in refusal(run_main, saved("text", text))
    assert "no VAE" in refusal(run_main, saved("grey", tiny.class_unet()), "--vae", tmp_path)
    folder = saved("names", tiny.class_unet())
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": {"0": "ant", "2": "owl"}}))
    assert "id2label" in refusal(run_main, folder)
