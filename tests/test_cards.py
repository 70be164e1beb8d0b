"""What folders say of a model, as diffusers reads it: odd but valid parts are read, others refused in one line."""

import inspect
import json
import shutil
import warnings

import diffusers
import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    AutoencoderTiny,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    VQModel,
)
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from helpers import ROOT
from safetensors.torch import save_file

from diffusion import InputError, InputWarning
from diffusion.core.process import Process
from diffusion.models import aliases
from diffusion.models.config import read_card
from diffusion.models.loading import FAMILIES, load_model
from diffusion.models.scheduler import scheduler_of

BLOCKS = {"block_out_channels": [8, 8, 8], "norm_num_groups": 4, "latent_channels": 4}


def changed(folder, **values) -> None:
    """Values of model_index.json, or with `part=` of that part's configuration."""
    part = values.pop("part", None)
    path = folder / (f"{part}/config.json" if part else "model_index.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def copy(tmp_path):
    """`copy(name) -> folder`, an embedded model to be changed."""

    def folder(name: str):
        shutil.copytree(ROOT / "models" / name, tmp_path / name)
        return tmp_path / name

    return folder


def errors(model) -> torch.Tensor:
    """What the network predicts, less what is right, of one latent under two prompts at three levels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 8, generator=generator) if model.image_size == 32 else None
    conditions = model.conditions(["a photo of the number three", "a red cat"])
    levels, eps = torch.tensor([100, 500, 900]), torch.randn(3, 4, 8, 8, generator=generator)
    z, target = model.process.noised(x, eps, levels), model.process.target(x, eps, levels)
    with torch.inference_mode():
        rows = [model.denoise(z, model.process.time[levels], conditions[[k] * 3]) for k in range(2)]
    return torch.stack([row - target for row in rows])


# ---- model_index.json ----


@pytest.mark.parametrize("value", [
    [2, 5, 8], [1.0, 0.5], [[1, 2], [3, 4]], ["a", "b", "c"], ["a", "b"], [None, 3], {"a": [1, 2]}, "text", 3, None, [],
])  # fmt: skip
def test_settings_in_model_index(copy, value):
    """A list that is no part of the pipeline's class is a setting, as Krea 2's text_encoder_select_layers."""
    folder = copy("digits-sd")
    wanted = read_card(str(folder)).parts
    changed(folder, some_setting=value)
    assert read_card(str(folder)).parts == wanted


def test_a_vae_from_elsewhere_in_place_of_null(copy):
    folder = copy("digits-sd")
    changed(folder, vae=[None, None])
    assert read_card(str(folder), vae=str(folder / "vae")).latent == (4, 8, 8)


def test_the_first_text_encoder_of_xl_may_be_null(tmp_path, saved):
    """Where the network takes the text of the second alone; else one line."""
    from diffusers import StableDiffusionXLPipeline

    def build():
        pipe = tiny.sdxl()
        unet = type(pipe.unet).from_config(pipe.unet.config, cross_attention_dim=24)
        parts = pipe.components | {"unet": unet, "text_encoder": None, "tokenizer": None}
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)

    pipe = tiny.save(build, tmp_path / "xl")
    model = load_model(read_card(str(tmp_path / "xl"), 32))
    conditions = model.conditions(["a red cat", "a photo"])
    z, time = torch.randn(2, 4, 8, 8), torch.tensor([100, 900])
    with torch.no_grad():
        text, _, pooled, _ = pipe.encode_prompt(["a red cat", "a photo"], do_classifier_free_guidance=False)
        size = torch.tensor([[32, 32, 0, 0, 32, 32]]).expand(2, -1)
        added = {"text_embeds": pooled, "time_ids": size}
        wanted = pipe.unet(z, time, encoder_hidden_states=text, added_cond_kwargs=added).sample
        torch.testing.assert_close(model.denoise(z, time, conditions), wanted, rtol=1e-5, atol=1e-6)

    shutil.copytree(saved(tiny.sdxl), tmp_path / "both")
    changed(tmp_path / "both", text_encoder=[None, None], tokenizer=[None, None])
    with pytest.raises(InputError, match="give text 24 wide, its network takes 40"):
        read_card(str(tmp_path / "both"), 32)


def test_the_refiner_of_xl_takes_a_score(tmp_path, saved):
    shutil.copytree(saved(tiny.sdxl), tmp_path / "refiner")
    changed(tmp_path / "refiner", part="unet", projection_class_embeddings_input_dim=24 + 5 * 8)
    with pytest.raises(InputError, match="takes 5 numbers beside the pooled text"):
        read_card(str(tmp_path / "refiner"), 32)


# ---- VAEs ----


VAES = {
    "tiny": lambda: AutoencoderTiny(
        encoder_block_out_channels=[8] * 3, decoder_block_out_channels=[8] * 3, num_encoder_blocks=[1] * 3,
        num_decoder_blocks=[1] * 3,
    ),
    "asymmetric": lambda: AsymmetricAutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3, down_block_out_channels=[8] * 3, layers_per_down_block=1,
        up_block_types=["UpDecoderBlock2D"] * 3, up_block_out_channels=[8] * 3, layers_per_up_block=1,
        norm_num_groups=4, scaling_factor=0.3,
    ),
    "temporal decoder": lambda: AutoencoderKLTemporalDecoder(
        block_out_channels=[32] * 3, down_block_types=["DownEncoderBlock2D"] * 3, scaling_factor=0.3
    ),
    "vq": lambda: VQModel(
        **BLOCKS, down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        scaling_factor=0.3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", VAES)
def test_vaes_of_other_kinds(copy, tmp_path, kind):
    """In the model's own folder and in --vae: what the class itself encodes, scaled."""
    torch.manual_seed(0)
    vae = VAES[kind]().eval()
    folder = copy("digits-sd")
    shutil.rmtree(folder / "vae")
    vae.save_pretrained(folder / "vae")
    changed(folder, vae=["diffusers", type(vae).__name__])
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        code = vae.encode(pixels)
    mean = code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latents
    for card in (read_card(str(folder)), read_card("digits", vae=str(folder / "vae"))):
        assert card.latent == (4, 8, 8) and card.image_size == 32
        torch.testing.assert_close(load_model(card).encode(pixels), mean * vae.config.scaling_factor)


def test_wans_vae_is_qwen_images(tmp_path, saved):
    how = {"latents_mean": [0.3, -0.2, 0.1, 0.5], "latents_std": [1.5, 0.7, 2.0, 1.1]}
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True], **how
    )
    vae.eval().save_pretrained(tmp_path / "wan")
    card = read_card(saved(tiny.qwen_image), 32, vae=str(tmp_path / "wan"))
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = vae.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0]
    shift, std = (torch.tensor(how[key])[:, None, None] for key in ("latents_mean", "latents_std"))
    torch.testing.assert_close(load_model(card).encode(pixels), (mean - shift) / std)


def test_vaes_of_videos_are_refused(copy):
    folder = copy("digits-sd")
    config = dict(inspect.signature(AutoencoderKLHunyuanVideo.__init__).parameters)
    config = {key: value.default for key, value in config.items() if value.default is not inspect.Parameter.empty}
    (folder / "vae/config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKLHunyuanVideo"}))
    changed(folder, vae=["diffusers", "AutoencoderKLHunyuanVideo"])
    for card in ({"name": str(folder)}, {"name": "digits", "vae": str(folder / "vae")}):
        with pytest.raises(InputError, match="AutoencoderKLHunyuanVideo"):
            read_card(**card)


# ---- schedulers of flow matching ----


def test_the_table_of_flow_families_is_diffusers_own():
    """Each family whose pipeline takes a flow-matching scheduler; Sana's takes a solver of either kind."""
    taken = {}
    for name in FAMILIES:
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
        taken[name] = str(parameters["scheduler"].annotation) if "scheduler" in parameters else ""
    if "FlowMatch" not in taken.get("QwenImagePipeline", ""):
        pytest.fail(f"annotations are not what they were: {taken}")
    assert {name for name, kind in taken.items() if "FlowMatch" in kind} | {"SanaPipeline"} == {
        name for name, family in FAMILIES.items() if family.flow
    }


@pytest.mark.parametrize("build, cls", [
    (tiny.sd3, EulerDiscreteScheduler), (tiny.sana, UniPCMultistepScheduler),
    (tiny.qwen_image, UniPCMultistepScheduler), (tiny.cogview_4, UniPCMultistepScheduler),
], ids=lambda each: each.__name__)  # fmt: skip
def test_a_swapped_scheduler_leaves_a_flow_network_what_it_is(tmp_path, saved, build, cls):
    """`from_config` of another class makes it epsilon; what the network predicts, and its time, stay as they were."""
    folder = shutil.copytree(saved(build), tmp_path / "model")
    before = read_card(str(folder), 32)
    assert FAMILIES[before.pipeline].flow
    kept = before.scheduler.config
    settings = {key: value for key, value in kept.items() if "flow" not in str(key) + str(value)}
    cls.from_config(settings | {"beta_schedule": "linear"}).save_pretrained(folder / "scheduler")
    changed(folder, scheduler=["diffusers", cls.__name__])
    assert Process.from_scheduler(cls.from_pretrained(folder / "scheduler")).predicts == "epsilon"
    with pytest.warns(InputWarning, match=f"{cls.__name__}, is none of flow matching"):
        after = read_card(str(folder), 32)
    one, other = Process.from_scheduler(before.scheduler), Process.from_scheduler(after.scheduler)
    assert other.predicts == "flow"
    for table in ("alpha", "sigma", "time"):
        assert torch.equal(getattr(one, table), getattr(other, table))
    if build is tiny.cogview_4:  # whose time is that before the shift
        for key in ("use_dynamic_shifting", "base_shift", "max_shift", "time_shift_type", "base_image_seq_len"):
            assert kept[key] == after.scheduler.config[key]


def test_a_shift_that_is_lost(tmp_path, saved):
    """CogView 4's network takes the time before the shift: it must be in the configuration."""
    shutil.copytree(saved(tiny.cogview_4), tmp_path / "model")
    EulerDiscreteScheduler().save_pretrained(tmp_path / "model/scheduler")
    with warnings.catch_warnings(), pytest.raises(InputError, match="use_dynamic_shifting"):
        warnings.simplefilter("ignore")
        read_card(str(tmp_path / "model"), 32)


def test_errors_under_a_swapped_scheduler(copy):
    folder = copy("digits-flow")
    wanted = errors(load_model(str(folder)))
    flow = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    UniPCMultistepScheduler.from_config(flow.config).save_pretrained(folder / "scheduler")
    changed(folder, scheduler=["diffusers", "UniPCMultistepScheduler"])
    with pytest.warns(InputWarning):
        assert torch.equal(errors(load_model(str(folder))), wanted)


def test_dit_may_be_either(saved):
    """SiT's scheduler says flow, DiT's epsilon: both exist, so both are believed."""
    for build, wanted in ((tiny.dit, "epsilon"), (tiny.sit, "flow")):
        card = read_card(saved(build), conditioned_on="class")
        assert Process.from_scheduler(card.scheduler).predicts == wanted


@pytest.mark.parametrize("left", ["v_prediction", "epsilon", "sample", "nonsense"])
@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_a_left_over_prediction_type(name, left):
    """A flow-matching scheduler takes none, so diffusers keeps it unused in the file."""
    process = Process.from_scheduler(scheduler_of({"_class_name": name, "prediction_type": left}, "x"))
    plain = Process.from_scheduler(FlowMatchEulerDiscreteScheduler())
    assert process.predicts == "flow" and torch.equal(process.sigma, plain.sigma)
    assert torch.equal(process.time, plain.time)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"])
def test_inverted_sigmas_are_refused(name):
    with pytest.raises(InputError, match="invert_sigmas"):
        scheduler_of({"_class_name": name, "invert_sigmas": True}, "x")
    assert Process.from_scheduler(scheduler_of({"_class_name": name, "invert_sigmas": False}, "x")).predicts == "flow"


# ---- prompts ----


@pytest.fixture(scope="module")
def sana(saved):
    return load_model(read_card(saved(tiny.sana), 32))


def test_sanas_instruction_is_counted(sana):
    """A prompt may be as long as 300 less the two that its pipeline takes off, whatever stands before it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        sana.conditions(["a" * 250])
    with pytest.warns(InputWarning, match="the rest is cut"):
        sana.conditions(["a" * 320])


def test_sana_reads_what_its_pipeline_reads(saved, sana):
    pipe = DiffusionPipeline.from_pretrained(saved(tiny.sana), dtype=torch.float32)
    default = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    how = {"device": "cpu", "do_classifier_free_guidance": False}
    with torch.no_grad():
        wanted, mask, *_ = pipe.encode_prompt(["a red cat"], complex_human_instruction=default, **how)
        without, *_ = pipe.encode_prompt(["a red cat"], **how)
        conditions = sana.conditions(["a red cat"])
    torch.testing.assert_close(conditions["text"][0], wanted[0, mask[0].bool()])
    assert (wanted - without).abs().max() > 0.1
    adapter = FAMILIES["SanaPipeline"].adapter(pipe, torch.device("cpu"))
    text = adapter.text("tokenizer", "a red cat")
    limit = adapter.limit("tokenizer")
    assert text == "\n".join(default) + "a red cat" and limit == len(pipe.tokenizer.encode("\n".join(default))) + 298


@pytest.mark.parametrize("name, length", [("digits-sd", None), ("digits-sd", 100), ("digits-flow", int(1e30))])
def test_a_tokenizer_that_says_no_length(copy, name, length):
    """Its text encoder's length is taken."""
    folder = copy(name)
    wanted = load_model(name.removesuffix("-sd")).conditions(["a photo of a red three."]).digest()
    for path in folder.glob("tokenizer*/tokenizer_config.json"):
        config = json.loads(path.read_text())
        config.pop("model_max_length")
        path.write_text(json.dumps(config | ({"model_max_length": length} if length else {})))
    assert load_model(str(folder)).conditions(["a photo of a red three."]).digest() == wanted


# ---- time in half precision ----


class Seen(Exception):
    """Ends a network's call once it has its time."""


def seen(folder, time: torch.Tensor) -> torch.Tensor:
    """The times that a network's sinusoids are taken of, in bfloat16, for `time` in 0..1000."""
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    modules = pipe.transformer.named_modules()
    sinusoids = next(module for name, module in modules if name.endswith(("time_proj", "time_step_embed")))
    found = []

    def watched(module, args, _):
        found.append(args[0].double() * module.scale)
        raise Seen

    sinusoids.register_forward_hook(watched)
    adapter = FAMILIES[type(pipe).__name__].adapter(pipe, torch.device("cpu"))
    with torch.inference_mode():
        condition = adapter.encode_prompts(["a red cat"])
        for t in time.split(100):
            with pytest.raises(Seen):
                adapter.predict(torch.zeros(len(t), 4, 8, 8, dtype=torch.bfloat16), t, condition[[0] * len(t)])
    return torch.cat(found)


@pytest.mark.parametrize("build, wanted, most", [
    (tiny.flux_schnell, 0.625, 2), (tiny.flux_2_klein, 0.625, 2), (tiny.chroma, 0.625, 2),
    (tiny.qwen_image, 0.651, 1.94), (tiny.aura_flow, 0.651, 1.94),
], ids=lambda each: getattr(each, "__name__", str(each)))  # fmt: skip
def test_time_in_bfloat16_is_the_nearer_of_two(saved, build, wanted, most):
    """Mean and largest distance to 1..1000, by hand: rounded before the division, or after it, and multiplied again."""
    time = torch.arange(1.0, 1001)
    off = (seen(saved(build), time) - time).abs()
    half = torch.bfloat16
    before, after = time.to(half) / 1000, (time / 1000).to(half)
    again = (lambda t: t.double() * 1000) if wanted == 0.651 else (lambda t: (t * 1000).double())
    other = min(float((again(t) - time).abs().mean()) for t in (before, after))
    assert float(off.mean()) == pytest.approx(wanted, abs=1e-3) == pytest.approx(other, abs=1e-3)
    assert float(off.max()) == pytest.approx(most, abs=1e-2)
    np.testing.assert_array_less(off.mean(), 0.7)


# ---- what diffusers takes single files for ----

UNET = "model.diffusion_model.input_blocks"
SD2 = {f"{UNET}.2.1.transformer_blocks.0.attn2.to_k.weight": [2, 1024], f"{UNET}.0.0.weight": [2, 4, 3, 3]}
SANA = {"blocks.0.cross_attn.q_linear.weight": [4, 4]}
XL = "conditioner.embedders.{}.model.transformer.resblocks.9.mlp.c_proj.bias"
SINGLE = {  # shapes of a file -> what diffusers takes it for, and what we say of it
    "sd2": (SD2, "v2", "--config 2-1 for epsilon, --config 2-1-v for v"),
    "pixart": (SANA | {"x_embedder.proj.weight": [4, 4, 2, 2]}, "sana", "a PixArt"),
    "qwen-image": ({"transformer_blocks.0.attn.to_q.weight": [4, 4], "txt_norm.weight": [4]}, "v1", "not recognise"),
    "pixart in diffusers' layout": ({"adaln_single.linear.weight": [4, 4]}, "v1", "not recognise"),
    "u-net of 2 alone": ({"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [2, 1024]}, "v1", "Diffusion 2"),
    "u-net of xl alone": ({"input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": [2, 2048]}, "v1", "Diffusion XL"),
    "inpainting": ({f"{UNET}.0.0.weight": [2, 9, 3, 3]}, "inpainting", "a masked image"),
    "inpainting of 2": (SD2 | {f"{UNET}.0.0.weight": [2, 9, 3, 3]}, "inpainting_v2", "a masked image"),
    "refiner": ({XL.format(0): [4]}, "xl_refiner", "a score"),
    "instruct": ({f"{UNET}.0.0.weight": [2, 8, 3, 3]}, "instruct-pix2pix", "an image to change"),
}


def single(path, shapes, metadata=None):
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path, metadata)
    return str(path)


@pytest.mark.parametrize("kind", SINGLE)
def test_where_diffusers_guess_is_wrong(tmp_path, kind):
    shapes, guess, says = SINGLE[kind]
    assert infer_diffusers_model_type({key: torch.zeros(shape) for key, shape in shapes.items()}) == guess
    with pytest.raises(InputError) as refused:
        read_card(single(tmp_path / "one.safetensors", shapes))
    assert says in str(refused.value) and "one.safetensors" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("shapes", [
    {"joint_blocks.0.context_block.adaLN_modulation.1.bias": [9216], "pos_embed": [1, 5, 4]},
    {"joint_blocks.0.context_block.adaLN_modulation.1.bias": [9216]}, {f"{UNET}.0.0.weight": [4]},
])  # fmt: skip
def test_where_diffusers_guess_ends_in_an_error(tmp_path, shapes):
    """diffusers 0.42.1: UnboundLocalError, KeyError and IndexError."""
    with pytest.raises((LookupError, NameError)):
        infer_diffusers_model_type({key: torch.zeros(shape) for key, shape in shapes.items()})
    with pytest.raises(InputError, match="diffusers cannot recognise"):
        read_card(single(tmp_path / "one.safetensors", shapes))


@pytest.mark.parametrize("predicts, alias", [("epsilon", "2-1"), ("v", "2-1-v")])
def test_a_stable_diffusion_2_that_says_what_it_predicts(tmp_path, monkeypatch, predicts, alias):
    """All places are tried: of the last one, here a folder in place of the hub's, the configuration is read."""
    folder = tmp_path / "configured"
    shutil.copytree(ROOT / "models/digits-sd", folder)
    gone = str(tmp_path / "gone/gone")
    monkeypatch.setitem(aliases.ALIASES["text"], alias, [gone, str(folder)])
    file = single(tmp_path / "one.safetensors", SD2, {"modelspec.prediction_type": predicts})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cards = [read_card(file), read_card(single(tmp_path / "plain.safetensors", SD2), config=alias)]
    assert [card.source for card in cards] == [str(folder)] * 2
    assert Process.from_scheduler(cards[0].scheduler).predicts == {"v": "v_prediction"}.get(predicts, predicts)


def test_sizes_of_sana(tmp_path):
    """Its networks of 512 and 1024 pixels have the same shapes."""
    file = single(tmp_path / "one.safetensors", SANA | {"x_embedder.proj.weight": [4, 32, 1, 1]})
    with pytest.warns(InputWarning, match="512 and 1024"), pytest.raises(InputError, match="Sana_1600M_1024px"):
        read_card(file)
