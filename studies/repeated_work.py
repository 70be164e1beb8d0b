"""Which part of a network call is the same for all levels and images, or for all prompts: its share of the operations.

    python studies/repeated_work.py [--only WORD ...] [--time]

Every image is measured at many levels, and every prompt at the same ones. So a network computes some things again that
cannot have changed, and a part of the others for nothing:

- *text*: what depends on the prompt alone: projections of its embedding, keys and values of cross-attention, layers
  that see neither the image nor the time. It could be kept over levels and images.
- *image*: the first layers, before the text enters: the same for all prompts of an image at a level.
- *time*: embeddings of the time, and what modulates by them alone.
- *padding*: tokens that are masked behind a prompt, up to the length to which the pipeline fills it.

The networks have the sizes of the published models and lie on the meta device, where torch counts operations (two for
each multiplication of a matrix product or a convolution) and computes nothing. Shares of text, image and time are of a
call whose prompt has no masked padding, those of padding of a call that has it.

--time measures, with random weights on this machine, what two of these save: leaving out the padding of a Sana, and
keeping the keys and values of the text in a Qwen-Image 2.1. Both are exact.
"""

import argparse
import contextlib
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import diffusers
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from diffusion.core.conditions import Conditions
from diffusion.models.families import FAMILIES

META = torch.device("meta")
TOKENS = 20  # of a prompt such as "a photo of a British Shorthair, a type of pet.", with what its template adds
KINDS = "text", "image", "time", "padding"

TO_K_AND_V = r"attn2\.to_[kv]$"
U_NET_TIME = r"time_embedding$|time_emb_proj$"


@dataclass(frozen=True)
class Row:
    """A family, its network at the published size, and the names of the modules that repeat their work."""

    name: str
    pipeline: str
    build: Callable[[], nn.Module]
    channels: int
    sides: tuple[int, int]  # of the latent: the native one, and that of 256 pixels
    columns: Callable[[int], dict]  # number of tokens -> the columns of a prompt's conditions
    text: str = "(?!)"  # regular expressions of names of modules; by default of none
    image: str = "(?!)"
    time: str = "(?!)"
    tokens: int = TOKENS
    padded: int = 0  # the tokens to which its pipeline fills a prompt, if they are masked


def ones(*shape: int) -> Tensor:
    """A row of a column: [1, ...]."""
    return torch.empty(1, *shape, device=META)


def ragged(*shape: int) -> tuple[Tensor]:
    """A row of a column of texts without padding."""
    return (torch.empty(*shape, device=META),)


# ---- networks of published sizes ----

SD_IMAGE = (
    r"^(conv_in|down_blocks\.0\.(resnets\.0|attentions\.0\.(proj_in|transformer_blocks\.0\.(attn1|attn2\.to_q))))$"
)
FIRST_CONVOLUTIONS = r"^(conv_in|down_blocks\.0\.resnets\.0\.conv1)$"  # the pooled text is in the time's embedding
XL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
}
DEEPFLOYD = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": [704, 1408, 2112, 2816],
    "layers_per_block": 3,
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
    "attention_head_dim": 64,
    "cross_attention_dim": 2816,
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "only_cross_attention": [True, True, True, False],
}
SANA_600 = {
    "num_attention_heads": 36,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
    "sample_size": 16,
}


def stable_diffusion(**config) -> nn.Module:
    return diffusers.UNet2DConditionModel(**{"sample_size": 64} | config)


def hidream() -> nn.Module:
    return diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        axes_dims_rope=(64, 32, 32),
        caption_channels=[4096, 4096],
        llama_layers=[*range(32), *[31] * 16],
    )


def hunyuan_dit() -> nn.Module:
    return diffusers.HunyuanDiT2DModel(
        in_channels=4,
        patch_size=2,
        sample_size=128,
        hidden_size=1408,
        num_layers=40,
        mlp_ratio=4.3637,
        use_style_cond_and_image_meta_size=False,
    )


def kandinsky_5() -> nn.Module:
    return diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=16,
        out_visual_dim=16,
        model_dim=2560,
        ff_dim=10240,
        num_visual_blocks=50,
        axes_dims=(32, 48, 48),
    )


def stable_diffusion_3() -> nn.Module:
    """Stable Diffusion 3.5 medium."""
    return diffusers.SD3Transformer2DModel(
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )


ROWS = [
    Row(
        "Stable Diffusion 1", "StableDiffusionPipeline", lambda: stable_diffusion(cross_attention_dim=768),
        4, (64, 32), lambda n: {"text": ones(77, 768)}, TO_K_AND_V, SD_IMAGE, U_NET_TIME,
    ),
    Row(
        "Stable Diffusion 2", "StableDiffusionPipeline",
        lambda: stable_diffusion(
            cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
        ),
        4, (64, 32), lambda n: {"text": ones(77, 1024)}, TO_K_AND_V, SD_IMAGE, U_NET_TIME,
    ),
    Row(
        "Stable Diffusion XL", "StableDiffusionXLPipeline",
        lambda: stable_diffusion(projection_class_embeddings_input_dim=2816, **XL),
        4, (128, 32), lambda n: {"text": ones(77, 2048), "pooled": ones(1280)}, TO_K_AND_V, FIRST_CONVOLUTIONS,
        "time_embedding$",
    ),
    Row(
        "Kolors", "KolorsPipeline",
        lambda: stable_diffusion(
            projection_class_embeddings_input_dim=5632, encoder_hid_dim=4096, encoder_hid_dim_type="text_proj", **XL
        ),
        4, (128, 32), lambda n: {"text": ones(256, 4096), "pooled": ones(4096)},
        TO_K_AND_V + "|encoder_hid_proj$", FIRST_CONVOLUTIONS, "time_embedding$",
    ),
    Row(
        "IF, first stage", "IFPipeline", lambda: stable_diffusion(**DEEPFLOYD), 3, (64, 64),
        lambda n: {"text": ones(77, 4096)}, r"add_[kv]_proj$|encoder_hid_proj$", FIRST_CONVOLUTIONS,
        "time_embedding$",
    ),
    Row(
        "Kandinsky 3", "Kandinsky3Pipeline", diffusers.Kandinsky3UNet, 4, (128, 32),
        lambda n: {"text": ragged(n, 4096), "mask": ragged(n)},
        r"^encoder_hid_proj$|attentions\.[1-9]\.attention\.to_[kv]$", "^conv_in$", "^time_embedding$",
    ),
    Row(
        "Stable Diffusion 3.5 medium", "StableDiffusion3Pipeline", stable_diffusion_3, 16, (128, 32),
        lambda n: {"text": ones(154, 4096), "pooled": ones(2048)}, "^context_embedder$", "^pos_embed$",
        r"timestep_embedder$",
    ),
    Row(
        "Flux", "FluxPipeline", lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True), 16, (128, 32),
        lambda n: {"text": ones(512, 4096), "pooled": ones(768)}, "^context_embedder$", "^x_embedder$",
        r"timestep_embedder$",
    ),
    Row(
        "Flux.2 dev", "Flux2Pipeline", diffusers.Flux2Transformer2DModel, 32, (128, 32),
        lambda n: {"text": ones(512, 15360)}, "^context_embedder$", "^x_embedder$",
        "^time_guidance_embed$|_modulation(_img|_txt)?$",
    ),
    Row(
        "Chroma", "ChromaPipeline", diffusers.ChromaTransformer2DModel, 16, (128, 32),
        lambda n: {"text": ones(512, 4096), "mask": ones(512)}, "^context_embedder$", "^x_embedder$",
        "^time_text_embed$|^distilled_guidance_layer$",
    ),
    Row(
        "Qwen-Image", "QwenImagePipeline", diffusers.QwenImageTransformer2DModel, 16, (128, 32),
        lambda n: {"text": ragged(n, 3584)}, "^txt_in$", "^img_in$", r"^time_text_embed$|_mod$",
    ),
    Row(
        "Z-Image", "ZImagePipeline", diffusers.ZImageTransformer2DModel, 16, (128, 32),
        lambda n: {"text": ragged(n, 2560)}, r"^cap_embedder$|^context_refiner\.\d+$",
        r"^all_x_embedder|^noise_refiner\.\d+$", "^t_embedder$|adaLN_modulation$",
    ),
    Row(
        "CogView 4", "CogView4Pipeline",
        lambda: diffusers.CogView4Transformer2DModel(num_layers=28, attention_head_dim=128, num_attention_heads=32),
        16, (128, 32), lambda n: {"text": ragged(n, 4096)}, "^patch_embed.text_proj$", "^patch_embed.proj$",
        r"^time_condition_embed$|norm1\.linear$", tokens=16,
    ),
    *[
        Row(
            name, "PixArtSigmaPipeline",
            lambda: diffusers.PixArtTransformer2DModel(caption_channels=4096, use_additional_conditions=False),
            4, (side, 32), lambda n: {"text": ragged(n, 4096)}, TO_K_AND_V + "|^caption_projection$",
            r"^pos_embed$|^transformer_blocks\.0\.(attn1|attn2\.to_q)$", "^adaln_single$", padded=padded,
        )
        for name, side, padded in [
            ("PixArt-alpha, 256 pixels", 32, 120), ("PixArt-Sigma, 256 pixels", 32, 300),
            ("PixArt-Sigma, 512 pixels", 64, 300),
        ]
    ],
    Row(
        "Sana, 0.6 billion, 512 pixels", "SanaPipeline",
        lambda: diffusers.SanaTransformer2DModel(num_layers=28, **SANA_600), 32, (16, 8),
        lambda n: {"text": ragged(n, 2304)}, TO_K_AND_V + "|^caption_projection$",
        r"^patch_embed$|^transformer_blocks\.0\.(attn1|attn2\.to_q)$", "^time_embed$", padded=300,
    ),
    Row(
        "Sana, 1.6 billion, 1024 pixels", "SanaPipeline", diffusers.SanaTransformer2DModel, 32, (32, 8),
        lambda n: {"text": ragged(n, 2304)}, TO_K_AND_V + "|^caption_projection$",
        r"^patch_embed$|^transformer_blocks\.0\.(attn1|attn2\.to_q)$", "^time_embed$", padded=300,
    ),
    Row(
        "Lumina 2", "Lumina2Pipeline", lambda: diffusers.Lumina2Transformer2DModel(cap_feat_dim=2304), 16, (128, 32),
        lambda n: {"text": ragged(n, 2304)}, r"caption_embedder$|^context_refiner\.\d+$",
        r"^x_embedder$|^noise_refiner\.\d+$", r"timestep_embedder$|^layers\.\d+\.norm1\.linear$", 60,
    ),
    Row(
        "PRX, 512 pixels", "PRXPipeline", diffusers.PRXTransformer2DModel, 16, (64, 32),
        lambda n: {"text": ragged(n, 2304)}, r"^txt_in$|txt_kv_proj$", "^img_in$", r"^time_in$|modulation\.lin$",
        padded=256,
    ),
    Row(
        "AuraFlow", "AuraFlowPipeline", lambda: diffusers.AuraFlowTransformer2DModel(pos_embed_max_size=9216),
        4, (128, 32), lambda n: {"text": ones(256, 2048)}, "^context_embedder$", "^pos_embed$",
        r"^time_step_proj$|norm1(_context)?\.linear$",
    ),
    Row(
        "HunyuanDiT 1.2", "HunyuanDiTPipeline", hunyuan_dit, 4, (128, 32),
        lambda n: {"clip": ones(77, 1024), "clip_mask": ones(77), "t5": ones(256, 2048), "t5_mask": ones(256)},
        TO_K_AND_V + "|^text_embedder$", "^pos_embed$", r"timestep_embedder$",
    ),
    Row(
        "Qwen-Image 2.1", "QwenImage21Pipeline", diffusers.QwenImage21Transformer2DModel, 64, (64, 16),
        lambda n: {"text": ragged(n, 4096)},
    ),
    Row(
        "Krea 2", "Krea2Pipeline", diffusers.Krea2Transformer2DModel, 16, (128, 32),
        lambda n: {"text": ragged(n, 12, 2560)}, "^text_fusion$|^txt_in$", "^img_in$", "^time_embed$|^time_mod_proj$",
    ),
    Row(
        "ERNIE-Image", "ErnieImagePipeline",
        lambda: diffusers.ErnieImageTransformer2DModel(
            hidden_size=4096, num_layers=36, num_attention_heads=32, ffn_hidden_size=12288, text_in_dim=3072
        ),
        32, (128, 32), lambda n: {"text": ragged(n, 3072)}, "^text_proj$", "^x_embedder$",
        "^time_embedding$|^adaLN_modulation$",
    ),
    Row(
        "Ovis-Image", "OvisImagePipeline", diffusers.OvisImageTransformer2DModel, 16, (128, 32),
        lambda n: {"text": ones(256, 2048)}, "^context_embedder$", "^x_embedder$",
        r"^timestep_embedder$|norm1?(_context)?\.linear$",
    ),
    Row(
        "LongCat-Image", "LongCatImagePipeline",
        lambda: diffusers.LongCatImageTransformer2DModel(num_layers=10, num_single_layers=20), 16, (128, 32),
        lambda n: {"text": ones(512, 3584)}, "^context_embedder$", "^x_embedder$",
        r"^time_embed$|norm1?(_context)?\.linear$",
    ),
    Row(
        "Nucleus-Image, diffusers' default", "NucleusMoEImagePipeline", diffusers.NucleusMoEImageTransformer2DModel,
        16, (128, 32), lambda n: {"text": ragged(n, 3584), "mask": (torch.ones(n, dtype=torch.bool, device=META),)},
        r"encoder_proj$|attn\.add_[kv]_proj$", r"^img_in$", r"^time_text_embed$|img_mod$", 64,
    ),
    Row(
        "Bria 3", "BriaPipeline", lambda: diffusers.BriaTransformer2DModel(num_layers=8, num_single_layers=28),
        16, (128, 32), lambda n: {"text": ones(128, 4096)}, "^context_embedder$", "^x_embedder$",
        r"^time_embed$|norm1?(_context)?\.linear$",
    ),
    Row(
        "HiDream-I1", "HiDreamImagePipeline", hidream, 16, (128, 32),
        lambda n: {"t5": ones(128, 4096), "llama": ones(32, 128, 4096), "pooled": ones(2048)},
        r"^caption_projection\.\d+$|^p_embedder$", "^x_embedder$", "^t_embedder$",
    ),
    Row(
        "Kandinsky 5", "Kandinsky5T2IPipeline", kandinsky_5, 16, (128, 32),
        lambda n: {"text": ragged(n, 3584), "pooled": ones(768)}, "^(pooled_)?text_embeddings$",
        "^visual_embeddings$", "^time_embeddings$",
    ),
    Row(
        "HunyuanImage 2.1", "HunyuanImagePipeline", diffusers.HunyuanImageTransformer2DModel, 64, (64, 8),
        lambda n: {"text": ragged(n, 3584), "quoted": ragged(1, 1472)}, "^context_embedder.proj_in$", "^x_embedder$",
        r"^time_guidance_embed$|norm1?(_context)?\.linear$",
    ),
    Row(
        "DiT, 256 pixels", "DiTPipeline", lambda: diffusers.DiTTransformer2DModel(out_channels=8), 4, (32, 32),
        lambda n: {"class": torch.zeros(1, dtype=torch.long, device=META)}, "class_embedder$", "^pos_embed$",
        "timestep_embedder$",
    ),
]  # fmt: skip


# ---- counting ----


def adapter_of(row: Row):
    """A family's adapter over a network on the meta device, with what it reads of its pipeline."""
    family = FAMILIES[row.pipeline]
    with META:
        network = row.build().eval()
    _replace_what_reads_values(row.pipeline, network)
    pipeline = SimpleNamespace(
        **{family.network: network},
        vae_scale_factor=8,
        scheduler=SimpleNamespace(
            config=SimpleNamespace(num_train_timesteps=1000, use_dynamic_shifting=False, shift=1.0)
        ),
        vae=SimpleNamespace(bn=SimpleNamespace(eps=0)),
        movq=SimpleNamespace(register_to_config=lambda **config: None),
        tokenizer_max_length=512,
    )
    adapter = family.adapter(pipeline, META)
    if row.pipeline == "HunyuanDiTPipeline":
        adapter.places = lambda h, w: 2 * (torch.empty(h * w // 4, network.config.attention_head_dim, device=META),)
    return adapter, network


def _replace_what_reads_values(pipeline: str, network: nn.Module) -> None:
    """Replace the modules that need values, of which the meta device has none, by others of the same cost."""
    if pipeline == "Lumina2Pipeline":
        patch, frequencies = network.config.patch_size, sum(network.config.axes_dim_rope) // 2

        def places(z: Tensor, mask: Tensor):
            squares = torch.nn.functional.pixel_unshuffle(z, patch).flatten(2).transpose(1, 2)
            n, tokens = squares.shape[1], mask.shape[1]
            rotary = [torch.empty(1, length, frequencies, dtype=torch.complex64, device=META) for length in (
                tokens, n, tokens + n
            )]  # fmt: skip
            return squares, *rotary, [tokens], [tokens + n]

        network.rope_embedder.forward = places
    if pipeline == "ErnieImagePipeline":
        head = network.config.hidden_size // network.config.num_attention_heads
        network.pos_embed.forward = lambda ids: torch.empty(*ids.shape[:2], 1, head, device=META)
    if pipeline == "HiDreamImagePipeline":
        network.unpatchify = lambda x, sizes, training: x
    if pipeline == "HunyuanImagePipeline":
        network.context_embedder_2 = None  # of what is in quotes, which most prompts do not have
    for module in network.modules():
        if type(module).__name__ == "MOEFeedForwardSwiGLU":
            module.forward = _of_experts(module)
        if type(module).__name__ == "SwiGLUExperts":
            module.forward = _one_expert(module)


def _of_experts(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """HiDream's mixture: each token by the shared expert and by so many others."""

    def forward(x: Tensor) -> Tensor:
        total = layer.shared_experts(x)
        for expert in layer.experts[: layer.num_activated_experts]:
            total = total + expert(x)
        return total

    return forward


def _one_expert(experts: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Nucleus' experts: each token that is routed to one, by any."""

    def forward(x: Tensor, tokens_of_each: Tensor) -> Tensor:
        gate, up = (x @ experts.gate_up_proj[0]).chunk(2, -1)
        return (gate * up) @ experts.down_proj[0]

    return forward


def counts(row: Row, adapter, network: nn.Module, side: int, tokens: int) -> dict[str, int]:
    """The operations of one evaluation, by module: its name, "" for the whole network -> a number."""
    z = torch.empty(1, row.channels, side, side, device=META)
    level = torch.full([1], 500.0, device=META)
    conditions = Conditions(row.columns(tokens))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        adapter.predict(z, level, conditions)
    root = type(network).__name__
    found = {}
    for name, operations in counter.get_flop_counts().items():
        if name == root or name.startswith(f"{root}."):
            found[name.removeprefix(root).removeprefix(".")] = sum(operations.values())
    return found


def share(found: dict[str, int], pattern: str) -> float:
    """The share of the operations in modules of these names; a module inside another counts once."""
    total, outer = 0, None
    for name in sorted(found):  # what is inside a module follows it
        inside = outer is not None and name.startswith(f"{outer}.")
        if name and not inside and re.search(pattern, name):
            total += found[name]
            outer = name
    return total / found[""]


def shares(row: Row) -> list[dict[str, float]]:
    """GFLOP of an evaluation, and the shares of what is the same: at the native size, and at 256 pixels."""
    adapter, network = adapter_of(row)
    found = []
    for side in row.sides:
        if row.pipeline == "QwenImage21Pipeline":
            plain, kept = qwen_image_21(network, side, row.tokens)
            found.append({"GFLOP": plain / 1e9, "text": 1 - kept / plain})
            continue
        operations = counts(row, adapter, network, side, row.tokens)
        parts = {part: share(operations, getattr(row, part)) for part in ("text", "image", "time")}
        if row.padded:
            parts["padding"] = 1 - operations[""] / counts(row, adapter, network, side, row.padded)[""]
        found.append({"GFLOP": operations[""] / 1e9} | parts)
    return found


def qwen_image_21(network: nn.Module, side: int, n: int) -> tuple[int, int]:
    """Operations of a call with the text's n tokens in it, and of one with their keys and values kept.

    Of the blocks, which are nearly all: the whole network reads values of its masks.
    """
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVLayerCache

    block, width = network.transformer_blocks[0], network.inner_dim
    heads = network.config.num_attention_heads
    x = torch.empty(1, n + side**2, width, device=META)
    of_target = torch.ones(n + side**2, dtype=torch.bool, device=META)
    modulation = torch.empty(2, 4 * width, device=META)
    cache = QwenImage21KVLayerCache()
    cache.store(*2 * [torch.empty(1, n, heads, width // heads, device=META)])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        block(x, modulation, target_token_mask=of_target, segments=[(0, n, True)])
    plain = counter.get_total_flops()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        block(x[:, n:], modulation, target_token_mask=of_target[n:], layer_cache=cache, kv_cache_mode="cached")
    layers = len(network.transformer_blocks)
    return layers * plain, layers * counter.get_total_flops()


# ---- time ----


def medians(calls: list[Callable[[], Tensor]], repeats: int) -> list[float]:
    """CPU seconds of each call, the median of calls made in turn."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, times in zip(calls, found, strict=True):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    return [statistics.median(times) for times in found]


def random_weights(network: nn.Module) -> nn.Module:
    """The same network, all weights normal, of deviation 0.05."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.05)
    return network.eval()


@contextlib.contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Counts operations on a CPU, whose attention torch (2.14.1) counts as none."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    by_shape = lambda q, k, v, *rest, out_shape=None, **options: sdpa_flop(q, k, v)  # noqa: E731
    with FlopCounterMode(display=False, custom_mapping={attention: by_shape}) as counter:
        yield counter.get_total_flops


def compare(title: str, plain: Callable[[], Tensor], less: Callable[[], Tensor], repeats: int) -> str:
    """A line: the second call's time and operations over the first one's, and how far their results differ."""
    operations = []
    for call in (plain, less):
        with counted() as total:
            call()
        operations.append(total())
    difference = (less() - plain()).abs().max() / plain().abs().max()
    before, after = medians([plain, less], repeats)
    of_operations = operations[1] / operations[0]
    return (
        f"{title}: {after / before:.3f} of the CPU time, {of_operations:.3f} of the operations, "
        f"differs by {difference:.1e} of the largest value ({repeats} repeats)"
    )


def time_sana(repeats: int, layers: int = 2, rows: int = 1) -> str:
    """A Sana of 0.6 billion, of few layers, at 512 pixels: prompts of 20 tokens filled up to 300, and as they are."""
    network = random_weights(diffusers.SanaTransformer2DModel(num_layers=layers, **SANA_600))
    z, level = torch.randn(rows, 32, 16, 16), torch.full([rows], 500.0)
    text = torch.randn(rows, 300, 2304)
    mask = torch.zeros(rows, 300)
    mask[:, :TOKENS] = 1

    def call(tokens: int) -> Tensor:
        return network(z, text[:, :tokens], level, encoder_attention_mask=mask[:, :tokens]).sample

    return compare("Sana without padding", lambda: call(300), lambda: call(TOKENS), repeats)


def time_qwen_image_21(repeats: int, layers: int = 3, heads: int = 8, side: int = 16, rows: int = 1) -> str:
    """A narrow Qwen-Image 2.1 at 256 pixels: text in every call, and with its keys and values kept."""
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache

    network = random_weights(
        diffusers.QwenImage21Transformer2DModel(num_layers=layers, num_attention_heads=heads, context_in_dim=4096)
    )
    text = torch.randn(rows, TOKENS, 4096)
    z, level = torch.randn(rows, side**2, 64), torch.full([rows], 0.5)
    n_slots = side**2 // 4
    of_image = torch.zeros(rows, TOKENS + n_slots, dtype=torch.bool)
    of_image[:, TOKENS:] = True
    shapes = [[(1, side, side)]] * rows
    cache = QwenImage21KVCache(layers)
    network(z, text, 0 * level, shapes, of_image, kv_cache=cache, kv_cache_mode="extract")  # at another time

    def plain() -> Tensor:
        return network(z, text, level, shapes, of_image).sample[:, -(side**2) :]

    def kept() -> Tensor:
        return network(z, text, level, shapes, of_image, kv_cache=cache, kv_cache_mode="cached").sample

    return compare("Qwen-Image 2.1 with keys and values kept", plain, kept, repeats)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORD", nargs="+", default=[""], help="families whose name has such a word")
    parser.add_argument("--time", action="store_true", help="measure the two savings too")
    parser.add_argument("--repeats", metavar="N", type=int, default=9, help="of each time (default: 9)")
    args = parser.parse_args(argv)
    print(f"| family | GFLOP | {' | '.join(KINDS)} | at 256 pixels: {' | '.join(KINDS)} |")
    print(f"|---|---:|{'---:|' * 8}")
    for row in ROWS:
        if not re.search("|".join(map(re.escape, args.only)), row.name, re.IGNORECASE):
            continue
        native, small = shares(row)
        cells = [row.name, f"{native['GFLOP']:,.0f}"]
        for found in (native, small):
            cells += [f"{found.get(kind, 0):.1%}" for kind in KINDS]
        print(f"| {' | '.join(cells)} |", flush=True)
    if args.time:
        with torch.no_grad():
            print(time_sana(args.repeats), flush=True)
            print(time_qwen_image_21(args.repeats), flush=True)


if __name__ == "__main__":
    main()
