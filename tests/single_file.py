"""A Stable Diffusion 1 pipeline as one file in the original layout: the names of its weights, the other way round."""

import re
from pathlib import Path

from safetensors.torch import load_file, save_file

UNET = {
    "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
}  # fmt: skip
RESNET = {
    "norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1.", "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection.",
}  # fmt: skip
VAE = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
BLOCK = r"(down|up|mid)_blocks?\.(\d+\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)"


def swapped(text: str, names: dict[str, str]) -> str:
    return next((new + text.removeprefix(old) for old, new in names.items() if text.startswith(old)), text)


def unet(key: str, n: int, attends: set[int]) -> str:
    """n modules in a block, sampler included; `attends`: the blocks on the way up that have attention."""
    if not (m := re.match(BLOCK, key)):
        return swapped(key, UNET)
    way, block, kind, j, rest = m[1], int((m[2] or "0.")[:-1]), m[3], int(m[4]), m[5]
    if kind == "downsamplers":
        return f"input_blocks.{n * (block + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{n * (block + 1) - 1}.{2 if block in attends else 1}.{rest}"
    rest = swapped(rest, RESNET) if kind == "resnets" else rest
    if way == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * j}.{rest}"
    place = f"input_blocks.{n * block + j + 1}" if way == "down" else f"output_blocks.{n * block + j}"
    return f"{place}.{0 if kind == 'resnets' else 1}.{rest}"


def vae(key: str, blocks: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    side, _, inside = key.partition(".")
    if not (m := re.match(BLOCK, inside)):
        return key
    way, kind, j, rest = m[1], m[3], int(m[4]), m[5]
    if way == "mid":
        return f"{side}.mid.{f'block_{j + 1}' if kind == 'resnets' else 'attn_1'}.{swapped(rest, VAE)}"
    block = int(m[2][:-1]) if way == "down" else blocks - 1 - int(m[2][:-1])
    return f"{side}.{way}.{block}.{f'block.{j}' if kind == 'resnets' else kind[:-2]}.{rest}"


def write(folder: Path, path: Path) -> None:
    """The pipeline in models/digits-sd: one layer a block, attention in the middle one of three."""
    out = {}
    for key, value in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        out["model.diffusion_model." + unet(key, 2, {1})] = value
    for key, value in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        name = vae(key, 3)
        out["first_stage_model." + name] = value[..., None, None] if "attn_1" in name and value.ndim == 2 else value
    for key, value in load_file(folder / "text_encoder/model.safetensors").items():
        out["cond_stage_model.transformer.text_model." + key.removeprefix("text_model.")] = value
    save_file({key: value.contiguous() for key, value in out.items()}, path)
