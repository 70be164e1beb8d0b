"""What a name stands for: the configuration of a model, read before any weight is loaded."""

import importlib.util
import inspect
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from safetensors import SafetensorError

from diffusion import InputError, InputWarning, one_line
from diffusion.core.process import Process
from diffusion.io import hub
from diffusion.io.wording import split_weight
from diffusion.models import aliases, checkpoint, single_file
from diffusion.models.aliases import ALIASES
from diffusion.models.families import ADAPTERS, PACKED, SHARED, why_unsupported
from diffusion.models.scheduler import flow_scheduler, scheduler_of
from diffusion.settings import quiet_libraries

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)  # not there, or damaged
UNUSED = {  # parts of pipelines that classification does not use
    "safety_checker", "feature_extractor", "image_encoder", "watermarker", "pe", "pe_tokenizer", "guider", "ocr_guider",
}  # fmt: skip
T5 = {"text_encoder_3", "tokenizer_3"}  # of Stable Diffusion 3, which was trained to do without it too
AUTOENCODERS = ("vae", "vqvae", "movq")
LIBRARIES = {  # of parts, as folders call them -> where their classes are
    "diffusers": "diffusers",
    "transformers": "transformers",
    "kolors": "diffusers.pipelines.kolors",
}
TEXT_PARTS = ("text_encoder", "tokenizer", "processor")  # what the names of parts begin with that read prompts
TEXT_ONLY = {"addition_embed_type": {None, "text"}, "encoder_hid_dim_type": {None, "text_proj"}}  # of a U-Net
SIZED = {"StableDiffusionXLPipeline", "KolorsPipeline"}  # pipelines whose U-Net takes the size of the image
CLIPS = {"CLIPTextModel", "CLIPTextModelWithProjection"}


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
    called: tuple[str, ...] = ()  # the names of these classes, if its folder says
    autoencoder: str | None = "vae"  # the part that encodes images; None: the network works in pixels
    has_bound: bool = False  # predicts epsilon and a variance
    vae: str | None = None  # hub id or folder of another VAE than the pipeline's own
    lora: tuple[str, ...] = ()  # hub ids or files of what is added to its weights, perhaps with :WEIGHT
    embeddings: tuple[str, ...] = ()  # hub ids or files of tokens that its tokenizer does not have
    own_lora: tuple[str, ...] = ()  # as `lora`, each of some arms alone
    own_tokens: tuple[tuple[str, str], ...] = ()  # as `embeddings`, each with the name that its token has here
    lacks_t5: bool = False  # it has a T5, which is not loaded
    file: str | None = None  # the single file, or the folder of some parts, that holds the weights
    home: hub.Source | None = field(default=None, repr=False, compare=False)  # what `source` has
    places: dict[str, tuple[hub.Source, str]] = field(
        default_factory=dict, repr=False, compare=False
    )  # of modules -> folder within
    scheduler: object = field(default=None, repr=False, compare=False)


@quiet_libraries()
def read_card(
    name: str,
    image_size: int | None = None,
    *,
    told: str = "text",
    vae: str | None = None,
    lora: str | Sequence[str] | None = None,
    embeddings: Sequence[str] | None = None,
    t5: bool = False,
    config: str | None = None,
) -> Card:
    """Read the configuration of an alias, a hub id, a local folder in diffusers layout or a single file; no weights.

    `told` is what the caller's arms are, "text" or "class"; `t5`: with the T5 of Stable Diffusion 3; `config`: the
    alias, hub id or folder whose configuration a single file has, by default what diffusers takes it for; it also has
    what a folder of some parts lacks. Raises InputError when the model cannot be reached, is no pipeline that we know,
    needs code of its own, is told something else, or does not take that image size or that VAE.
    """
    lora = (lora,) if isinstance(lora, str) else tuple(lora or ())
    for each in lora:
        split_weight(each)
    single = name.endswith(".safetensors")
    folder = os.path.expanduser(name)
    partial = os.path.isdir(folder) and not os.path.isfile(os.path.join(folder, "model_index.json"))
    if name.endswith((".gguf", ".ckpt")):
        raise InputError(
            f"--version {name}", "single files are read as .safetensors only; convert it, or take that one"
        )
    if config is not None and not (single or partial):
        raise InputError(f"--config {config}", f"is for a --version that is a single .safetensors file, not for {name}")
    reasons = []
    try:
        sources = single_file.looks_like(name) if single and not config else ALIASES[told].get(config or name)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"--version {name}", f"cannot be read: {type(error).__name__}: {one_line(error)}") from error
    for source in sources or [config or name]:
        try:
            card = _card(name, source, image_size, told, vae, t5)
            card = replace(card, lora=lora, embeddings=tuple(embeddings or ()))
            return _in_file(card, name) if single else _in_folder(card, name) if partial and config else card
        except InputError:
            raise
        except UNREADABLE as error:
            said = "" if isinstance(error, hub.Unreachable | checkpoint.Unreadable) else f"{type(error).__name__}: "
            reasons.append(f"{source} ({said}{one_line(error)})")
    if single:
        wanted = "wanted a single file and, in --config, the hub id or folder of a model of its kind"
        raise InputError(
            f"--version {name}", f"its configuration could not be read from {'; '.join(reasons)}; {wanted}"
        )
    beside = " (a folder of some parts wants --config too, the model that has the others)" if partial else ""
    raise aliases.unreadable(name, told, reasons, beside)


def _card(name: str, source: str, image_size: int | None, told: str, vae: str | None, t5: bool) -> Card:
    home = hub.look(source)
    if "modular_model_index.json" in home.names and "model_index.json" not in home.names:
        modular = "a modular repository (modular_model_index.json), whose pipeline is put together by code"
        raise InputError(f"--version {name}", f"{source} is {modular}; wanted one with model_index.json")
    pipeline, parts, config, declared = _read_configs(home)
    if pipeline not in ADAPTERS:
        reason = why_unsupported(pipeline, class_of("diffusers", pipeline))
        supported = f"supported are {', '.join(ADAPTERS)}"
        raise InputError(f"--version {name}", f"{source} is a {pipeline}, which {reason}; {supported}")
    if needed := getattr(class_of("diffusers", pipeline), "_backends", []):  # diffusers' stand-in
        missing = " ".join(each for each in needed if importlib.util.find_spec(each) is None)
        raise InputError(
            f"--version {name}", f"{source} is a {pipeline}, which needs another package: pip install {missing}"
        )
    family = ADAPTERS[pipeline]
    part, takes = family.network, family.condition
    if takes != told:
        script = {"text": "eval_prob_adaptive.py", "class": "eval_prob_dit.py"}[takes]
        raise InputError(f"--version {name}", f"{source} is a {pipeline}, which is told a {takes}; that is {script}'s")
    if t5 and (T5 - parts.keys() or pipeline != "StableDiffusion3Pipeline"):
        raise InputError(
            "--t5", f"is for Stable Diffusion 3 with a third text encoder; {source} is a {pipeline} without"
        )
    optional = T5 if pipeline == "StableDiffusion3Pipeline" else set()
    lacks_t5 = not t5 and bool(optional) and not T5 - parts.keys()
    parts = {key: parts[key] for key in parts if key not in UNUSED and (t5 or key not in optional)}
    for key, (library, class_name) in parts.items():
        if key != "scheduler" and (library not in LIBRARIES or not class_of(library, class_name)):
            needs = f"its {key} is {library}.{class_name}, which is neither diffusers' nor transformers'"
            raise InputError(f"--version {name}", f"{source} needs code of its own, which is never run: {needs}")
    modules = [key for key, of in parts.items() if key != "scheduler" and issubclass(class_of(*of), torch.nn.Module)]
    places = {key: (home, key) for key in modules}
    autoencoder = next((part for part in AUTOENCODERS if part in parts), None)
    of_latents = bool(_takes(pipeline).intersection(AUTOENCODERS))
    if vae is not None and not of_latents:
        raise InputError(f"--vae {vae}", f"{source} has no VAE, it works in pixels")
    lost = [key for key in (part, "scheduler") if key not in parts]
    lost += ["VAE"] if of_latents and autoencoder is None and vae is None else []
    if lost:
        lacks = f"{source} has no {lost[0]} (model_index.json names none), which a {pipeline} wants"
        raise InputError(f"--version {name}", lacks)
    if vae is not None:
        autoencoder = "vae"
        places["vae"], config["vae"] = _read_vae(vae)
        parts["vae"] = ("diffusers", config["vae"]["_class_name"])
    network = config[part]
    if takes == "text":
        _check_inputs(source, pipeline, parts, network, home)
    scheduler = scheduler_of(config["scheduler"], source)
    settings = scheduler.config
    if family.flow and Process.from_scheduler(scheduler).predicts != "flow":
        settings = config["scheduler"]
        scheduler = flow_scheduler(settings, source, pipeline)
    if family.shifted and "use_dynamic_shifting" not in settings:
        lacks = "does not say use_dynamic_shifting, and the network's time depends on it"
        raise InputError(source, f"its scheduler, {config['scheduler'].get('_class_name')}, {lacks}")
    process = Process.from_scheduler(scheduler)
    latent, size = (
        _sizes(
            pipeline,
            source,
            network,
            config[autoencoder],
            image_size,
            vae,
            told,
        )
        if autoencoder
        else _pixels(source, network, image_size)
    )
    classes, called = _classes(source, parts[part][1], network, declared) if told == "class" else (None, ())
    return Card(
        source,
        pipeline,
        parts,
        levels=len(process),
        latent=latent,
        image_size=size,
        classes=classes,
        called=called,
        autoencoder=autoencoder,
        has_bound=network.get("out_channels") == 2 * latent[0] and process.predicts == "epsilon",
        vae=vae,
        lacks_t5=lacks_t5,
        home=home,
        places=_with_weights(places) if not name.endswith(".safetensors") else places,
        scheduler=scheduler,
    )


def _sizes(
    pipeline: str, source: str, network: dict, autoencoder: dict, image_size: int | None, vae: str | None, told: str
) -> tuple[tuple[int, int, int], int]:
    """The latent c, h, w and the pixels of the images. InputError: the network does not take these."""
    factor, c = _of_vae(autoencoder, vae or source)
    family = ADAPTERS[pipeline]
    packed = PACKED if family.packed else 1
    takes = network["in_channels"] if "in_channels" in network else network["in_visual_dim"]  # Kandinsky 5's
    if takes != c * packed**2:
        more = {2 * c + 1: "a masked image and its mask (inpainting)", 2 * c: "another image (instruct-pix2pix)"}
        more |= {c + 1: "a map of depths"}
        if takes in more and vae is None and packed == 1:
            raise InputError(source, f"its network takes {takes} channels: beside the latent's {c}, {more[takes]}")
        if vae is None:
            wanted = f"wanted {c * packed**2}, as its VAE gives {c} latent channels"
            raise InputError(source, f"its network takes {takes} channels; {wanted}")
        raise InputError(f"--vae {vae}", f"gives {c} latent channels, {source} takes {takes}")
    side = _side(source, network) or family.side
    native = side * factor
    (patch,) = network.get("all_patch_size") or [network.get("patch_size") or 1]  # Z-Image's is a list
    patch = patch if isinstance(patch, int) else patch[-1]  # of time, height and width
    step = factor * max(packed, patch, family.multiple)  # Qwen's patches are packed squares
    size = native if image_size is None else image_size
    if size < step or size % step:
        raise InputError(f"--img_size {size}", f"{source} needs a multiple of {step}")
    most = network.get("pos_embed_max_size") or size
    if pipeline == "AuraFlowPipeline":  # says how many in all
        most = math.isqrt(most)
    if size > (largest := most * step):
        raise InputError(f"--img_size {size}", f"{source} takes images of {largest} pixels at most")
    if told == "class" and size != native:
        raise InputError(f"--image-size {size}", f"{source} takes images of {native} pixels only")
    return (c, size // factor, size // factor), size


def _of_vae(config: dict, source: str) -> tuple[int, int]:
    """How many pixels are as wide as one place of the latent, and its channels. InputError for an unsupported VAE."""
    if "z_dim" in config:  # Qwen-Image's and Wan's, of videos
        return 2 ** len(config["temperal_downsample"]) * (config.get("patch_size") or 1), config["z_dim"]
    keys = ("encoder_block_out_channels", "down_block_out_channels", "block_out_channels")
    blocks = next((config[key] for key in keys if config.get(key)), None)
    c = config.get("vq_embed_dim") or config.get("latent_channels")
    if blocks is None or c is None or any(key.startswith("temporal") for key in config):
        raise InputError(
            f"{source}", f"its VAE is a {config.get('_class_name')}, which is not supported; wanted an image's"
        )
    return 2 ** (len(blocks) - 1), c


def _pixels(source: str, network: dict, image_size: int | None) -> tuple[tuple[int, int, int], int]:
    """The same of a network that works in pixels."""
    c, side = network["in_channels"], _side(source, network)
    if c not in (1, 3):
        raise InputError(source, f"its network takes {c} channels; wanted images in grey (1) or in colour (3)")
    if image_size not in (None, side):
        raise InputError(f"--image-size {image_size}", f"{source} takes images of {side} pixels only")
    return (c, side, side), side


def _side(source: str, network: dict) -> int | None:
    """The side of the square that a network was trained on."""
    side = network.get("sample_size")
    if isinstance(side, list | tuple):
        if len(set(side)) != 1:
            raise InputError(source, f"its network was trained on {' x '.join(map(str, side))}; wanted a square")
        side = side[0]
    if side is None and network.get("_class_name", "").startswith("UNet2D"):
        raise InputError(source, "its unet/config.json does not say its sample_size, the side of its images")
    return side


def _classes(source: str, kind: str, network: dict, declared: dict) -> tuple[int, tuple[str, ...]]:
    """How many classes a network was trained with, its null class apart, and their names where its folder says."""
    if not kind.startswith("UNet"):
        known = network["num_embeds_ada_norm"]  # its null class comes on top
    else:
        known = network.get("num_class_embeds")
        if network.get("class_embed_type") is not None or not known:
            raise InputError(source, f"its {kind} is not told classes (num_class_embeds); wanted one that is")
        blocks = [*network["down_block_types"], network.get("mid_block_type") or "", *network["up_block_types"]]
        if kind == "UNet2DConditionModel":
            blocks += [] if "mid_block_type" in network else ["UNetMidBlock2DCrossAttn"]
            if told := [block for block in blocks if "CrossAttn" in block]:
                raise InputError(source, f"its {kind} is told a text beside the class ({told[0]})")
    ids = declared.get("id2label") or {}
    names = tuple(str(ids[key]) for key in sorted(ids, key=int))
    if names and [int(key) for key in sorted(ids, key=int)] != list(range(len(ids))):
        raise InputError(source, f"id2label in model_index.json does not name the classes 0..{len(ids) - 1}")
    return _named(source, kind, known, names, "id2label in model_index.json")


def _named(source: str, kind: str, known: int, names: tuple[str, ...], where: str) -> tuple[int, tuple[str, ...]]:
    """How many classes there are, and their names; a U-Net may have one more, the null class, which comes last."""
    null = kind.startswith("UNet") and len(names) == known - 1
    if names and not (null or len(names) == known):
        wanted = f"{known}" if not kind.startswith("UNet") else f"{known}, or {known - 1} if the last is the null class"
        raise InputError(where, f"names {len(names)} classes, {source} has {wanted}")
    return len(names) or known, names


def with_names(card: Card, file: str) -> Card:
    """The card of a class-conditional model whose classes are named by the lines of a file. InputError if they are not.

    Where the model's own folder names them, the file may only leave off its null class by naming one less.
    """
    try:
        with open(os.path.expanduser(file), encoding="utf-8-sig") as opened:
            names = tuple(line.strip() for line in opened.read().strip("\n").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes {file}", f"cannot be read ({one_line(error)})") from None
    if "" in names:
        raise InputError(
            f"--classes {file}", f"line {names.index('') + 1} is empty; wanted a class's name in each line"
        )
    kind = card.parts[ADAPTERS[card.pipeline].network][1]
    classes, called = _named(card.source, kind, card.classes, names, f"--classes {file}")
    return replace(card, classes=classes, called=called)


def class_of(library: str, class_name: str):
    """The class of a part; None where there is no such."""
    return getattr(importlib.import_module(LIBRARIES[library]), class_name, None)


def _with_weights(places: dict[str, tuple[hub.Source, str]]) -> dict[str, tuple[hub.Source, str]]:
    """The same; FileNotFoundError unless each part has a file of weights."""
    for part, (source, within) in places.items():
        try:
            checkpoint.weight_files(source.within(within))
        except FileNotFoundError as error:
            lost = f", in the cache alone: {source.lost}" if source.lost else ""
            raise FileNotFoundError(f"no weights of its {part}: {error}{lost}") from None
    return places


def _in_file(card: Card, file: str) -> Card:
    """A card of a single file, which knows what it was trained to predict."""
    said = {} if ADAPTERS[card.pipeline].flow else single_file.trained_as(file)
    told, betas = card.scheduler.config, hasattr(card.scheduler, "betas")  # flow matching has no use for either
    if changes := {key: value for key, value in said.items() if (betas or key in told) and told.get(key) != value}:
        config = dict(told) | changes | {"_class_name": type(card.scheduler).__name__}
        card = replace(card, scheduler=scheduler_of(config, file))
        changed = ", ".join(f"{key} {value}" for key, value in changes.items())
        warnings.warn(f"{file}: says itself how it was trained: {changed}", InputWarning, stacklevel=3)
    return replace(card, file=file)


def _in_folder(card: Card, folder: str) -> Card:
    """A card of a folder of some parts, such as training leaves; the others are the configuration's."""
    there = hub.look(folder)
    own = {part: (there, part) for part in card.places if f"{part}/config.json" in there.names}
    if not own:
        raise InputError(f"--version {folder}", f"holds none of {', '.join(card.places)}")
    return replace(card, file=folder, places=_with_weights(card.places | own))


def _read_vae(name: str) -> tuple[tuple[hub.Source, str], dict]:
    """Where a VAE lies, and its configuration."""
    from diffusers import AutoencoderKL

    try:
        source = hub.look(name)
        config = AutoencoderKL.load_config(source.folder)
        kind = str(config.get("_class_name", "AutoencoderKL"))
        if not any(word in kind for word in ("Autoencoder", "VAE", "VQModel")) or not class_of("diffusers", kind):
            raise ValueError(f"config.json is a {kind}'s")
        return _with_weights({"vae": (source, "")})["vae"], config | {"_class_name": kind}
    except (OSError, ValueError) as error:
        wanted = "wanted a hub id or the folder of a VAE"
        raise InputError(f"--vae {name}", f"cannot be read; {wanted}: {one_line(error)}") from None


def _read_configs(home: hub.Source) -> tuple[str, dict[str, tuple[str, str]], dict[str, dict], dict]:
    """The class name of a pipeline, its parts (name -> library, class), the configurations of the numeric ones, all."""
    from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline

    declared = DiffusionPipeline.load_config(home.folder)
    pipeline = str(declared["_class_name"])
    pipeline = SHARED.get(pipeline, pipeline)
    takes = _takes(pipeline)
    parts = {key: tuple(value) for key, value in declared.items() if _is_part(value) and key in (takes or declared)}
    config = {}
    for part in {"unet", "transformer", *AUTOENCODERS, "scheduler"} & parts.keys():
        reader = DDPMScheduler if part == "scheduler" else AutoencoderKL  # load_config only reads json, of any class
        config[part] = reader.load_config(home.folder, subfolder=part)
    return pipeline, parts, config, declared


def _is_part(value: object) -> bool:
    """Whether an entry of model_index.json names a library and a class."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)


def _takes(pipeline: str) -> set[str]:
    """The parts that a pipeline's class takes, as diffusers reads model_index.json: other lists are settings.

    Those without a default, and the optional ones that it lists (diffusers 0.42, DiffusionPipeline.from_pretrained).
    Empty for a class that is unknown, or that needs a package.
    """
    cls = class_of("diffusers", pipeline)
    if cls is None or hasattr(cls, "_backends"):
        return set()
    parameters = inspect.signature(cls.__init__).parameters
    required = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    return required | set(cls._optional_components) & parameters.keys()


def _check_inputs(source: str, pipeline: str, parts: dict, network: dict, home: hub.Source) -> None:
    """InputError where prompts cannot be read, or where a network wants more of them than its adapter gives.

    A null text encoder is diffusers' way to leave out the first of Stable Diffusion XL or Stable Diffusion 3's T5.
    """
    xl = pipeline == "StableDiffusionXLPipeline"
    optional = T5 if pipeline == "StableDiffusion3Pipeline" else set()
    if xl:
        optional = {"text_encoder", "tokenizer"}
    lost = [key for key in sorted(_takes(pipeline) - parts.keys() - optional) if key.startswith(TEXT_PARTS)]
    if lost:
        raise InputError(source, f"has no {lost[0]} (null in model_index.json), which a {pipeline} wants")
    kind = network.get("_class_name", "")
    if not kind.startswith("UNet"):
        return
    found = network.get("class_embed_type") or (network.get("num_class_embeds") and "num_class_embeds")
    if found:
        wants = f"a class, a noise level or an embedding beside the text ({found})"
        raise InputError(source, f"its {kind} is conditioned on {wants}; wanted one of text alone")
    for key, known in TEXT_ONLY.items():
        wanted = {"text_time"} if key == "addition_embed_type" and pipeline in SIZED else known
        if network.get(key) not in wanted:
            raise InputError(source, f"its {kind} has {key} {network.get(key)!r}; a {pipeline} gives it text alone")
    if parts["text_encoder_2" if xl else "text_encoder"][1] in CLIPS:
        _check_widths(source, parts, network, home, xl)


def _check_widths(source: str, parts: dict, network: dict, home: hub.Source, xl: bool) -> None:
    """InputError unless CLIP's text is as wide as a U-Net takes it; of XL also the pooled text and the size."""
    encoders = [key for key in ("text_encoder", "text_encoder_2") if key in parts]
    configs = [checkpoint.read_config(class_of(*parts[key]), home.folder / key) for key in encoders]
    width = sum(config.hidden_size for config in configs)
    takes = network.get("encoder_hid_dim") or network.get("cross_attention_dim")
    if isinstance(takes, int) and width != takes:
        raise InputError(source, f"its {' and '.join(encoders)} give text {width} wide, its network takes {takes}")
    if not xl:
        return
    beside = network["projection_class_embeddings_input_dim"] - configs[-1].projection_dim
    if beside != 6 * network["addition_time_embed_dim"]:
        numbers = beside / network["addition_time_embed_dim"]
        wanted = "wanted 6, of the size (a refiner takes 5, the last a score)"
        raise InputError(source, f"its network takes {numbers:g} numbers beside the pooled text; {wanted}")
