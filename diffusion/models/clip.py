"""CLIP as a baseline: its similarity of images and texts. A thin layer over open_clip, imported only when used."""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusion import InputError, InputWarning, one_line
from diffusion.io.reading import check_pt
from diffusion.io.wording import few
from diffusion.models.aliases import EMBEDDED
from diffusion.models.checkpoint import fingerprint

DEFAULTS = {  # --model -> version, and the tag of the weights that go with it
    "clip": ("ViT-L/14", "openai"),
    "openclip": ("ViT-H-14", "laion2b_s32b_b79k"),
    "siglip": ("ViT-SO400M-14-SigLIP-384", "webli"),
}
PRECISION = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
CARD = "open_clip_config.json"
IMAGES = ("mean", "std", "interpolation", "resize_mode")  # settings of preprocessing in open_clip's cards


def find_clip(
    model: str, version: str | None, pretrained: str | None, flag: str = "--version "
) -> tuple[str, str | None]:
    """open_clip's name of a model and the tag or file of its weights, from --model, --version and --pretrained.

    `version` may also be "digits" or a folder in open_clip's layout, which holds its weights; `flag` is its option,
    for messages. Raises InputError if open_clip has no such model or weights.
    """
    open_clip = _import()
    default, default_tag = DEFAULTS[model]
    version = version or default
    folder = Path(os.path.expanduser(version))
    if version == "digits":
        folder = EMBEDDED / "digits-clip"
    if os.path.isfile(folder / CARD):
        if pretrained is not None:
            raise InputError(f"--pretrained {pretrained}", f"{flag}{version} brings its own weights")
        return f"local-dir:{folder}", None
    name = version.replace("/", "-")
    if name not in open_clip.list_models():
        near = ", ".join(each for each in open_clip.list_models() if each.startswith(name[:5])) or "ViT-L-14, ..."
        no_folder = f"no folder of that name holds {CARD}"
        raise InputError(f"{flag}{version}", f"open_clip has no such model (it has {near}), and {no_folder}")
    pretrained = pretrained and os.path.expanduser(pretrained)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None and default_tag in tags:
        return name, default_tag
    if pretrained not in tags and not os.path.isfile(tag_and_file(name, pretrained)[1] or ""):
        where, wanted = f"{flag}{version} needs --pretrained", "wanted a file of weights"
        if pretrained:
            where = f"--pretrained {pretrained}"
        if tags:
            wanted += f" or, for {name}, {', '.join(tags)}"
        raise InputError(where, wanted)
    return name, pretrained


def tag_and_file(name: str, pretrained: str | None) -> tuple[str | None, str | None]:
    """The tag and the file of --pretrained TAG, FILE or TAG=FILE (a file that is read as that tag's weights)."""
    tags = _import().list_pretrained_tags_by_model(name)
    if pretrained is None or pretrained in tags:
        return pretrained, None
    tag, _, file = pretrained.partition("=")
    if tag in tags and file and not os.path.isfile(pretrained):
        return tag, os.path.expanduser(file)
    return None, os.path.expanduser(pretrained)


@dataclass(frozen=True)
class Training:
    """How weights were trained, if their file does not hold it."""

    images: dict  # settings of preprocessing; open_clip's defaults for those of IMAGES that are not in it
    quick_gelu: bool
    unknown: str = ""  # the settings that had to be guessed, and the guesses

    def __str__(self) -> str:
        images = " ".join(f"{key} {self.images[key]}" for key in IMAGES if key in self.images)
        activation = "QuickGELU" if self.quick_gelu else "GELU"
        return f"{images or 'preprocessing by default'}, {activation}"


def training_of(name: str, pretrained: str | None) -> Training:
    """How the weights that find_clip names were trained.

    A file is taken to be trained as its tag, as the card beside it (open_clip_config.json) has it, or as all tags of
    this model, if these agree. open_clip 3.3 reads none of them: it takes OpenAI's mean and crop for any file, and GELU
    for OpenAI's weights, which were trained with QuickGELU. Raises InputError if the card cannot be read.
    """
    open_clip = _import()
    tag, file = tag_and_file(name, pretrained)
    if name.startswith("local-dir:"):  # open_clip reads the card of such a folder
        return Training({}, False)
    configs = _configs(name, tag, file)
    images = {}
    for key in IMAGES:
        if configs and configs[0].get(key) is not None:
            images[key] = configs[0][key]
    differ = []
    for key, value in images.items():
        if any(config.get(key) != value for config in configs):
            differ.append(key)
    activations = {bool(config.get("quick_gelu")) for config in configs}
    if open_clip.get_model_config(name).get("quick_gelu"):
        activations = {True}
    unknown = []
    if differ or (not images and tag is None):
        settings = differ or IMAGES
        unknown.append(f"preprocessing ({', '.join(settings)}; taken: OpenAI's mean and crop)")
    if len(activations) > 1:
        unknown.append("activation (taken: GELU)")
    if differ:
        images = {}
    return Training(images, activations == {True}, " and ".join(unknown))


def _configs(name: str, tag: str | None, file: str | None) -> list[dict]:
    """The settings that may be those of some weights: the tag's, the card's beside a file, or those of all tags."""
    open_clip = _import()
    if tag is not None:
        return [open_clip.get_pretrained_cfg(name, tag)]
    card = Path(file).parent / CARD
    if card.is_file():
        return [_card(card)]
    return [open_clip.get_pretrained_cfg(name, each) for each in open_clip.list_pretrained_tags_by_model(name)]


def _card(path: Path) -> dict:
    """Preprocessing and activation in a card, in the layout of a tag's configuration. Raises InputError."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        images = card.get("preprocess_cfg") or {}
        return {**images, "quick_gelu": bool(card["model_cfg"].get("quick_gelu"))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(path, f"cannot be read as open_clip's card of the weights beside it: {error!r}") from None


def _local_files(name: str, pretrained: str | None) -> list[Path]:
    """The local files of the weights that find_clip names; [] for those that open_clip fetches itself."""
    if pretrained is not None:
        file = tag_and_file(name, pretrained)[1]
        return [Path(file)] if file else []
    folder = Path(name.removeprefix("local-dir:"))
    return [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin", ".pt")]


def clip_weights(name: str, pretrained: str | None) -> dict[str, str]:
    """The fingerprint of the weights that find_clip names; {} for those of a tag, which identifies them."""
    files = _local_files(name, pretrained)
    if not files:
        return {}
    found = fingerprint(files)
    if pretrained is not None:
        found += f"; {training_of(name, pretrained)}"
    return {"weights of CLIP": found}


def load_clip(
    name: str, pretrained: str | None, *, dtype: str, device
) -> tuple[Callable[[Image.Image], Tensor], Callable[[list[str]], Tensor]]:
    """Load a model: two functions, an RGB image -> its features [d] and n texts -> theirs [n, d]; float64, of length 1.

    So `texts @ image` are cosine similarities [n]. Raises InputError if the weights cannot be loaded; the second
    function raises it if several texts are all the same to the tokenizer. Warns if it is unknown how the weights of a
    file were trained, and of texts that are cut.
    """
    open_clip = _import()
    for path in _local_files(name, pretrained):
        check_pt(path)
    file, training = tag_and_file(name, pretrained)[1], training_of(name, pretrained)
    try:
        with _silent():
            model, preprocess = open_clip.create_model_from_pretrained(
                name,
                file or pretrained,
                precision=PRECISION[dtype],
                device=device,
                force_quick_gelu=training.quick_gelu,
                **{f"image_{key}": value for key, value in training.images.items()},
            )
            tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # without a network, or for a damaged file, open_clip raises nearly any class
        reason = one_line(error, 300)
        found = f"cannot load its weights; --pretrained takes a file: {reason}"
        raise InputError(f"{name}, {pretrained}", found) from error
    model.eval()
    if training.unknown:
        how = f"--pretrained TAG=FILE reads it as a tag's weights, or put {CARD} beside it"
        tags = few(open_clip.list_pretrained_tags_by_model(name), 4) or "none"
        differ = f"open_clip's tags for {name} ({tags}) leave open its {training.unknown}"
        warnings.warn(f"--pretrained {pretrained}: {differ}; {how}", InputWarning, stacklevel=2)
    check = TokenCheck(tokenizer)

    @torch.inference_mode()
    def of_image(image: Image.Image) -> Tensor:
        x = preprocess(image)[None].to(device, open_clip.get_input_dtype(PRECISION[dtype]))
        return F.normalize(model.encode_image(x).double(), dim=-1)[0].cpu()

    @torch.inference_mode()
    def of_texts(texts: list[str]) -> Tensor:
        tokens = tokenizer(texts)
        check(texts, tokens.tolist())
        chunks = tokens.to(device).split(64)
        return torch.cat([F.normalize(model.encode_text(chunk).double(), dim=-1).cpu() for chunk in chunks])

    return of_image, of_texts


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let nothing be logged, and transformers never ask whether to run a folder's code; both are restored."""
    from transformers import dynamic_module_utils

    disabled, seconds = logging.root.manager.disable, dynamic_module_utils.TIME_OUT_REMOTE_CODE
    logging.disable(logging.CRITICAL)
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds
        logging.disable(disabled)


class TokenCheck:
    """Warns of texts that a tokenizer cuts, once of each, and of texts that become the same."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.named: set[str] = set()  # texts that were cut
        self.left: dict[tuple[int, ...], str] = {}  # the tokens that were left of them -> the first such text

    def __call__(self, texts: list[str], tokens: list[list[int]]) -> None:
        """Check texts and their tokens [texts, context length]. InputError if different texts are all the same.

        The texts of one call are compared; those that are cut, with all that were cut before.
        """
        first: dict[tuple[int, ...], str] = {}
        same = []
        rows = dict(zip(texts, map(tuple, tokens), strict=True))
        for text, length in zip(rows, _lengths(self.tokenizer, list(rows)), strict=True):
            row = rows[text]
            before = self.left if length > self.tokenizer.context_length else first
            if before is self.left and text not in self.named:
                self.named.add(text)
                taken = f"{length} tokens, CLIP takes {self.tokenizer.context_length}; the rest is cut"
                warnings.warn(f"{text!r}: {taken}", InputWarning, stacklevel=3)
            if before.setdefault(row, text) != text:
                same.append((before[row], text))
        if len(rows) > 1 and len(set(rows.values())) == 1:
            raise InputError("texts", f"all {len(rows)} are the same to CLIP's tokenizer, as {texts[0][:80]!r}")
        more = ""
        if len(same) > 3:
            more = f" (and {len(same) - 3} more)"
        for one, other in same[:3]:
            warnings.warn(f"{one!r} and {other!r} are the same to CLIP{more}", InputWarning, stacklevel=3)


def _lengths(tokenizer, texts: list[str]) -> list[int]:
    """The numbers of tokens of texts, start and end included, before any is cut."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:  # open_clip's SimpleTokenizer
        return [2 + len(tokenizer.encode(text)) for text in texts]
    added = 3 if getattr(tokenizer, "tokenizer_mode", "") == "clips" else 0
    cleaned = [tokenizer.clean_fn(text) for text in texts]
    ids = inner(cleaned, add_special_tokens=not added, verbose=False).input_ids
    return [added + len(each) for each in ids]


def _import():
    try:
        import open_clip
    except ImportError:
        raise InputError("CLIP needs the package 'open_clip_torch'", "pip install open_clip_torch") from None
    return open_clip
