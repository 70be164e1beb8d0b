"""Every adapter over a tiny pipeline of its real class, against what that pipeline does when it samples."""

import functools
import inspect
import json
import shutil
import warnings
from dataclasses import replace
from importlib.util import find_spec

import diffusers
import numpy as np
import pytest
import single_file
import tiny
import torch
from diffusers import DiffusionPipeline
from helpers import answers as answers_of
from helpers import assert_same, csv_of, subset

from diffusion import InputError, InputWarning
from diffusion.core.batching import Block, measure
from diffusion.core.losses import losses_only
from diffusion.core.noise import ImageNoise
from diffusion.data.datasets import load_dataset
from diffusion.data.images import adm_crop, centre_crop
from diffusion.models import families, loading, residence, unsupported
from diffusion.models.config import AUTOENCODERS
from diffusion.models.loading import FAMILIES, _latent, load_model, read_card, weights_size
from diffusion.runs.records import load_record

pytestmark = pytest.mark.slow  # two pipelines of each family

SCRIPT, SIZE = "eval_prob_adaptive.py", 32
OF_CLASSES = [tiny.dit, tiny.latent_vq]
PROMPTS = ["a photo of the number three", "a photo of the number five", "a red cat"]


@pytest.fixture(scope="module")
def pipes(saved):
    """`pipes(build)`: a family's own pipeline, loaded once by diffusers; it only samples."""
    return functools.cache(lambda build: load(saved(build)))


@pytest.fixture(scope="module")
def loaded(saved):
    """`loaded(build)`: a family's model in float32 and the pipeline in it, loaded once."""
    return functools.cache(lambda build: load_both(card_of(saved, build)))


@pytest.fixture(scope="module")
def models(loaded):
    return lambda build: loaded(build)[0]


def load_both(card, **how):
    """A model, and the pipeline that was made for it."""
    made, real = [], loading._pipeline
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_pipeline", lambda *args: made.append(real(*args)) or made[-1])
        return load_model(card, **how), *made


def card_of(saved, build):
    if build in OF_CLASSES:
        return read_card(saved(build), conditioned_on="class")
    return read_card(saved(build), size_of(build), t5=build is tiny.sd3_with_t5)


def modules_of(pipeline) -> dict[str, torch.nn.Module]:
    return {part: module for part, module in pipeline.components.items() if isinstance(module, torch.nn.Module)}


def of_families(builds):
    return pytest.mark.parametrize("build", builds, ids=lambda build: build.__name__)


def size_of(build) -> int:
    """Of images, in pixels."""
    return 64 if build in (tiny.kandinsky_3, tiny.qwen_image_21) else SIZE


def load(folder, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """As diffusers loads it, its VAE in float32."""
    config = DiffusionPipeline.load_config(folder)
    absent = [key for key, value in config.items() if value == [None, None] and key.endswith("_3")]
    dtypes = {"default": dtype} | dict.fromkeys(set(AUTOENCODERS) & config.keys(), torch.float32)
    return DiffusionPipeline.from_pretrained(folder, dtype=dtypes, **dict.fromkeys(absent))


def assert_same_modules(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Parameters, buffers and their dtypes, bit for bit."""
    assert not ours.training
    for kind in ("named_parameters", "named_buffers"):
        a, b = dict(getattr(ours, kind)()), dict(getattr(theirs, kind)())
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert value.dtype == b[key].dtype and torch.equal(value, b[key]), key


@of_families([*tiny.TEXT, *tiny.LATEST, *OF_CLASSES])
def test_modules_are_those_that_the_libraries_load(pipes, loaded, build):
    theirs = modules_of(pipes(build))
    _, pipeline = loaded(build)
    ours = modules_of(pipeline)
    assert ours.keys() == theirs.keys()
    for part, module in ours.items():
        assert_same_modules(module, theirs[part])


IN_FLOAT16 = [tiny.sd3_with_t5, tiny.aura_flow]  # in which T5 keeps some weights in float32
HALVES = [(build, torch.bfloat16) for build in (*tiny.TEXT, *tiny.LATEST, *OF_CLASSES)]
HALVES += [(build, torch.float16) for build in IN_FLOAT16]


@pytest.mark.parametrize("build, dtype", HALVES, ids=lambda each: getattr(each, "__name__", str(each)))
def test_half_precision(saved, models, build, dtype):
    """The modules are those that the libraries load, but for a VAE in float32; their size was right before. The network
    gets inputs of its own dtype; rounding moves predictions of the latest families by 28% at most.
    """
    card = card_of(saved, build)
    half, pipeline = load_both(card, dtype=dtype)
    theirs, size = modules_of(load(saved(build), dtype)), 0
    for part, module in modules_of(pipeline).items():
        assert_same_modules(module, theirs[part])
        bytes_each = 4 if part in AUTOENCODERS else 2
        size += sum(p.numel() for p in module.parameters()) * bytes_each
    assert weights_size(card, dtype) == size
    if build not in tiny.LATEST:
        return
    z = torch.randn(2, *card.latent, generator=torch.Generator().manual_seed(5))
    exact, rounded = (predicted(model, z) for model in (models(build), half))
    assert rounded.dtype == dtype and (rounded - exact).norm() < 0.4 * exact.norm()
    pixels = random_pixels(build)
    assert torch.equal(half.encode(pixels), models(build).encode(pixels))


def predicted(model, z: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.denoise(z, model.process.time[[300, 700]], model.conditions(PROMPTS[::2]))


def random_pixels(build) -> torch.Tensor:
    draw = torch.Generator().manual_seed(6)
    return torch.rand(1, 3, size_of(build), size_of(build), generator=draw) * 2 - 1


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


@of_families(tiny.TEXT)
def test_errors_agree_with_the_pipeline_itself(pipes, models, build):
    """Of an image under two prompts: against the network as the pipeline's own sampling calls it."""
    model, pipe, levels = models(build), pipes(build), [100, 500, 900]
    pixels = centre_crop(load_dataset("digits").open(2), SIZE, "bicubic")
    x = model.encode(pixels[None])[0]
    noise = ImageNoise(0, 2, tuple(x.shape))
    points = torch.arange(len(levels))
    block = Block(x, model.conditions(PROMPTS[::2]), np.arange(2), torch.tensor(levels), points, noise)
    errors = measure(model, [(block, 0, len(block))], len(block), losses_only)
    errors = errors.unflatten(0, (len(levels), 2)).transpose(0, 1)[..., :2]  # [prompts, points, (l2, l1)]

    samplings = [tiny.Sampling(pipe, prompt, SIZE) for prompt in PROMPTS[::2]]
    wanted = plain_errors(pipe, pixels, samplings, levels, noise[points.tolist()])
    np.testing.assert_allclose(errors, wanted, rtol=1e-5)
    differ = np.ptp(wanted[..., 0], axis=0).max() / wanted[..., 0].mean()
    assert differ > 1e-4, "the prompts say nothing to this network: the test would not see a lost one"


@of_families([*tiny.TEXT, *tiny.LATEST])
def test_predictions_are_those_of_sampling(pipes, models, build):
    """At every step of the pipeline's own sampling: the same prediction at the same z, time and prompt."""
    model, steps = models(build), tiny.sampling_steps(pipes(build), PROMPTS[0], size_of(build))
    assert len(steps) == 3
    condition, another = (model.conditions([prompt]) for prompt in PROMPTS[:2])
    with torch.inference_mode():
        for z, time, theirs in steps:
            ours, other = (model.denoise(z, torch.tensor([time]), each) for each in (condition, another))
            c = min(ours.shape[1], theirs.shape[1])  # some pipelines drop a learned variance
            torch.testing.assert_close(ours[:, :c], theirs[:, :c], rtol=1e-5, atol=1e-6)
            assert (ours - other).abs().max() > 1e-4, "the prompts are the same to this network"


@of_families([*tiny.NEW, tiny.pixart_sigma, tiny.sana, *tiny.LATEST])
def test_the_prediction_for_a_prompt_does_not_depend_on_those_beside_it(saved, models, build):
    """Alone, or encoded and called together with one that is longer, and padded to its length."""
    model = models(build)
    long = "a photo of the number three, of a red cat, and of " + ", ".join(PROMPTS)
    alone, both = model.conditions(PROMPTS[2:]), model.conditions([PROMPTS[2], long])
    c, h, w = card_of(saved, build).latent
    z, target = torch.randn(2, 4, c, h, w, generator=torch.Generator().manual_seed(5))
    time = model.process.time[[0, 250, 500, 999]]
    with torch.inference_mode():
        by_itself = model.denoise(z, time, alone[[0] * 4])
        together = model.denoise(z.repeat(2, 1, 1, 1), time.repeat(2), both[[1] * 4 + [0] * 4])
    errors = [((each[:, :c] - target) ** 2).mean((1, 2, 3)) for each in (by_itself, together[4:], together[:4])]
    torch.testing.assert_close(errors[1], errors[0], rtol=1e-5, atol=0)
    assert (errors[2] / errors[0] - 1).abs().max() > 1e-4, "the prompts say nothing to this network"


@of_families([tiny.qwen_image, tiny.z_image, tiny.cogview_4])
def test_padding_is_not_seen(saved, build, monkeypatch):
    """Whatever it holds; in bfloat16 too, which cannot count to 300. What is kept of a prompt has none."""
    model = load_model(card_of(saved, build), dtype=torch.bfloat16)
    conditions = model.conditions(["a" * 301, PROMPTS[0]])
    long, short = map(len, conditions["text"])
    assert long > 256 > short
    z, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5)), model.process.time[[200, 600]]
    with torch.inference_mode():
        wanted = model.denoise(z, time, conditions)
        monkeypatch.setattr(families, "pad_sequence", functools.partial(families.pad_sequence, padding_value=9.0))
        assert torch.equal(model.denoise(z, time, conditions), wanted)


@of_families([*tiny.NEW, tiny.sana, *tiny.LATEST])
def test_prompts_are_counted_as_they_are_read(pipes, build, monkeypatch):
    """What is warned of is counted in the texts that the pipeline gives its tokenizers, templates and all."""
    pipe, calls = pipes(build), []
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


def test_a_prompt_that_a_template_makes_too_long_is_named(models):
    model = models(tiny.lumina_2)
    with pytest.warns(InputWarning, match="the text encoder takes 256; the rest is cut"):
        model.conditions(["a" * 100])  # and before it the system's prompt
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.conditions(PROMPTS)


@of_families(tiny.NEW)
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


@of_families(LATENTS)
def test_sizes_of_the_latest_families(saved, build):
    folder, (latent, native, step) = str(saved(build)), LATENTS[build]
    assert read_card(folder, 64).latent == latent
    assert read_card(folder).image_size == native
    with pytest.raises(InputError, match=f"needs a multiple of {step}"):
        read_card(folder, 64 + step // 2)


@of_families(tiny.LATEST)
def test_latents_of_the_latest_families(pipes, models, build):
    """What the pipeline makes of a latent before it decodes it is what its VAE encodes an image to."""
    pipe, model = pipes(build), models(build)
    pixels = random_pixels(build)
    with torch.no_grad():
        x = model.encode(pixels)
        if build is tiny.deepfloyd_if:
            assert torch.equal(x, pixels)
            return
        wanted, decoded = tiny.encoded(pipe, pixels), tiny.before_decoding(pipe, x)
    torch.testing.assert_close(decoded, wanted, rtol=1e-4, atol=1e-5)


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
    folder = saved(tiny.sit)
    args = ["--version", folder, "--dataset", "digits", "--device", "cpu", "--dtype", "float32", *subset(tmp_path, 2)]
    done = run_main("eval_prob_dit.py", *args, "--to_keep", 1, "--n_samples", 2)
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
                assert record["errors"][2 * a + p, 0].item() == pytest.approx(error.item(), rel=1e-5)
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


@pytest.mark.parametrize("build, as_file", [(tiny.sd3, False), (tiny.flux, True)], ids=["sd3", "flux"])
def test_lora(tmp_path, saved, models, build, as_file):
    """A transformer's weights with a LoRA in them answer as diffusers does with the LoRA beside them."""
    pytest.importorskip("peft")
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = load(saved(build))
    torch.manual_seed(1)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipe.transformer)
    pipe.save_lora_weights(tmp_path / "lora", transformer_lora_layers=layers)
    beside = load(saved(build))
    beside.load_lora_weights(str(tmp_path / "lora"))
    adapter = FAMILIES[type(pipe).__name__].adapter(beside, torch.device("cpu"))
    (lora,) = (tmp_path / "lora").iterdir() if as_file else [tmp_path / "lora"]
    model = load_model(read_card(str(saved(build)), SIZE, lora=str(lora)))
    with_diffusers = replace(
        model, conditions=adapter.encode_prompts, denoise=lambda z, time, c: adapter.predict(z, time.float(), c)
    )
    ours = answers(model)
    torch.testing.assert_close(ours, answers(with_diffusers), rtol=1e-4, atol=1e-5)
    assert (ours - answers(models(build))).abs().max() > 1e-3


def test_t5_only_where_there_is_one(run_main, tmp_path, saved, pipes):
    """With it a run's record holds the errors of the pipeline itself; without it, it is another run."""
    base = ["--dataset", "digits", "--img_size", SIZE, "--device", "cpu", "--to_keep", 1, "--n_samples", 2]
    base += ["--prompt_path", csv_of(tmp_path / "p.csv", *(f"{p},{k},{k}" for k, p in enumerate([*PROMPTS * 3, "a"])))]
    base += subset(tmp_path, 1)
    assert run_main(SCRIPT, "--version", saved(tiny.sd3), "--t5", *base).error.where == "--t5"
    printed, paths = {}, {}
    for t5 in ([], ["--t5"]):
        done = run_main(SCRIPT, "--version", saved(tiny.sd3_with_t5), *t5, *base)
        assert done.code == 0, done.err
        printed[bool(t5)] = done.out
        (paths[bool(t5)],) = {*(tmp_path / "data" / "digits").glob("*/001.pt")} - {*paths.values()}
    assert "without T5 (--t5 loads it)" in printed[False] and "T5" not in printed[True]

    record, pipe = load_record(paths[True]), pipes(tiny.sd3_with_t5)
    pixels = centre_crop(load_dataset("digits").open(1), SIZE, "bicubic")
    noise = ImageNoise(0, 1, (4, 8, 8))[record["noise"].tolist()]
    samplings = [tiny.Sampling(pipe, prompt, SIZE) for prompt in PROMPTS]
    wanted = plain_errors(pipe, pixels, samplings, record["levels"].tolist(), noise)
    np.testing.assert_allclose(record["errors"].unflatten(0, (10, 2))[:3, :, :2], wanted, rtol=1e-5)
    assert not torch.allclose(record["errors"], load_record(paths[False])["errors"], rtol=1e-4)


def test_offload_changes_no_bit(saved, models):
    here, away = models(tiny.sdxl), load_model(card_of(saved, tiny.sdxl), offload=True)
    assert torch.equal(answers(here), answers(away))
    pixels = random_pixels(tiny.sdxl)
    assert torch.equal(here.encode(pixels), away.encode(pixels))


@of_families([build for build in (*tiny.TEXT, *tiny.LATEST) if build is not tiny.kandinsky_3])  # too deep for 32 pixels
def test_parts_that_are_read_when_they_are_used(saved, models, monkeypatch, build):
    """The same bits of every family; afterwards no text encoder is in memory."""
    wanted = answers_of(models(build))
    monkeypatch.setattr(residence, "SMALL", 0)
    model, pipeline = load_both(card_of(saved, build))
    assert torch.equal(answers_of(model), wanted)
    encoders = [module for part, module in modules_of(pipeline).items() if part.startswith("text_encoder")]
    assert {p.device.type for encoder in encoders for p in encoder.parameters()} == {"meta"}


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
def test_pipelines_that_share_a_network(saved, models, tmp_path, name):
    """Loaded as the one whose network they share, which predicts what they sample with, without what they add."""
    if name == "KolorsPAGPipeline":
        pytest.importorskip("sentencepiece")
    shutil.copytree(saved(SHARED[name]), tmp_path / "model")
    path = tmp_path / "model/model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    card, plain = read_card(str(tmp_path / "model"), SIZE, t5="3" in name), card_of(saved, SHARED[name])
    assert card.pipeline == families.SHARED[name]
    assert card == replace(plain, source=card.source), "another model than the one below"
    model = models(SHARED[name])
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
    single_file.write(model_folder, tmp_path / "one.safetensors")
    args = ["--dataset", "digits", "--to_keep", 1, "--n_samples", 2, "--device", "cpu", *subset(tmp_path, 2)]
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
