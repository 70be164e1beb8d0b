"""Every adapter over a tiny pipeline of its real class, against what that pipeline does when it samples."""

import inspect
import json
import shutil
import warnings
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import diffusers
import numpy as np
import pytest
import single_file
import tiny
import torch
from diffusers import DiffusionPipeline
from helpers import assert_same

from diffusion import InputError, InputWarning
from diffusion.core.noise import ImageNoise
from diffusion.data.datasets import load_dataset
from diffusion.data.images import adm_crop, centre_crop
from diffusion.models import families, unsupported
from diffusion.models.loading import FAMILIES, _latent, load_model, read_card, weights_size
from diffusion.runs.records import load_record

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


def size_of(build) -> int:
    """Of images, in pixels."""
    return 64 if build in (tiny.kandinsky_3, tiny.qwen_image_21) else SIZE


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
    return 1 - (i + 1) / 1000, (i + 1) / 1000, i + 1


def plain_errors(pipe, pixels, samplings, levels, noise) -> np.ndarray:
    """pixels [3, H, W], a Sampling per prompt, levels, noise [p, c, h, w] -> [prompts, points, (l2, l1)] float64."""
    predicts = pipe.scheduler.config.get("prediction_type", "flow_prediction")
    with torch.no_grad():
        x = samplings[0].latent(pixels)
    out = np.zeros((len(samplings), len(levels), 2))
    for a, sampling in enumerate(samplings):
        for p, i in enumerate(levels):
            alpha, sigma, time = sigma_time(pipe.scheduler, i)
            prediction = sampling.again(alpha * x + sigma * noise[p][None], time)
            right = {"epsilon": noise[p], "flow_prediction": noise[p] - x[0]}
            right["v_prediction"] = alpha * noise[p] - sigma * x[0]
            d = prediction - right[predicts].double().numpy()
            out[a, p] = (d**2).mean(), abs(d).mean()
    return out


@pytest.mark.parametrize("build", tiny.TEXT, ids=lambda build: build.__name__)
def test_errors_agree_with_the_pipeline_itself(run_main, tmp_path, saved, build):
    """From the shell to the record: against the network as the pipeline's own sampling calls it."""
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


@pytest.mark.parametrize("build", [*tiny.TEXT, *tiny.LATEST], ids=lambda build: build.__name__)
def test_predictions_are_those_of_sampling(saved, build):
    """At every step of the pipeline's own sampling: the same prediction at the same z, time and prompt."""
    pipe = load(saved(build))
    steps = tiny.sampling_steps(pipe, PROMPTS[0], size_of(build))
    adapter = FAMILIES[type(pipe).__name__].adapter(pipe, torch.device("cpu"))
    assert len(steps) == 3
    with torch.no_grad():
        condition, another = (adapter.encode_prompts([prompt]) for prompt in PROMPTS[:2])
        for z, time, theirs in steps:
            ours, other = (adapter.predict(z, torch.tensor([time]), each) for each in (condition, another))
            c = min(ours.shape[1], theirs.shape[1])  # some pipelines drop a learned variance
            torch.testing.assert_close(ours[:, :c], theirs[:, :c], rtol=1e-5, atol=1e-6)
            assert (ours - other).abs().max() > 1e-4, "the prompts are the same to this network"


@pytest.mark.parametrize(
    "build", [*tiny.NEW, tiny.pixart_sigma, tiny.sana, *tiny.LATEST], ids=lambda build: build.__name__
)
def test_the_prediction_for_a_prompt_does_not_depend_on_those_beside_it(saved, build):
    """Alone, or encoded and called together with one that is longer, and padded to its length."""
    model = load_model(read_card(str(saved(build)), size_of(build)))
    long = "a photo of the number three, of a red cat, and of " + ", ".join(PROMPTS)
    alone, both = model.conditions(PROMPTS[2:]), model.conditions([PROMPTS[2], long])
    c, h, w = read_card(str(saved(build)), size_of(build)).latent
    z, target = torch.randn(2, 4, c, h, w, generator=torch.Generator().manual_seed(5))
    time = model.process.time[[0, 250, 500, 999]]
    with torch.inference_mode():
        by_itself = model.denoise(z, time, alone[[0] * 4])
        together = model.denoise(z.repeat(2, 1, 1, 1), time.repeat(2), both[[1] * 4 + [0] * 4])
    errors = [((each[:, :c] - target) ** 2).mean((1, 2, 3)) for each in (by_itself, together[4:], together[:4])]
    torch.testing.assert_close(errors[1], errors[0], rtol=1e-5, atol=0)
    assert (errors[2] / errors[0] - 1).abs().max() > 1e-4, "the prompts say nothing to this network"


@pytest.mark.parametrize("build", [tiny.qwen_image, tiny.z_image, tiny.cogview_4], ids=lambda build: build.__name__)
def test_padding_is_not_seen(saved, build, monkeypatch):
    """Whatever it holds; in bfloat16 too, which cannot count to 300. What is kept of a prompt has none."""
    model = load_model(read_card(str(saved(build)), SIZE), dtype=torch.bfloat16)
    conditions = model.conditions(["a" * 301, PROMPTS[0]])
    long, short = map(len, conditions["text"])
    assert long > 256 > short
    z, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5)), model.process.time[[200, 600]]
    with torch.inference_mode():
        wanted = model.denoise(z, time, conditions)
        monkeypatch.setattr(families, "pad_sequence", partial(families.pad_sequence, padding_value=9.0))
        assert torch.equal(model.denoise(z, time, conditions), wanted)


@pytest.mark.parametrize("build", [*tiny.NEW, tiny.sana, *tiny.LATEST], ids=lambda build: build.__name__)
def test_prompts_are_counted_as_they_are_read(saved, build, monkeypatch):
    """What is warned of is counted in the texts that the pipeline gives its tokenizers, templates and all."""
    pipe, calls = load(saved(build)), []
    adapter = FAMILIES[type(pipe).__name__].adapter(pipe, torch.device("cpu"))
    for cls in {type(reading.tokenizer) for reading in adapter.read(PROMPTS[:1])}:
        plain = cls.__call__

        def watched(self, text=None, *args, plain=plain, **kwargs):
            texts = [text] if isinstance(text, str) else text
            calls.extend((id(self), each, kwargs.get("max_length")) for each in texts)
            return plain(self, text, *args, **kwargs)

        monkeypatch.setattr(cls, "__call__", watched)
    prompts = ['a red cat says "three"'] if build is tiny.hunyuan_image else PROMPTS[:1]
    readings = adapter.read(prompts)
    counted = {call[:2] for call in calls}
    assert {who for who, _ in counted} == {id(reading.tokenizer) for reading in readings}
    calls.clear()
    with torch.no_grad():
        adapter.encode_prompts(prompts)
    assert counted <= {call[:2] for call in calls}
    longest = {"qwen_image": 34 + 1024}  # of which the pipeline takes no more than 34 + 512
    for reading in readings:
        limits = {most for who, text, most in calls if (who, text) in counted and who == id(reading.tokenizer)}
        assert limits <= {None, longest.get(build.__name__, reading.limit)}


def test_a_prompt_that_a_template_makes_too_long_is_named(saved):
    model = load_model(read_card(str(saved(tiny.lumina_2)), SIZE))
    with pytest.warns(InputWarning, match="the text encoder takes 256; the rest is cut"):
        model.conditions(["a" * 100])  # and before it the system's prompt
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.conditions(PROMPTS)


@pytest.mark.parametrize("build", tiny.NEW, ids=lambda build: build.__name__)
def test_sizes_that_a_network_does_not_take(saved, build, tmp_path):
    folder = str(saved(build))
    factor = 8 if build in (tiny.lumina_2, tiny.hunyuan_dit) else 4
    step = factor if build.__name__ == "kolors" else 2 * factor
    assert read_card(folder, SIZE).latent == (4, SIZE // factor, SIZE // factor)
    for size in (SIZE + step // 2, step // 2):
        with pytest.raises(InputError, match=f"--img_size {size}: .* needs a multiple of {step}"):
            read_card(folder, size)
    if build is tiny.aura_flow:  # has 4 by 4 places
        with pytest.raises(InputError, match="images of 32 pixels at most"):
            read_card(folder, SIZE + step)
    tiny.vae(latent_channels=3).save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match="gives 3 latent channels"):
        read_card(folder, vae=str(tmp_path / "vae"))


LATENTS = {  # what a size of the latest families comes to: the latent of 64 pixels, native pixels, their step
    tiny.qwen_image_21: ((8, 4, 4), 1024, 32), tiny.krea_2: ((4, 16, 16), 512, 8),
    tiny.ernie_image: ((4, 16, 16), 512, 8), tiny.ovis_image: ((4, 16, 16), 512, 8),
    tiny.kandinsky_3: ((4, 8, 8), 1024, 64), tiny.longcat_image: ((16, 16, 16), 512, 8),
    tiny.nucleus_image: ((4, 16, 16), 512, 8), tiny.bria: ((4, 16, 16), 512, 8),
    tiny.hidream_image: ((4, 16, 16), 512, 8), tiny.kandinsky_5: ((4, 8, 8), 1024, 16),
    tiny.hunyuan_image: ((4, 16, 16), 256, 4), tiny.prx: ((4, 16, 16), 256, 8),
}  # fmt: skip


@pytest.mark.parametrize("build", LATENTS, ids=lambda build: build.__name__)
def test_sizes_of_the_latest_families(saved, build):
    folder, (latent, native, step) = str(saved(build)), LATENTS[build]
    assert read_card(folder, 64).latent == latent
    assert read_card(folder).image_size == native
    with pytest.raises(InputError, match=f"needs a multiple of {step}"):
        read_card(folder, 64 + step // 2)


@pytest.mark.parametrize("build", tiny.LATEST, ids=lambda build: build.__name__)
def test_latents_of_the_latest_families(saved, build):
    """What the pipeline makes of a latent before it decodes it is what its VAE encodes an image to."""
    pipe = load(saved(build))
    model = load_model(read_card(str(saved(build)), size_of(build)))
    pixels = torch.rand(1, 3, size_of(build), size_of(build), generator=torch.Generator().manual_seed(6)) * 2 - 1
    with torch.no_grad():
        x = model.encode(pixels)
        if build is tiny.deepfloyd_if:
            assert torch.equal(x, pixels)
            return
        wanted, decoded = tiny.encoded(pipe, pixels), tiny.before_decoding(pipe, x)
    torch.testing.assert_close(decoded, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", tiny.LATEST, ids=lambda build: build.__name__)
def test_the_latest_families_in_bfloat16(saved, build):
    """The network gets inputs of its own dtype; rounding moves predictions of these tiny ones by 28% at most."""
    card = read_card(str(saved(build)), size_of(build))
    z = torch.randn(2, *card.latent, generator=torch.Generator().manual_seed(5))
    predictions = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(card, dtype=dtype)
        with torch.inference_mode():
            output = model.denoise(z, model.process.time[[300, 700]], model.conditions(PROMPTS[::2]))
        assert output.dtype == dtype
        predictions.append(output.float())
    exact, rounded = predictions
    assert (rounded - exact).norm() < 0.4 * exact.norm()


def test_a_vae_may_scale_each_channel():
    """As Playground's: what its pipeline decodes, latents std / scale + mean, is what the VAE encoded."""
    mean, std = [0.3, -0.2, 0.1, 0.5], [1.5, 0.7, 2.0, 1.1]
    vae = tiny.vae(latents_mean=mean, latents_std=std, scaling_factor=0.5).eval()
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(6)) * 2 - 1
    with torch.no_grad():
        x, wanted = _latent(vae, pixels), vae.encode(pixels).latent_dist.mode()
    for k in range(4):
        torch.testing.assert_close(x[:, k] * std[k] / 0.5 + mean[k], wanted[:, k])


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="it is installed")
def test_kolors_names_the_package_that_it_needs(tmp_path):
    index = {"_class_name": "KolorsPipeline", "scheduler": ["diffusers", "DDPMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text("{}")
    with pytest.raises(InputError, match="KolorsPipeline, which needs another package: pip install sentencepiece"):
        read_card(str(tmp_path))


def test_cogview_takes_the_time_before_the_shift(saved):
    """Whatever its scheduler's shift: exponential, or the same for every size."""
    pipe = load(saved(tiny.cogview_4))
    for how in ({"time_shift_type": "exponential"}, {"use_dynamic_shifting": False, "shift": 3.0}):
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **how)
        steps = tiny.sampling_steps(pipe, PROMPTS[0], SIZE)
        adapter = FAMILIES["CogView4Pipeline"].adapter(pipe, torch.device("cpu"))
        for z, time, theirs in steps:
            with torch.no_grad():
                ours = adapter.predict(z, torch.tensor([time]), adapter.encode_prompts(PROMPTS[:1]))
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_class_ids_and_flow(run_main, tmp_path, saved):
    """SiT: DiT's network under a flow-matching scheduler."""
    folder, subset = saved(tiny.sit), tmp_path / "first.npy"
    np.save(subset, np.array([2]))
    args = "--version", folder, "--dataset", "digits", "--subset_path", subset, "--device", "cpu", "--dtype", "float32"
    done = run_main("eval_prob_dit.py", *args, "--to_keep", 1, "--n_samples", 5)
    assert done.code == 0, done.err
    (path,) = (tmp_path / "data" / "digits").rglob("002.pt")
    record = load_record(path)
    pipe = load(folder)
    x = pipe.vae.encode(adm_crop(load_dataset("digits").open(2), SIZE)[None]).latent_dist.mode() * 0.7
    noise = ImageNoise(0, 2, (4, 8, 8))[record["noise"].tolist()]
    with torch.no_grad():
        for a in range(10):
            for p, i in enumerate(record["levels"].tolist()):
                s = (i + 1) / 1000
                z = (1 - s) * x + s * noise[p]
                output = pipe.transformer(z, timestep=torch.tensor([1000 * s]), class_labels=torch.tensor([a])).sample
                error = ((output[:, :4] - (noise[p] - x)) ** 2).mean()
                assert record["errors"][5 * a + p, 0].item() == pytest.approx(error.item(), rel=1e-5)
    refused = run_main("eval_prob_dit.py", *args, "--save_vb", "--extra", "vb")
    assert refused.code == 2 and "--save_vb" in refused.err


# ---- what is added, left out, or put elsewhere ----


def answers(model, prompts=tuple(PROMPTS)) -> torch.Tensor:
    """Predictions [prompts, 4, c, h, w] of fixed latents at four levels."""
    conditions = model.conditions(list(prompts))
    z = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        times = model.process.time[[0, 250, 500, 999]]
        return torch.stack([model.denoise(z, times, conditions[[k] * 4]) for k in range(len(prompts))])


@pytest.mark.parametrize("build", [tiny.sdxl, tiny.sd3, tiny.flux], ids=lambda build: build.__name__)
def test_lora(tmp_path, saved, build):
    """The weights with a LoRA in them answer as diffusers does with the LoRA beside them."""
    pytest.importorskip("peft")
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = saved(build)
    pipe = load(folder)
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    network = getattr(pipe, part)
    torch.manual_seed(1)
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(network)}
    pipe.save_lora_weights(tmp_path / "lora", **layers)
    beside = load(folder)
    beside.load_lora_weights(str(tmp_path / "lora"))
    adapter = FAMILIES[type(pipe).__name__].adapter(beside, torch.device("cpu"))
    (file,) = (tmp_path / "lora").iterdir()
    for lora in (tmp_path / "lora", file):
        model = load_model(read_card(str(folder), SIZE, lora=str(lora)))
        ours, without = answers(model), answers(load_model(read_card(str(folder), SIZE)))
        with_diffusers = replace(
            model, conditions=adapter.encode_prompts, denoise=lambda z, time, c: adapter.predict(z, time.float(), c)
        )
        theirs = answers(with_diffusers)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert (ours - without).abs().max() > 1e-3


def test_t5_only_where_there_is_one(run_main, tmp_path, saved):
    base = "--dataset", "digits", "--img_size", SIZE, "--search", "race", "--device", "cpu", "--budget", 20
    assert run_main(SCRIPT, "--version", saved(tiny.sd3), "--t5", *base).error.where == "--t5"
    np.save(tmp_path / "first.npy", np.array([0]))
    printed = {}
    for t5 in ([], ["--t5"]):
        done = run_main(
            SCRIPT, "--version", saved(tiny.sd3_with_t5), *t5, "--subset_path", tmp_path / "first.npy", *base
        )
        assert done.code == 0, done.err
        printed[bool(t5)] = done.out
    assert "without T5 (--t5 loads it)" in printed[False] and "T5" not in printed[True]
    assert len(list((tmp_path / "data" / "digits").iterdir())) == 2, "two runs, two folders"


@pytest.mark.parametrize("build", [tiny.sdxl, tiny.sd3_with_t5, tiny.sana], ids=lambda build: build.__name__)
def test_offload_changes_no_bit(saved, build):
    card = read_card(str(saved(build)), SIZE)
    here, away = load_model(card), load_model(card, offload=True)
    assert torch.equal(answers(here), answers(away))
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4)) * 2 - 1
    assert torch.equal(here.encode(pixels), away.encode(pixels))


@pytest.mark.parametrize("build", [*tiny.TEXT, *tiny.LATEST, tiny.dit], ids=lambda build: build.__name__)
def test_the_size_of_the_weights(saved, build):
    """The parameters that are then loaded, counted without them; the VAE's in float32, T5's only if asked for."""
    folder, condition = saved(build), "class" if build is tiny.dit else "text"
    pipe = load(folder)
    for t5 in (False, True) if build is tiny.sd3_with_t5 else (False,):
        card = read_card(str(folder), conditioned_on=condition, t5=t5)
        total = 0
        for name, part in pipe.components.items():
            left_out = name == "text_encoder_3" and build is tiny.sd3_with_t5 and not t5
            if isinstance(part, torch.nn.Module) and not left_out:
                total += sum(p.numel() for p in part.parameters()) * (4 if name in ("vae", "movq") else 2)
        assert weights_size(card, torch.bfloat16) == total


def test_half_precision_encodes_in_float32(saved):
    card = read_card(str(saved(tiny.sdxl)), SIZE)
    pixels = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4)) * 2 - 1
    half = load_model(card, dtype=torch.bfloat16)
    assert half.conditions(PROMPTS)["text"].dtype == torch.bfloat16
    assert torch.equal(half.encode(pixels), load_model(card).encode(pixels))


def test_every_pipeline_of_diffusers_is_supported_or_refused():
    """Those that make an image of a text or of class ids and take nothing else: a new diffusers shows what is new."""
    found = set()
    for name in dir(diffusers):
        cls = getattr(diffusers, name)
        if not name.endswith("Pipeline") or "Modular" in name or hasattr(cls, "_backends"):
            continue
        parameters = inspect.signature(cls.__call__).parameters
        if {"prompt", "class_labels"} & parameters.keys() and not unsupported.takes_beside(parameters):
            found.add(name)
    assert len(found) > 60
    tables = [set(FAMILIES), set(families.SHARED), set(unsupported.UNSUPPORTED)]
    assert not found - set.union(*tables), "new in diffusers"
    assert sum(map(len, tables)) == len(set.union(*tables)), "in two tables"
    assert all(hasattr(diffusers, name) for name in set.union(*tables))
    assert set(families.SHARED.values()) <= set(FAMILIES)
    assert all(unsupported.UNSUPPORTED.values())


SHARED = {  # every pipeline of families.SHARED -> what builds one whose class is then changed to it
    "StableDiffusionPAGPipeline": tiny.sd, "StableDiffusionXLPAGPipeline": tiny.sdxl,
    "StableDiffusion3PAGPipeline": tiny.sd3_with_t5, "PixArtSigmaPAGPipeline": tiny.pixart_sigma,
    "SanaPAGPipeline": tiny.sana, "HunyuanDiTPAGPipeline": tiny.hunyuan_dit, "KolorsPAGPipeline": tiny.kolors,
    "StableDiffusionSAGPipeline": tiny.sd, "StableDiffusionPanoramaPipeline": tiny.sd_ddim,
    "StableDiffusionParadigmsPipeline": tiny.sd_parallel, "StableDiffusionAttendAndExcitePipeline": tiny.sd,
    "StableDiffusionModelEditingPipeline": tiny.sd, "SemanticStableDiffusionPipeline": tiny.sd,
}  # fmt: skip


def test_every_shared_network_has_its_row():
    assert SHARED.keys() == families.SHARED.keys()


@pytest.mark.parametrize("name", SHARED)
def test_pipelines_that_share_a_network(saved, tmp_path, name):
    """Loaded as the one whose network they share, which predicts what they sample with, without what they add."""
    if name == "KolorsPAGPipeline":
        pytest.importorskip("sentencepiece")
    shutil.copytree(saved(SHARED[name]), tmp_path / "model")
    path = tmp_path / "model/model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    card = read_card(str(tmp_path / "model"), SIZE, t5="3" in name)
    assert card.pipeline == families.SHARED[name]
    model = load_model(card)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert type(pipe).__name__ == name
    if name == "StableDiffusionParadigmsPipeline":
        steps = tiny.network_calls(pipe, PROMPTS[0], SIZE)
    else:
        steps = tiny.sampling_steps(pipe, PROMPTS[0], SIZE)
    assert len(steps) >= 3
    with torch.no_grad():
        condition = model.conditions(PROMPTS[:1])
        for z, time, theirs in steps:
            ours = model.denoise(z, torch.tensor([time]), condition)
            torch.testing.assert_close(ours[:, :4], theirs[:, :4], rtol=1e-5, atol=1e-6)


def test_a_network_of_average_velocities_is_refused(saved, tmp_path):
    """HunyuanImage with MeanFlow takes a second time, which its pipeline never sets to the first one."""
    shutil.copytree(saved(tiny.hunyuan_image), tmp_path / "model")
    path = tmp_path / "model/transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_meanflow": True}))
    with pytest.raises(InputError, match="use_meanflow"):
        read_card(str(tmp_path / "model"))


def test_out_of_memory_says_what_to_try(run_main, tmp_path, saved, monkeypatch):
    """Raised as CUDA does, since here is none; before that, calls were halved."""
    family = FAMILIES["StableDiffusionXLPipeline"]

    class Full(family.adapter):
        def predict(self, *_):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setitem(FAMILIES, "StableDiffusionXLPipeline", family._replace(adapter=Full))
    done = run_main(
        SCRIPT, "--version", saved(tiny.sdxl), "--dataset", "digits", "--img_size", SIZE, "--search", "race",
        "--device", "cpu", "--batch_size", 64,
    )  # fmt: skip
    assert done.code == 2 and "--offload" in done.err and "--batch_size" in done.err and "Traceback" not in done.err


# ---- single files ----


def test_a_single_file_is_the_folder(run_main, tmp_path, model_folder):
    """The same weights in the original layout: the same bits in the record."""
    np.save(tmp_path / "first.npy", np.array([2]))
    single_file.write(model_folder, tmp_path / "one.safetensors")
    args = "--dataset", "digits", "--subset_path", tmp_path / "first.npy", "--search", "race", "--device", "cpu"
    for log, version in (("a", [model_folder]), ("b", [tmp_path / "one.safetensors", "--config", model_folder])):
        done = run_main(SCRIPT, "--version", *version, *args, log=log)
        assert done.code == 0, done.err
    (a,), (b,) = ([*(tmp_path / log / "digits").glob("*/002.pt")] for log in "ab")
    assert_same({2: load_record(a)}, {2: load_record(b)})


def test_a_single_file_is_recognised(run_main, tmp_path, model_folder):
    """As what it looks like; the configuration is then the hub's, which is out of reach here."""
    single_file.write(model_folder, tmp_path / "one.safetensors")
    args = "--dataset", "digits", "--search", "race", "--device", "cpu"
    done = run_main(SCRIPT, "--version", tmp_path / "one.safetensors", *args)
    assert done.code == 2 and "stable-diffusion-v1-5" in done.err and "--config" in done.err
    assert done.err.count("\n") == 1
