"""The models: the pipeline that a card describes, loaded whole, and made ready for the kernel."""

import contextlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffusion import InputError, InputWarning, one_line
from diffusion.core.conditions import Conditions, places_of
from diffusion.core.constants import DTYPES
from diffusion.core.process import Process
from diffusion.data.images import to_grey
from diffusion.io import hub
from diffusion.io.wording import few
from diffusion.models import checkpoint, single_file
from diffusion.models.aliases import ALIASES, EMBEDDED
from diffusion.models.config import AUTOENCODERS, T5, UNREADABLE, UNUSED, Card, class_of, read_card
from diffusion.models.families import ADAPTERS, PACKED, Adapter
from diffusion.models.lora import OWN, OWN_TOKEN, add, embed, switcher, token_of
from diffusion.settings import exact_float32, guest

NEAR = 0.02  # of the length of a prompt's conditions: prompts nearer than this are compared bit by bit

__all__ = ["ADAPTERS", "ALIASES", "EMBEDDED", "Card", "Model", "check_weights", "load_model", "read_card"]


@dataclass(frozen=True)
class Model:
    """A diffusion model as the kernel sees it."""

    process: Process
    device: torch.device
    image_size: int  # pixels
    encode: Callable[[Tensor], Tensor]  # images [b, 3, H, W] in [-1, 1] -> x [b, c, h, w] float32
    conditions: Callable[..., Conditions]  # n prompts or class ids [, LoRAs of each, report of progress] -> n rows
    denoise: Callable[[Tensor, Tensor, Conditions], Tensor]  # z [n, c, h, w], time [n], n rows -> [n, c or 2c, h, w]
    told: str = "text"  # or "class": what `conditions` takes
    classes: int | None = None  # how many class ids it knows, if it takes those
    tokens: tuple[str, ...] = ()  # of its embeddings
    switch: Callable[[tuple[str, ...]], None] | None = None  # turns on these of the card's own_lora, off the rest


@contextlib.contextmanager
def _reading(card: Card):
    """Turn missing, damaged or foreign files into InputError; a bug of ours is none of these, and stays what it is."""
    try:
        with guest():
            yield
    except OSError as error:  # also hub.Unreachable, and weights.Unreadable of what a library raised
        why = one_line(error, 300)
        where = card.file or card.source
        raise InputError(where, f"cannot read its weights; a local folder will do as well: {why}") from error


def weights_size(card: Card, dtype: torch.dtype) -> int:
    """How many bytes a model will take in memory, from its configurations alone. Raises InputError, as load_model."""
    total = 0
    with _reading(card):
        for part, (source, within) in card.places.items():
            cls = class_of(*card.parts[part])
            module = checkpoint.empty(cls, checkpoint.read_config(cls, source.folder / within))
            itemsize = torch.float32.itemsize if part in AUTOENCODERS else dtype.itemsize
            total += sum(p.numel() for p in module.parameters()) * itemsize
    return total


def _files(source: hub.Source, within: str) -> list[Path]:
    names = checkpoint.weight_files(source.within(within))
    return hub.fetch(source, [f"{within}/{name}" if within else name for name in names])


def _held(card: Card, dtype: torch.dtype | None) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a card's single file, and the parts that they are of; with dtype None zeros that take no room."""
    if card.file is None or not card.file.endswith(".safetensors"):
        return {}, []
    tensors = single_file.read(card.file, dtype)
    if dtype is None:  # the meta device will not do: what converts text encoders asks what is there
        tensors = {key: torch.zeros(()).expand(value.shape) for key, value in tensors.items()}
    parts = [part for part, (_, within) in card.places.items() if within == part]  # a VAE of its own has no folder
    return tensors, [part for part in parts if single_file.holds(class_of(*card.parts[part]), tensors)]


def _modules(card: Card, dtype: torch.dtype | None) -> dict[str, torch.nn.Module]:
    """The parts of a model that have weights; with dtype None on the meta device, with warnings of what was found."""
    tensors, held = _held(card, dtype)
    loaded = {}
    for part, (source, within) in card.places.items():
        cls, folder = class_of(*card.parts[part]), source.folder / within
        own = dtype and (torch.float32 if part in AUTOENCODERS else dtype)  # some VAEs overflow in half precision
        if part in held:
            loaded[part] = single_file.load_part(part, cls, folder, tensors, card.file, own)
        else:
            loaded[part] = checkpoint.load_part(part, cls, folder, _files(source, within), own)
    if held and dtype is None:
        single_file.warn_of_rest(card.file, card.source, [part for part in loaded if part not in held])
    return loaded


def _pipeline(card: Card, dtype: torch.dtype | None):
    given = dict.fromkeys((UNUSED | T5) - card.parts.keys())  # None: is left out
    modules = _modules(card, dtype)
    with checkpoint.library_reads():
        cls = class_of("diffusers", card.pipeline)
        pipeline = cls.from_pretrained(card.home.folder, scheduler=card.scheduler, **modules, **given)
    _limit_tokenizers(pipeline)
    return pipeline


def _limit_tokenizers(pipeline) -> None:
    """A tokenizer gives no more tokens than its text encoder has places for.

    Without a `model_max_length` in tokenizer_config.json transformers (5) takes 1e30, to which pipelines then pad.
    """
    for key, tokenizer in pipeline.components.items():
        if not key.startswith("tokenizer") or not hasattr(tokenizer, "model_max_length"):
            continue
        encoder = getattr(pipeline, key.replace("tokenizer", "text_encoder"), None)
        config = getattr(encoder, "config", None)
        most = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        if isinstance(most, int) and tokenizer.model_max_length > most:
            tokenizer.model_max_length = most
    limit = getattr(getattr(pipeline, "tokenizer", None), "model_max_length", None)
    if limit and getattr(pipeline, "tokenizer_max_length", 0) > limit:  # it had looked before
        pipeline.tokenizer_max_length = limit


def check_weights(card: Card) -> dict[str, str]:
    """Look at all the files of a model's weights, before a run begins; what they are known by, of each part.

    Of the hub they are fetched first. The hub's commit, or sizes and hashes of local files, of local folders also of
    the configurations of the parts: a scheduler's says what the network predicts. Raises InputError unless every weight
    of every part is there, every tensor of every LoRA has its place, and every tokenizer has its vocabulary; warns of
    what is not used.
    """
    with _reading(card):
        _check_tokenizers(card)
        known = {}
        if card.lora or card.embeddings or card.own_lora or card.own_tokens:
            pipeline, part = _pipeline(card, None), ADAPTERS[card.pipeline].network
            known |= {f"weights of --embeddings {each}": embed(pipeline, each) for each in card.embeddings}
            known |= {f"weights of {OWN_TOKEN} {e}": embed(pipeline, e, OWN_TOKEN, name) for e, name in card.own_tokens}
            known |= {f"weights of --lora {each}": add(pipeline, part, each) for each in card.lora}
            known |= {f"weights of {OWN} {each}": add(pipeline, part, each, OWN) for each in card.own_lora}
        else:
            _modules(card, None)
        held = _held(card, None)[1]
        if held:
            known["weights of the file"] = checkpoint.fingerprint([single_file.path_of(card.file)])
        for part, (source, within) in card.places.items():
            if part not in held:
                files = _files(source, within)
                known[f"weights of {part}"] = (
                    f"commit {source.commit}" if source.commit else checkpoint.fingerprint(files)
                )
        # the hub's have a commit, and the embedded models nobody edits
        home, read = card.home, {"model_index.json", *card.parts}
        told = [(home, name) for name in home.names if name.split("/")[0] in read]
        told += [(source, Path(part, "config.json")) for source, part in card.places.values() if source != home]
        told = [source.folder / name for source, name in told if source.commit is None]
        told = [path for path in told if f"*{path.suffix}" in hub.TOLD and not path.is_relative_to(EMBEDDED)]
        if told:
            known["configuration"] = checkpoint.fingerprint(told)
    return known


@guest()
def load_model(
    card: Card | str | Path,
    *,
    condition: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    compiled: bool = False,
    offload: bool = False,
) -> Model:
    """Load the pipeline that a card (or a name that `read_card` takes) describes; on CUDA, its network may be compiled.

    `condition` is what the model is conditioned on, "text" or "class". By default that is what its own configuration
    says; of the names of the scripts, "digits" alone stands for two models, and then for the one of texts.

    The VAE works in float32, since it is called once per image, and some overflow in half precision. `offload`: text
    encoders and VAE wait in host memory, and are on the device only while they work. Where there are no safetensors
    (DiT's repositories are older), .bin files are read with weights_only=True. Where the card has LoRAs of single arms,
    `conditions` also takes those of each arm. Raises InputError when there is no such device, and when weights are
    missing or damaged.
    """
    if dtype not in [getattr(torch, name) for name in DTYPES]:
        raise InputError(f"dtype {dtype!r}", f"wanted {' or '.join(f'torch.{name}' for name in DTYPES)}")
    device = find_device(device, f"device {str(device)!r}")
    if condition not in (None, *ALIASES):
        raise InputError(f"condition {condition!r}", f"wanted {' or '.join(ALIASES)}")
    if not isinstance(card, Card):
        card = read_card(str(card), told=condition or _condition_of(str(card)))
    family = ADAPTERS[card.pipeline]
    if condition not in (None, family.condition):
        raise InputError(f"condition {condition!r}", f"{card.source} is conditioned on {family.condition}")
    part, told = family.network, family.condition
    with _reading(card):
        _check_tokenizers(card)
        pipeline = _pipeline(card, dtype)
        for each in card.embeddings:
            embed(pipeline, each)
        for each, name in card.own_tokens:
            embed(pipeline, each, OWN_TOKEN, name)
        for each in card.lora:
            add(pipeline, part, each)
        switch = switcher(pipeline, part, card.own_lora) if card.own_lora else None
    _mark_ends(pipeline)
    network = getattr(pipeline, part)
    release = _visiting(pipeline, network, device) if offload else lambda: None
    (network if offload else pipeline).to(device)
    prepare(network, compiled)
    adapter = family.adapter(pipeline, device)

    @guest()
    @torch.inference_mode()
    def conditions(
        arms: list,
        loras: Sequence[tuple[str, ...]] | None = None,
        report: Callable[[int], object] = lambda n_prompts: None,
    ) -> Conditions:
        settings = loras or [None] * len(arms)
        if told == "text":
            _check_tokens(adapter, arms)
        parts, order = [], []
        for setting, places in places_of(settings).items():
            if setting is not None:
                switch(setting)
            for k in range(0, len(places), 64):
                batch = [arms[place] for place in places[k : k + 64]]
                parts.append(adapter.encode_prompts(batch))
                report(len(batch))
            order += places
        rows = Conditions.cat(parts)
        if loras:
            rows = replace(rows[np.argsort(order)], settings=tuple(loras))
        if told == "text":
            _check_distinct(arms, settings, rows, encode_alone)
        release()
        return rows

    def encode_alone(prompt: str, setting: tuple[str, ...] | None) -> Conditions:
        """The conditions of one prompt, whose bits do not depend on the prompts beside it."""
        if setting is not None:
            switch(setting)
        return adapter.encode_prompts([prompt, prompt])[0]

    @guest()
    @torch.inference_mode()
    def encode(images: Tensor) -> Tensor:
        images = images.to(device, torch.float32)
        if card.autoencoder is None:
            return to_grey(images) if card.latent[0] == 1 else images
        x = _latent(getattr(pipeline, card.autoencoder), images)
        release()
        return x

    def denoise(z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        time = time.float() if time.is_floating_point() else time  # MPS has no float64
        with exact_float32():
            return adapter.predict(z.to(dtype), time.to(device), conditions)

    process = Process.from_scheduler(card.scheduler)  # DDIMPipeline's own is a DDIM, whatever its folder says
    tokens = tuple(token_of(each) for each in card.embeddings)
    return Model(process, device, card.image_size, encode, conditions, denoise, told, card.classes, tokens, switch)


def _condition_of(name: str) -> str:
    """What the model of a name is conditioned on: "text" also where there is none, of which read_card says why."""
    for condition, places in ALIASES.items():
        if name in places:
            return condition
    if name.endswith(hub.SINGLE):
        return "text"
    try:
        declared = json.loads((hub.look(name).folder / "model_index.json").read_text())
        return ADAPTERS[declared["_class_name"]].condition
    except (OSError, ValueError, LookupError, TypeError):
        return "text"


def find_device(given: str | torch.device, said: str) -> torch.device:
    """The device of this name; InputError, which begins with what the caller `said`, where there is no such."""
    try:
        device = torch.device(given)
        torch.empty(1, device=device).cpu()  # "meta" gives no numbers back
        return device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(said, f"not to be had here ({str(error).splitlines()[0]})") from None


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
    if vae.config.get("in_channels") == 4:  # Qwen-Image 2.1's takes RGBA: opaque
        images = F.pad(images, (0, 0, 0, 0, 0, 1), value=1.0)
    video = "z_dim" in vae.config  # Qwen-Image's: an image is one frame
    code = vae.encode(images[:, :, None] if video else images)
    if hasattr(code, "latent_dist"):
        mean = code.latent_dist.mean
    else:  # Sana's and tiny VAEs have no posterior
        mean = code.latent if hasattr(code, "latent") else code.latents
    if video:
        mean = mean[:, :, 0]
    if hasattr(vae, "bn"):  # Flux.2's, of each channel of the squares that its network sees
        return F.pixel_shuffle(vae.bn(F.pixel_unshuffle(mean, PACKED)), PACKED)
    shift, scale = vae.config.get("shift_factor") or 0, vae.config.get("scaling_factor", 1)
    if vae.config.get("latents_mean") and vae.config.get("latents_std"):  # Playground's and Qwen's, of each channel
        shift, std = (mean.new_tensor(vae.config[f"latents_{each}"])[:, None, None] for each in ("mean", "std"))
        scale = scale / std
    return (mean - shift) * scale


def _check_tokenizers(card: Card) -> None:
    """InputError unless each tokenizer of a model has its files, and a vocabulary in them.

    transformers 5.24 makes an empty tokenizer of a folder without a vocabulary, to which all prompts are alike.
    """
    for part, (library, class_name) in card.parts.items():
        if not part.startswith("tokenizer"):
            continue
        folder = card.home.folder / part
        files = [folder / name for name in card.home.within(part)]
        there = [path for path in files if path.is_file()]  # of the hub's, what a tokenizer is read from
        if not there:
            raise InputError(folder, f"the {part} is missing; wanted a {class_name}'s files")
        for path in there:
            checkpoint.check_pointer(path)
        try:
            tokenizer = class_of(library, class_name).from_pretrained(folder)
        except (*UNREADABLE, RuntimeError, ImportError) as error:
            raise InputError(folder, f"cannot be read as the {part}: {one_line(error)}") from error
        if not hasattr(tokenizer, "get_vocab"):  # a processor, which reads images too
            tokenizer = tokenizer.tokenizer
        added = {*tokenizer.added_tokens_encoder, *tokenizer.all_special_tokens}
        if not any(word.strip("\u2581 ") for word in tokenizer.get_vocab() if word not in added):
            raise InputError(folder, f"the {part} has no vocabulary; wanted a {class_name}'s, as in tokenizer.json")


def _mark_ends(pipeline) -> None:
    """Let CLIP take the pooled text at the end of the text, where tokens were added.

    Old configurations say `eos_token_id: 2`, for which transformers 5.24 (`modeling_clip.py`) takes the largest id in
    the prompt: the end of the text, unless a token was added behind it in the vocabulary.
    """
    for key, tokenizer in pipeline.components.items():
        encoder = getattr(pipeline, key.replace("tokenizer", "text_encoder"), None)
        end = getattr(tokenizer, "eos_token_id", None)
        if not key.startswith("tokenizer") or end is None or encoder is None:
            continue
        behind = {index for index in tokenizer.get_vocab().values() if index > end}
        if not behind or not behind <= tokenizer.added_tokens_decoder.keys():
            continue
        for module in encoder.modules():
            if type(module).__name__.startswith("CLIPText") and getattr(module, "eos_token_id", None) == 2:
                module.eos_token_id = end


def _check_tokens(adapter: Adapter, prompts: list[str]) -> None:
    """Name prompts that are longer than a text encoder takes; InputError for a token that it has no embedding of."""
    prompts = list(dict.fromkeys(prompts))
    for part, tokenizer, token_ids, limit in adapter.read(prompts):
        embedded = len(getattr(adapter.pipeline, part).get_input_embeddings().weight)
        for prompt, ids in zip(prompts, token_ids, strict=True):
            if len(ids) > limit:
                cut = f"{prompt!r}: {len(ids)} tokens, the text encoder takes {limit}; the rest is cut"
                warnings.warn(cut, InputWarning, stacklevel=3)
            largest = max(ids[:limit], default=0)
            if largest >= embedded:
                token = tokenizer.convert_ids_to_tokens(largest)
                lacks = f"the {part} has embeddings of {embedded} tokens, its tokenizer {len(tokenizer)}"
                wanted = f"of which {token!r} has none; wanted the files of one training"
                raise InputError(f"{prompt!r}", f"{lacks}, {wanted}")


def _check_distinct(
    prompts: list[str],
    loras: Sequence[tuple[str, ...] | None],
    rows: Conditions,
    encode_alone: Callable[[str, tuple[str, ...] | None], Conditions],
) -> None:
    """Name different prompts whose conditions are the same: the network cannot distinguish them.

    A tokenizer may not know their words, or the encoder's length end before them. The same text twice is the caller's
    matter, and prompts with other LoRAs are others. InputError where all prompts, empty ones aside, are the same.
    """
    places = {}
    for place, arm in enumerate(zip(prompts, loras, strict=True)):
        places.setdefault(arm, place)
    arms = list(places)
    if len(arms) < 2:
        return
    near = _near(rows[list(places.values())])
    groups: dict[tuple, list[str]] = {}
    for k in near:
        prompt, own = arms[k]
        groups.setdefault((own, encode_alone(prompt, own).digest()), []).append(prompt)
    why = "their words are unknown to its tokenizer, or behind the tokens that it takes"
    worded = {arm for arm in arms if arm[0].strip()}
    for (own, _), group in groups.items():
        if len(group) < 2:
            continue
        named = few([repr(prompt) for prompt in group])
        if worded <= {(prompt, own) for prompt in group}:
            raise InputError(f"the text encoder makes the same of all {len(group)} prompts ({named})", why)
        alike = f"{named}: the text encoder makes the same of these, so they cannot be told apart: {why}"
        warnings.warn(alike, InputWarning, stacklevel=3)


def _near(rows: Conditions) -> list[int]:
    """Places of the rows that are nearer to another than NEAR of their length."""
    products = 0
    for column in rows.columns.values():
        same_length = column if isinstance(column, Tensor) else pad_sequence(column, batch_first=True)
        for part in same_length.flatten(1).split(1 << 16, 1):  # so that half precision need not be copied whole
            products = products + part.float() @ part.float().T
    square = products.diagonal()
    distance = square[:, None] + square - 2 * products
    distance.fill_diagonal_(torch.inf)
    return (distance <= NEAR**2 * square[:, None]).any(1).nonzero()[:, 0].tolist()
