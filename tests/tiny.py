"""Tiny pipelines of the real classes with random weights, and what they do when they sample: the adapters' oracle."""

import inspect
import string
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LDMPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

TOKENIZER = Path(__file__).parent.parent / "models" / "digits-sd" / "tokenizer"
WORDS = ["a", "photo", "of", "the", "number", "three", "five", "red", "cat"]
FEW = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}


def vae(**config) -> AutoencoderKL:
    kl = {"block_out_channels": [8, 8, 8], "norm_num_groups": 4, "latent_channels": 4}
    kl |= {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    return AutoencoderKL(**kl | {"scaling_factor": 0.7} | config)


def clip(cls=CLIPTextModelWithProjection, width: int = 16, **config):
    tok = CLIPTokenizer.from_pretrained(TOKENIZER)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}
    ids = {"bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}
    few = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": tok.model_max_length}
    return tok, cls(CLIPTextConfig(vocab_size=len(tok), **sizes, **few, **ids, **config))


def t5(width: int = 32):
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS)]
    tok = T5Tokenizer(vocab=vocab, extra_ids=0)
    config = T5Config(vocab_size=len(tok), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return tok, T5EncoderModel(config)


def gemma(width: int = 32):
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase]
    tok = GemmaTokenizer(vocab={token: k for k, token in enumerate(tokens)}, merges=[])
    few = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    return tok, Gemma2Model(Gemma2Config(vocab_size=len(tok), hidden_size=width, intermediate_size=32, **few))


def sd(cls=StableDiffusionPipeline, scheduler=DDPMScheduler, **told) -> StableDiffusionPipeline:
    tokenizer, text_encoder = clip(CLIPTextModel)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, attention_head_dim=[2, 4],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=16, **told,
    )  # fmt: skip
    scheduler = scheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
    return cls(vae(), text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False)


def lcm() -> LatentConsistencyModelPipeline:
    return sd(LatentConsistencyModelPipeline, LCMScheduler, time_cond_proj_dim=12)


def sd_told_guidance() -> StableDiffusionPipeline:
    return sd(time_cond_proj_dim=12)


def sdxl(**told) -> StableDiffusionXLPipeline:
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = clip(CLIPTextModel), clip(width=24)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, attention_head_dim=[2, 4],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=40, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8, transformer_layers_per_block=[1, 2],
        use_linear_projection=True, **told,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae(), text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet,
        DDPMScheduler(beta_schedule="scaled_linear"), add_watermarker=False,
    )  # fmt: skip


def sdxl_told_guidance() -> StableDiffusionXLPipeline:
    return sdxl(time_cond_proj_dim=12)


def sd3(with_t5: bool = False, **config) -> StableDiffusion3Pipeline:
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = clip(), clip(width=8)
    tokenizer_3, text_encoder_3 = t5() if with_t5 else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, joint_attention_dim=32, caption_projection_dim=16,
        pooled_projection_dim=24, pos_embed_max_size=8, **FEW, **config,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), vae(shift_factor=0.2), text_encoder, tokenizer,
        text_encoder_2, tokenizer_2, text_encoder_3, tokenizer_3,
    )  # fmt: skip


def sd3_with_t5() -> StableDiffusion3Pipeline:
    """As 3.5 is: queries and keys normalised, some blocks with a second attention."""
    return sd3(True, qk_norm="rms_norm", dual_attention_layers=(0,))


def flux(guidance: bool = True) -> FluxPipeline:
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = clip(CLIPTextModel), t5()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return FluxPipeline(
        scheduler, vae(shift_factor=0.1), text_encoder, tokenizer, text_encoder_2, tokenizer_2, transformer
    )


def flux_schnell() -> FluxPipeline:
    return flux(guidance=False)


def pixart(cls=PixArtAlphaPipeline, sample_size: int = 8, heads: int = 2, **config) -> PixArtAlphaPipeline:
    tokenizer, text_encoder = t5()
    transformer = PixArtTransformer2DModel(
        num_layers=2, num_attention_heads=heads, attention_head_dim=8, sample_size=sample_size, patch_size=2,
        in_channels=4, out_channels=8, cross_attention_dim=8 * heads, caption_channels=32, **config,
    )  # fmt: skip
    return cls(tokenizer, text_encoder, vae(), transformer, DPMSolverMultistepScheduler())


def pixart_with_size() -> PixArtAlphaPipeline:
    """As the one of 1024 pixels, which is told the size of the picture."""
    return pixart(sample_size=128, heads=3, use_additional_conditions=True)


def pixart_sigma() -> PixArtSigmaPipeline:
    return pixart(PixArtSigmaPipeline, use_additional_conditions=False)


def sana() -> SanaPipeline:
    tokenizer, text_encoder = gemma()
    transformer = SanaTransformer2DModel(
        **FEW, in_channels=4, out_channels=4, num_cross_attention_heads=2, cross_attention_head_dim=8,
        cross_attention_dim=16, caption_channels=32, sample_size=8, patch_size=1,
    )  # fmt: skip
    blocks = {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock", "scaling_factor": 0.4}
    for side in ("encoder", "decoder"):
        blocks |= {f"{side}_block_out_channels": (8, 8, 8), f"{side}_layers_per_block": (1, 1, 1)}
        blocks |= {f"{side}_qkv_multiscales": ((), (), ())}
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, beta_schedule="linear"
    )
    return SanaPipeline(tokenizer, text_encoder, AutoencoderDC(latent_channels=4, **blocks), transformer, scheduler)


def dit(scheduler=None) -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        **FEW, sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_embeds_ada_norm=10
    )
    return DiTPipeline(transformer, vae(), scheduler or DDIMScheduler())


def sit() -> DiTPipeline:
    return dit(FlowMatchEulerDiscreteScheduler())


def class_unet(cls=UNet2DModel, channels: int = 1, out: int | None = None, size: int = 16, classes: int = 10, **config):
    more = {"attention_head_dim": 4, "cross_attention_dim": 8, "mid_block_type": "UNetMidBlock2D"}
    return cls(
        sample_size=size, in_channels=channels, out_channels=out or channels, block_out_channels=[8, 16],
        layers_per_block=1, norm_num_groups=4, down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2,
        num_class_embeds=classes, **(more if cls is UNet2DConditionModel else {}) | config,
    )  # fmt: skip


def grey_v() -> DDPMPipeline:
    return DDPMPipeline(class_unet(), DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"))


def colour_variance() -> DDPMPipeline:
    """As guided diffusion's: epsilon and a variance."""
    return DDPMPipeline(class_unet(channels=3, out=6, size=12), DDPMScheduler(variance_type="learned_range"))


def grey_sample() -> DDIMPipeline:
    return DDIMPipeline(class_unet(), DDIMScheduler(prediction_type="sample"))


def condition_unet() -> DDPMPipeline:
    return DDPMPipeline(class_unet(UNet2DConditionModel), DDPMScheduler())


def edm() -> DDPMPipeline:
    return DDPMPipeline(class_unet(channels=3), EDMEulerScheduler())


def edm_v() -> DDPMPipeline:
    scheduler = EDMDPMSolverMultistepScheduler(sigma_data=1.0, prediction_type="v_prediction", sigma_max=50.0)
    return DDPMPipeline(class_unet(), scheduler)


def latent_kl() -> LDMPipeline:
    return LDMPipeline(vae(), class_unet(channels=4, size=4), DDIMScheduler())


def latent_vq() -> LDMPipeline:
    vq = VQModel(
        block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4, vq_embed_dim=3, scaling_factor=0.7,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    return LDMPipeline(vq, class_unet(channels=3, size=8), DDPMScheduler())


CLASS_UNETS = [grey_v, colour_variance, grey_sample, condition_unet, edm, edm_v, latent_kl, latent_vq]
TEXT = [
    lcm,
    sd_told_guidance,
    sdxl,
    sdxl_told_guidance,
    sd3,
    sd3_with_t5,
    flux,
    flux_schnell,
    pixart,
    pixart_with_size,
    pixart_sigma,
    sana,
]


def save(build, folder: Path):
    """Build one, with norms and outputs that are not zero as they are at first, and save it."""
    torch.manual_seed(0)
    pipe = build()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            for p in part.eval().parameters():
                p.data += 0.1 * torch.randn_like(p)
    pipe.save_pretrained(folder)
    return pipe


class Sampling:
    """A network's calls while its pipeline samples without guidance, and the same calls with another z and time."""

    def __init__(self, pipe, prompt: str, size: int, steps: int = 2):
        self.pipe, self.calls = pipe, []
        self.network = getattr(pipe, "unet", None) or pipe.transformer
        hook = self.network.register_forward_hook(self._watch, with_kwargs=True)
        how = {"guidance_scale": 1.0, "height": size, "width": size, "num_inference_steps": steps}
        known = inspect.signature(pipe.__call__).parameters
        how |= {key: False for key in ("clean_caption", "use_resolution_binning") if key in known}
        how |= {"complex_human_instruction": None} if "complex_human_instruction" in known else {}
        if isinstance(pipe, StableDiffusion3Pipeline) and pipe.text_encoder_3 is None:
            how["max_sequence_length"] = pipe.tokenizer_max_length  # zeros for as many tokens as CLIP takes
        pipe.set_progress_bar_config(disable=True)
        pipe(prompt, output_type="latent", generator=torch.Generator().manual_seed(1), **how)
        hook.remove()

    def _watch(self, network, args, kwargs, answer):
        said = answer[0] if isinstance(answer, tuple) else answer.sample
        self.calls.append((inspect.signature(network.forward).bind(*args, **kwargs).arguments, said))

    def again(self, z: torch.Tensor, time: float) -> np.ndarray:
        """z [1, c, h, w], time as the scheduler tells it (0..1000) -> the network's answer [c, h, w], float64."""
        seen, _ = self.calls[0]
        flux = isinstance(self.pipe, FluxPipeline)
        _, c, h, w = z.shape
        shown = self.pipe._pack_latents(z, 1, c, h, w) if flux else z
        told = torch.tensor([time / 1000 if flux else time], dtype=torch.float32)
        with torch.no_grad():
            sample = "sample" if "sample" in seen else "hidden_states"
            said = self.network(**seen | {sample: shown, "timestep": told, "return_dict": False})[0]
        if flux:
            said = self.pipe._unpack_latents(
                said, h * self.pipe.vae_scale_factor, w * self.pipe.vae_scale_factor, self.pipe.vae_scale_factor
            )
        return said[0, :c].double().numpy()
