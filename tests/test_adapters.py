"""Every adapter over a tiny pipeline of its real class, against what that pipeline does when it samples."""

import numpy as np
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline

from diffusion.datasets import centre_crop, load_dataset
from diffusion.errors import ImageNoise
from diffusion.models import ADAPTERS, read_card
from diffusion.records import load_record

SCRIPT, SIZE = "eval_prob_adaptive.py", 32
PROMPTS = ["a photo of the number three", "a photo of the number five", "a red cat"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(build) -> folder`, each built once."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(build):
        if not (root / build.__name__).exists():
            tiny.save(build, root / build.__name__)
        return root / build.__name__

    return folder


def load(folder) -> DiffusionPipeline:
    config = DiffusionPipeline.load_config(folder)
    absent = [key for key, value in config.items() if value == [None, None] and key.endswith("_3")]
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **dict.fromkeys(absent))


def sigma_time(scheduler, i: int) -> tuple[float, float, float]:
    """alpha, sigma and time of level i, from the scheduler's config, by hand."""
    config = scheduler.config
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        abar = np.cumprod(1 - scheduler.betas.numpy().astype(np.float64))[i]
        return abar**0.5, (1 - abar) ** 0.5, i
    u = (i + 1) / 1000
    shift = 1 if config.get("use_dynamic_shifting") else config.get("flow_shift", config.get("shift"))
    sigma = shift * u / (1 + (shift - 1) * u)
    return 1 - sigma, sigma, 1000 * sigma


def plain_errors(pipe, pixels, samplings, levels, noise) -> np.ndarray:
    """pixels [3, H, W], a Sampling per prompt, levels, noise [p, c, h, w] -> [prompts, points, (l2, l1)] float64."""
    flow = pipe.scheduler.config.get("prediction_type", "flow_prediction") == "flow_prediction"
    with torch.no_grad():
        code = pipe.vae.encode(pixels[None])
    mean = code.latent if hasattr(code, "latent") else code.latent_dist.mode()
    x = (mean - (pipe.vae.config.get("shift_factor") or 0)) * pipe.vae.config.scaling_factor
    out = np.zeros((len(samplings), len(levels), 2))
    for a, sampling in enumerate(samplings):
        for p, i in enumerate(levels):
            alpha, sigma, time = sigma_time(pipe.scheduler, i)
            said = sampling.again(alpha * x + sigma * noise[p][None], time)
            d = said - (noise[p] - x[0] if flow else noise[p]).double().numpy()
            out[a, p] = (d**2).mean(), abs(d).mean()
    return out


@pytest.mark.parametrize("build", tiny.TEXT, ids=lambda build: build.__name__)
def test_errors_agree_with_the_pipeline_itself(run_main, tmp_path, saved, build):
    """From the shell to the record: the pipeline's own sampling says what its network is told."""
    folder = saved(build)
    csv, subset = tmp_path / "p.csv", tmp_path / "first.npy"
    csv.write_text("prompt,classname,classidx\n" + "".join(f"{p},{k},{k}\n" for k, p in enumerate(PROMPTS * 3 + ["a"])))
    np.save(subset, np.array([2]))
    done = run_main(
        SCRIPT, "--version", folder, "--dataset", "digits", "--prompt_path", csv, "--subset_path", subset,
        "--img_size", SIZE, "--to_keep", 1, "--n_samples", 5, "--device", "cpu",
        *(["--t5"] if "t5" in build.__name__ else []),
    )  # fmt: skip
    assert done.code == 0, done.err
    (path,) = (tmp_path / "data" / "digits").glob("*/002.pt")
    record = load_record(path)
    assert record["nfe"] == 50
    errors = record["errors"].numpy().reshape(10, 5, 3)[:3, :, :2]

    pipe = load(folder)
    pixels = centre_crop(load_dataset("digits").open(2), SIZE, "bicubic")
    latent = read_card(str(folder), SIZE).latent
    noise = ImageNoise(0, 2, latent)[record["noise"].tolist()]
    samplings = [tiny.Sampling(pipe, prompt, SIZE) for prompt in PROMPTS]
    wanted = plain_errors(pipe, pixels, samplings, record["levels"].tolist(), noise)
    np.testing.assert_allclose(errors, wanted, rtol=1e-5)
    differ = np.ptp(wanted.mean(1)[:, 0]) / wanted[..., 0].mean()
    assert differ > 1e-4, "the prompts say nothing to this network: the test would not see a lost one"


@pytest.mark.parametrize("build", tiny.TEXT, ids=lambda build: build.__name__)
def test_the_network_is_called_as_in_sampling(saved, build):
    """At every step of the pipeline's own sampling: the same answer to the same z, time and prompt."""
    pipe = load(saved(build))
    sampling = tiny.Sampling(pipe, PROMPTS[0], SIZE, steps=3)
    tell, say = ADAPTERS[type(pipe).__name__][2](pipe, torch.device("cpu"))
    flux = type(pipe).__name__ == "FluxPipeline"
    assert len(sampling.calls) == 3
    with torch.no_grad():
        for seen, said in sampling.calls:
            z = seen["sample" if "sample" in seen else "hidden_states"]
            time = torch.as_tensor(seen["timestep"]).reshape(-1).float() * (1000 if flux else 1)
            if flux:
                z = pipe._unpack_latents(z, SIZE, SIZE, pipe.vae_scale_factor)
            ours = say(z, time, tell(PROMPTS[:1]))
            ours = pipe._pack_latents(ours, 1, 4, 8, 8) if flux else ours
            torch.testing.assert_close(ours, said, rtol=1e-5, atol=1e-6)
