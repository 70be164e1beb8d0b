"""What is added to a model's weights: LoRAs, and embeddings of new tokens. Of each file all or nothing."""

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from diffusion import InputError, one_line
from diffusion.io import hub
from diffusion.io.reading import check_pt
from diffusion.io.wording import few, split_weight
from diffusion.models import checkpoint

USUAL = ["pytorch_lora_weights.safetensors", "adapter_model.safetensors", "learned_embeds.safetensors"]
OWN, OWN_TOKEN = "column lora:", "column embedding:"  # of a csv of prompts, in place of a flag
STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")  # peft's, that leave the model as it was
DOWNS = [".lora_down.weight", ".lora_A.weight", ".lora.down.weight", ".down.weight", ".lora_A.default.weight"]
UPS = [".lora_up.weight", ".lora_B.weight", ".lora.up.weight", ".up.weight", ".lora_B.default.weight"]
# kohya's text encoders as diffusers 0.42.1 renames them; it takes these names for its older ones only where an out_proj
# is among them (`convert_state_dict_to_peft`), and else loses the attention
TEXT_ATTENTION = re.compile(r"(text_encoder(?:_\d)?\..+)\.to_(q|k|v|out)_lora\.(down|up)")
TRAINERS = {"optimizer.bin", "scheduler.bin", "random_states_0.pkl", "scaler.pt", "training_args.bin"}


def find(given: str, flag: str) -> tuple[Path, str | None]:
    """The one file that a path, a folder or a hub id (perhaps with a file's name behind it) means; the hub's commit.

    InputError: none, or several.
    """
    path = Path(os.path.expanduser(given))
    if path.is_file():
        return path, None
    name, suffix = given, Path(given).suffix
    if suffix in (".safetensors", ".bin", ".pt") and given.count("/") >= 2 and not given.startswith(("/", ".", "~")):
        name = "/".join(given.split("/")[:2])
    elif suffix in (".safetensors", ".bin", ".pt"):
        raise InputError(f"{flag} {given}", "cannot be read: no such file")
    try:
        source = hub.look(name)
        files = [f for f in source.within("") if f.endswith((".safetensors", ".bin", ".pt")) and f not in TRAINERS]
        if name != given:
            files = [given.removeprefix(f"{name}/")]
        chosen = [f for f in USUAL if f in files][:1] or [f for f in files if f.endswith(".safetensors")] or files
        if len(chosen) != 1:
            found = f"several, {few(chosen)}: name one of them" if chosen else "no .safetensors or .bin"
            raise InputError(f"{flag} {given}", f"wanted one file of weights, found {found}")
        return hub.fetch(source, chosen)[0], source.commit
    except OSError as error:
        wanted = "wanted a hub id, a folder or a .safetensors file"
        raise InputError(f"{flag} {given}", f"cannot be read; {wanted}: {one_line(error)}") from None


def _read(path: Path, given: str) -> dict[str, Tensor]:
    try:
        tensors = checkpoint.read([path])
    except InputError as error:
        raise InputError(given, error) from None
    except Exception as error:  # whatever a foreign or broken file makes the readers say
        raise InputError(given, f"cannot be read: {one_line(error)}") from None
    if not tensors:
        raise InputError(given, "cannot be read: it holds no tensors")
    return tensors


# ---- LoRA ----


def add(pipeline, network: str, given: str, flag: str = "--lora", adapter: str | None = None) -> str:
    """Add a LoRA to a pipeline's weights, where it costs nothing more; what it is known by.

    Or, under the name of an `adapter`, beside the weights, for `switcher`. On the meta device, all is looked at and
    nothing is added. InputError unless each tensor of its file found its place, in the network or a text encoder, and
    some weight is another one by it.
    """
    name, weight = split_weight(given, flag)
    if not hasattr(pipeline, "load_lora_weights"):
        raise InputError(f"{flag} {given}", f"a {type(pipeline).__name__} takes none")
    try:
        import peft  # noqa: F401
    except ImportError:
        raise InputError(f"{flag} {given}", "needs the package 'peft': pip install peft") from None
    path, commit = find(name, flag)
    flag, called = f"{flag} {given}", adapter or "lora"
    tensors = _read(path, flag)
    if strange := [key for key in tensors if "dora_scale" in key or "lora_magnitude_vector" in key]:
        raise InputError(flag, f"a DoRA, of whose {len(tensors)} tensors {len(strange)} could not be used")
    header = _adapter_header(path, flag)
    _check_start(path, header, flag)
    scaled = tensors if header else _without_alphas(tensors, flag)
    renamed = _renamed(scaled, pipeline, network, path, flag)
    if header and renamed is not tensors:
        raise InputError(flag, "its header has the scales of its tensors, whose names lack their part of the model")
    source = str(path) if header else renamed  # of a file diffusers reads the header too
    more = {"unet_config": pipeline.unet.config} if network == "unet" and "XL" not in type(pipeline).__name__ else {}
    try:
        wanted = _converted(pipeline, renamed, more)
        if any(TEXT_ATTENTION.match(key) for key in wanted):
            source = wanted = {TEXT_ATTENTION.sub(r"\1.\2_proj.lora_linear_layer.\3", k): v for k, v in wanted.items()}
        pipeline.load_lora_weights(source, adapter_name=called, **more)
        if not header:
            _scale_by_one(pipeline, called)
    except Exception as error:  # of diffusers and peft, about keys and shapes
        raise InputError(flag, f"does not fit this {type(pipeline).__name__}: {one_line(error, 300)}") from error
    _check_places(pipeline, wanted, flag, called)
    if all(not value.any() for key, value in wanted.items() if re.search(r"lora_B|\bup\.", key)):
        raise InputError(flag, "leaves the weights as they are: all its changes are 0")
    if getattr(pipeline, network).device.type == "meta":
        pipeline.delete_adapters(called)
    elif not _changes(pipeline, weight, called):
        raise InputError(flag, f"leaves the weights as they are in {getattr(pipeline, network).dtype}")
    elif adapter is None:
        pipeline.fuse_lora(lora_scale=weight)
        pipeline.unload_lora_weights()
    return f"commit {commit}, {path.name}" if commit else checkpoint.fingerprint([path])


def switcher(pipeline, network: str, own: Sequence[str]) -> Callable[[tuple[str, ...]], None]:
    """Add LoRAs of which each is for some arms alone, beside the weights; what turns on some of them and off the rest.

    Raises InputError, as `add`.
    """
    adapters = {given: (f"own{k}", split_weight(given, OWN)[1]) for k, given in enumerate(own)}
    for given, (adapter, _) in adapters.items():
        add(pipeline, network, given, OWN, adapter)
    on = None

    def switch(loras: tuple[str, ...]) -> None:
        nonlocal on
        if loras == on:
            return
        if loras:
            pipeline.enable_lora()
            pipeline.set_adapters(*map(list, zip(*(adapters[each] for each in loras), strict=True)))
        else:
            pipeline.disable_lora()
        on = loras

    return switch


def _modules(pipeline) -> dict[str, torch.nn.Module]:
    return {part: module for part, module in pipeline.components.items() if isinstance(module, torch.nn.Module)}


def _renamed(tensors: dict[str, Tensor], pipeline, network: str, path: Path, flag: str) -> dict[str, Tensor]:
    """Under names that diffusers converts: peft's, ComfyUI's and the attention processors of 2023 lack the part."""
    keys = list(tensors)
    if network == "unet" and all(key.startswith("diffusion_model.") for key in keys):  # as kohya's, but with dots
        return {_as_kohya(key): value for key, value in tensors.items()}
    parts = [part for part in _modules(pipeline) if part == network or part.startswith("text_encoder")]
    heads = tuple(f"{head}." for head in [*parts, "diffusion_model"])
    if any(key.startswith((*heads, "lora_")) for key in keys):
        return tensors
    bare = {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
    if network == "transformer" and bare.keys() == tensors.keys():  # diffusers knows them by other signs
        known = {name for name, _ in pipeline.transformer.named_modules()}
        if not any(_target(key) in known for key in keys):
            return tensors
    if bare.keys() != tensors.keys():
        bare = _scaled(bare, path, flag)
    fits = {}
    for part in parts:
        known = {name for name, _ in getattr(pipeline, part).named_modules()}
        fits[part] = sum(_target(key) in known or _target(key).removeprefix("text_model.") in known for key in bare)
    best = max(fits, key=fits.get)
    if not fits[best]:
        raise InputError(
            f"{flag}", f"of its {len(keys)} tensors none is of this {type(pipeline).__name__}: {keys[0]}, ..."
        )
    return {f"{best}.{key}": value for key, value in bare.items()}


def _target(key: str) -> str:
    """The module that a tensor of a LoRA belongs to."""
    key = re.sub(r"\.processor\.(to_\w+?)_lora\..*", r".\1", key)
    return (
        re.sub(r"\.(lora_[AB]|lora_up|lora_down|lora_linear_layer|lora)\..*", "", key)
        .replace(".to_out", ".to_out.0")
        .replace("0.0", "0")
    )


def _as_kohya(key: str) -> str:
    head, _, tail = key.removeprefix("diffusion_model.").partition(".lora_")
    if not tail and head.endswith(".alpha"):
        return f"lora_unet_{head.removesuffix('.alpha').replace('.', '_')}.alpha"
    tail = {"A.weight": "down.weight", "B.weight": "up.weight"}.get(tail, tail)
    return f"lora_unet_{head.replace('.', '_')}.lora_{tail}"


def _scaled(tensors: dict[str, Tensor], path: Path, flag: str) -> dict[str, Tensor]:
    """peft's file, times alpha / rank, which its adapter_config.json says beside it."""
    try:
        config = json.loads((path.parent / "adapter_config.json").read_text())
        alpha, root = float(config["lora_alpha"]), bool(config.get("use_rslora"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        wanted = "wanted peft's adapter_config.json beside it, which says its lora_alpha"
        raise InputError(flag, f"{wanted} ({one_line(error)})") from None
    if config.get("alpha_pattern"):
        raise InputError(flag, "its adapter_config.json has an alpha_pattern, which is not known here")
    return {
        key: value * (alpha / (value.shape[1] ** 0.5 if root else value.shape[1])) if ".lora_B." in key else value
        for key, value in tensors.items()
    }


def _adapter_header(path: Path, flag: str) -> dict:
    """What diffusers wrote into a file's header about its adapters: `PART.lora_alpha` and the like; {} if nothing."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata")
    try:
        header = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(flag, f"lora_adapter_metadata in its header cannot be read: {one_line(error)}") from None
    if not isinstance(header, dict):
        raise InputError(flag, f"lora_adapter_metadata in its header is a {type(header).__name__}, wanted an object")
    return header


def _check_start(path: Path, header: dict, flag: str) -> None:
    """InputError for an adapter whose training began by changing the model's weights, as PiSSA and OLoRA do.

    Its tensors are a difference from those weights, which are not the model's (peft, `LoraConfig.init_lora_weights`).
    """
    starts = [value for key, value in header.items() if key.rpartition(".")[2] == "init_lora_weights"]
    beside = path.parent / "adapter_config.json"
    if beside.is_file():
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(flag, f"{beside} cannot be read: {one_line(error)}") from None
        if isinstance(config, dict):
            starts.append(config.get("init_lora_weights"))
    for start in starts:
        known = start.lower() if isinstance(start, str) else start
        if known in STARTS:
            continue
        wanted = "wanted it converted: peft's save_pretrained with path_initial_model_for_weight_conversion"
        raise InputError(flag, f"its init_lora_weights is {start!r}, which changes the model's own weights; {wanted}")


def _without_alphas(tensors: dict[str, Tensor], flag: str) -> dict[str, Tensor]:
    """The same LoRA with alpha / rank of each module in its up half, and its alpha as large as its rank.

    diffusers 0.42.1 gives attention and text encoders the most frequent alpha of a file: `get_peft_kwargs` makes an
    alpha_pattern, whose keys match no module there. Some of its converters want an alpha, so each stays, as one that
    changes nothing; `_scale_by_one` is the other half. InputError: an alpha that is no number, or of no module.
    """
    scaled = dict(tensors)
    for key, alpha in tensors.items():
        if not key.endswith(".alpha"):
            continue
        module = key.removesuffix(".alpha")
        down = next((module + end for end in DOWNS if module + end in tensors), None)
        up = next((module + end for end in UPS if module + end in tensors), None)
        if down is None or up is None:
            raise InputError(flag, f"{key} is the alpha of no module: wanted {module}{DOWNS[0]} and {UPS[0]}")
        if alpha.numel() != 1 or not alpha.isfinite().all():
            raise InputError(flag, f"{key} is {alpha.tolist()}, wanted a number")
        rank = len(tensors[down])
        scaled[up] = tensors[up].float() * (float(alpha) / rank)
        scaled[key] = torch.tensor(float(rank))
    return scaled


def _scale_by_one(pipeline, adapter: str) -> None:
    """Let an adapter's layers add up times down, as they are."""
    for module in _modules(pipeline).values():
        for layer in module.modules():
            if hasattr(layer, "lora_alpha") and adapter in layer.scaling:  # attention has a `scaling` of another kind
                layer.lora_alpha[adapter] = layer.r[adapter]
                layer.scaling[adapter] = 1.0


def _converted(pipeline, tensors: dict[str, Tensor], more: dict) -> dict[str, Tensor]:
    """The tensors under diffusers' names, without alphas."""
    told = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "unet") else {}
    found = pipeline.lora_state_dict(dict(tensors), **told)
    return {
        key: value for key, value in (found[0] if isinstance(found, tuple) else found).items() if "alpha" not in key
    }


def _check_places(pipeline, wanted: dict[str, Tensor], flag: str, adapter: str) -> None:
    """InputError unless the modules have as many tensors of the LoRA as its file, in pairs."""
    pairs = [re.sub(r"lora_[AB]|\b(down|up)(?=\.weight)", "", key) for key in wanted]
    odd = [key for key, pair in zip(wanted, pairs, strict=True) if pairs.count(pair) != 2]
    placed, lost = 0, []
    for part, module in _modules(pipeline).items():
        there = sum(f".{adapter}." in key and "lora_" in key for key, _ in module.named_parameters())
        mine = [key for key in wanted if key.startswith(f"{part}.")]
        placed += min(there, len(mine))
        if there != len(mine):
            known = {name.replace(".base_layer", "") for name, _ in module.named_modules()}
            targets = {key: _target(key.removeprefix(f"{part}.")) for key in mine}
            lost += [k for k, t in targets.items() if not {t, t.removeprefix("text_model.")} & known] or mine[-1:]
    lost += [key for key in wanted if key.split(".")[0] not in _modules(pipeline)]
    if lost or odd or placed != len(wanted):
        found = f"{placed} of its {len(wanted)} tensors found their place"
        raise InputError(flag, f"{found}; not {few(lost or odd)}; wanted a LoRA of this model")


def _changes(pipeline, weight: float, adapter: str) -> bool:
    """Whether a layer has other weights with the LoRA in it; the first one decides, as a rule."""
    layers = (m for part in _modules(pipeline).values() for m in part.modules() if hasattr(m, "get_delta_weight"))
    return any(
        adapter in layer.lora_A
        and bool((layer.weight + weight * layer.get_delta_weight(adapter) != layer.weight).any())
        for layer in layers
    )


# ---- textual inversion ----

ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}  # of files for two encoders


def embed(pipeline, given: str, flag: str = "--embeddings", name: str | None = None) -> str:
    """Make a token of a file's embeddings: the one that it names, else the file's name; what it is known by.

    Or, where there is one, of this `name`. InputError: it is none, or of another width, or names a token that is there.
    """
    path, commit = find(given, flag)
    flag = f"{flag} {given}"
    if not hasattr(pipeline, "load_textual_inversion"):
        raise InputError(flag, f"a {type(pipeline).__name__} takes none")
    for part, token, vectors in _embeddings(path, flag):
        token = name or token
        encoder = getattr(pipeline, part, None)
        tokenizer = getattr(pipeline, part.replace("text_encoder", "tokenizer"), None)
        width = encoder.get_input_embeddings().weight.shape[1] if encoder is not None else None
        if width != vectors.shape[-1]:
            raise InputError(flag, f"{vectors.shape[-1]} wide, wanted {width or 'no'} for the {part}")
        try:
            if encoder.device.type == "meta":
                if token in tokenizer.get_vocab():
                    raise ValueError(f"token {token!r} is there already")
                continue
            pipeline.load_textual_inversion({token: vectors}, token=token, text_encoder=encoder, tokenizer=tokenizer)
        except (ValueError, RuntimeError) as error:
            raise InputError(flag, f"{one_line(error)}") from None
    return f"commit {commit}, {path.name}" if commit else checkpoint.fingerprint([path])


def token_of(given: str, flag: str = "--embeddings") -> str:
    """The token that a file of embeddings is used by: the one that it names, else the file's name."""
    return _embeddings(find(given, flag)[0], f"{flag} {given}")[0][1]


def check_used(embeddings: Sequence[str], prompts: Collection[str]) -> None:
    """InputError for a file of --embeddings whose token is in no prompt: it would change nothing."""
    for given in embeddings:
        token = token_of(given)
        if not any(token in prompt for prompt in prompts):
            raise InputError(f"--embeddings {given}", f"none of the {len(prompts)} prompts uses its token {token!r}")


def own_tokens(texts: list[str], files: list[tuple[str, ...]] | None) -> tuple[list[str], dict[str, str]]:
    """Prompts in which the token of each file has a name of its own, and file -> that name; `files` are each prompt's.

    Files that were learned apart often name the same token. InputError: a prompt that does not use its file's token.
    """
    if files is None:
        return texts, {}
    names = {given: f"<own{k}>" for k, given in enumerate(dict.fromkeys(chain.from_iterable(files)))}
    tokens = {given: token_of(given, OWN_TOKEN) for given in names}

    def renamed(text: str, own: tuple[str, ...]) -> str:
        for given in own:
            if tokens[given] not in text:
                raise InputError(
                    f"{OWN_TOKEN} {given}", f"its prompt {text!r} does not use its token {tokens[given]!r}"
                )
            text = text.replace(tokens[given], names[given])
        return text

    return list(map(renamed, texts, files)), names


def _embeddings(path: Path, flag: str) -> list[tuple[str, str, Tensor]]:
    """Which text encoder, which token, and its vectors [n, width], as the tools of the trade save them."""
    try:
        if path.suffix == ".safetensors":
            loaded = checkpoint.read([path])
        else:
            check_pt(path)
            loaded = torch.load(path, weights_only=True)
    except InputError as error:
        raise InputError(flag, error) from None
    except Exception as error:
        raise InputError(flag, f"cannot be read as embeddings: {one_line(error)}") from None
    if isinstance(loaded, Tensor):
        loaded = {path.stem: loaded}
    if "string_to_param" in loaded:  # A1111
        loaded = {str(loaded.get("name") or path.stem): next(iter(loaded["string_to_param"].values()))}
    if loaded.keys() and loaded.keys() <= ENCODERS.keys():
        found = [(ENCODERS[key], path.stem, value) for key, value in loaded.items()]
    elif len(loaded) == 1:
        ((token, value),) = loaded.items()
        found = [("text_encoder", path.stem if token in ("emb_params", "*") else str(token), value)]
    else:
        raise InputError(flag, f"wanted one token's embeddings, it holds {few(loaded)}")
    for _, token, value in found:
        if not isinstance(value, Tensor) or value.ndim not in (1, 2) or not value.is_floating_point():
            raise InputError(flag, f"{token!r} is no embedding [n, width]")
    return [(part, token, torch.atleast_2d(value)) for part, token, value in found]
