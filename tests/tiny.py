"""Tiny pipelines of the real classes with random weights, and what they do when they sample: the adapters' oracle."""

import inspect
import json
import string
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanImage,
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    BriaPipeline,
    BriaTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DDIMParallelScheduler,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    IFPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    Kandinsky5T2IPipeline,
    Kandinsky5Transformer3DModel,
    KolorsPipeline,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LDMPipeline,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PRXPipeline,
    PRXTransformer2DModel,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    MistralModel,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    T5Config,
    T5EncoderModel,
    T5GemmaConfig,
    T5GemmaModuleConfig,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

TOKENIZER = Path(__file__).parent.parent / "models" / "digits-sd" / "tokenizer"
WORDS = ["a", "photo", "of", "the", "number", "three", "five", "red", "cat"]
FEW = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}


def vae(cls=AutoencoderKL, blocks: int = 3, **config):
    kl = {"block_out_channels": [8] * blocks, "norm_num_groups": 4, "latent_channels": 4}
    kl |= {"down_block_types": ["DownEncoderBlock2D"] * blocks, "up_block_types": ["UpDecoderBlock2D"] * blocks}
    return cls(**kl | ({"scaling_factor": 0.7} if cls is AutoencoderKL else {}) | config)


def clip(cls=CLIPTextModelWithProjection, width: int = 16, positions: int | None = None, **config):
    tok = CLIPTokenizer.from_pretrained(TOKENIZER)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}
    ids = {"bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}
    tok.model_max_length = positions or tok.model_max_length
    few = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": tok.model_max_length}
    return tok, cls(CLIPTextConfig(vocab_size=len(tok), **sizes, **few, **ids, **config))


def t5(width: int = 32, config=T5Config, cls=T5EncoderModel):
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS)]
    tok = T5Tokenizer(vocab=vocab, extra_ids=0)
    return tok, cls(config(vocab_size=len(tok), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2))


def gemma(width: int = 32):
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase]
    tok = GemmaTokenizer(vocab={token: k for k, token in enumerate(tokens)}, merges=[])
    few = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    return tok, Gemma2Model(Gemma2Config(vocab_size=len(tok), hidden_size=width, intermediate_size=32, **few))


CHAT = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content if m.content is string else m.content[0].text }}<|im_end|>
{% endfor %}{{ '<|im_start|>assistant' if add_generation_prompt }}{{ '<think>' if enable_thinking is false }}"""
LETTERS = {letter: k for k, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>"}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


def qwen(cls=Qwen3Model, layers: int = 2):
    """A letter a token."""
    tok = Qwen2Tokenizer(vocab=LETTERS | {"<|endoftext|>": len(LETTERS)}, merges=[])
    tok.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tok.chat_template = CHAT
    if cls is not Qwen2_5_VLForConditionalGeneration:
        return tok, cls(Qwen3Config(vocab_size=len(tok), num_hidden_layers=layers, **SMALL))
    text = {key: value for key, value in SMALL.items() if key != "head_dim"} | {"pad_token_id": None}
    text |= {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    more = {"vocab_size": len(tok), "num_hidden_layers": layers, "bos_token_id": None, "eos_token_id": None}
    return tok, cls(Qwen2_5_VLConfig(text_config=text | more, vision_config=vision))


def letters(**config) -> PreTrainedTokenizerFast:
    tok = Tokenizer(models.BPE(vocab=LETTERS | {"<pad>": len(LETTERS), "<unk>": len(LETTERS) + 1}, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tok, **SPECIAL, **config)


def glm():
    tok = letters(padding_side="left")
    return tok, GlmModel(GlmConfig(vocab_size=len(tok), num_hidden_layers=2, pad_token_id=tok.pad_token_id, **SMALL))


def mistral():
    """Of which Flux.2 takes the layers 10, 20 and 30."""
    tok = letters(additional_special_tokens=["[IMG]", "[IMG_BREAK]", "[IMG_END]", "<|im_start|>", "<|im_end|>"])
    text = SMALL | {"vocab_size": len(tok), "num_hidden_layers": 30, "model_type": "mistral"}
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "head_dim": 8}
    model = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision))
    return PixtralProcessor(PixtralImageProcessor(), tok, chat_template=CHAT), model


def bert(width: int = 16):
    tok = BertTokenizer(
        vocab={word: k for k, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    )
    few = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return tok, BertModel(BertConfig(vocab_size=len(tok), hidden_size=width, **few))


def sd(cls=StableDiffusionPipeline, scheduler=DDPMScheduler, **config) -> StableDiffusionPipeline:
    tokenizer, text_encoder = clip(CLIPTextModel)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, attention_head_dim=[2, 4],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=16, **config,
    )  # fmt: skip
    scheduler = scheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
    return cls(vae(), text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False)


def lcm() -> LatentConsistencyModelPipeline:
    return sd(LatentConsistencyModelPipeline, LCMScheduler, time_cond_proj_dim=12)


def sd_ddim() -> StableDiffusionPipeline:
    return sd(scheduler=DDIMScheduler)


def sd_parallel() -> StableDiffusionPipeline:
    return sd(scheduler=DDIMParallelScheduler)


def sd_guided() -> StableDiffusionPipeline:
    return sd(time_cond_proj_dim=12)


def sdxl(**config) -> StableDiffusionXLPipeline:
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = clip(CLIPTextModel), clip(width=24)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, attention_head_dim=[2, 4],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=40, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8, transformer_layers_per_block=[1, 2],
        use_linear_projection=True, **config,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae(), text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet,
        DDPMScheduler(beta_schedule="scaled_linear"), add_watermarker=False,
    )  # fmt: skip


def sdxl_guided() -> StableDiffusionXLPipeline:
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
    """As the one of 1024 pixels, which takes the size of the picture."""
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


def prx() -> PRXPipeline:
    from diffusers.pipelines.prx import T5GemmaEncoder  # put there when the pipeline is imported

    tokenizer, _ = gemma()
    config = T5GemmaModuleConfig(vocab_size=len(tokenizer), num_hidden_layers=2, dropout_rate=0.0, **SMALL)
    transformer = PRXTransformer2DModel(
        in_channels=4, context_in_dim=16, hidden_size=32, num_heads=2, depth=2, axes_dim=[8, 8]
    )
    tokenizer.model_max_length = 64
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return PRXPipeline(transformer, scheduler, T5GemmaEncoder(config), tokenizer, vae(), default_sample_size=256)


def euler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def flux_2_vae() -> AutoencoderKLFlux2:
    autoencoder = vae(AutoencoderKLFlux2)
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2)
    return autoencoder


def flux_2(cls=Flux2Pipeline, language=mistral, guidance: bool = True, **config):
    tokenizer, text_encoder = language()
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(4,) * 4, guidance_embeds=guidance,
    )  # fmt: skip
    return cls(euler(), flux_2_vae(), text_encoder, tokenizer, transformer, **config)


def flux_2_klein() -> Flux2KleinPipeline:
    return flux_2(Flux2KleinPipeline, lambda: qwen(Qwen3ForCausalLM, 28), guidance=False, is_distilled=True)


def chroma() -> ChromaPipeline:
    tokenizer, text_encoder = t5()
    transformer = ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=16, approximator_hidden_dim=16,
        approximator_layers=1,
    )  # fmt: skip
    return ChromaPipeline(euler(), vae(shift_factor=0.1), text_encoder, tokenizer, transformer)


def qwen_image(guidance: bool = False) -> QwenImagePipeline:
    tokenizer, text_encoder = qwen(Qwen2_5_VLForConditionalGeneration)
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance,
    )  # fmt: skip
    return QwenImagePipeline(euler(), video_vae(), text_encoder, tokenizer, transformer)


def z_image() -> ZImagePipeline:
    tokenizer, text_encoder = qwen()
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[4, 4, 8], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    return ZImagePipeline(euler(), vae(shift_factor=0.1), text_encoder, tokenizer, transformer)


def lumina_2() -> Lumina2Pipeline:
    tokenizer, text_encoder = gemma()
    transformer = Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=32, num_layers=1, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 8), axes_lens=(300, 64, 64), cap_feat_dim=32,
    )  # fmt: skip
    return Lumina2Pipeline(transformer, euler(), vae(blocks=4, shift_factor=0.1), text_encoder, tokenizer)


def hunyuan_dit(sized: bool = True) -> HunyuanDiTPipeline:
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = bert(), t5()
    transformer = HunyuanDiT2DModel(
        **FEW, in_channels=4, patch_size=2, sample_size=8, hidden_size=16, cross_attention_dim=16, mlp_ratio=2,
        cross_attention_dim_t5=32, pooled_projection_dim=16, learn_sigma=True, activation_fn="gelu-approximate",
        use_style_cond_and_image_meta_size=sized,
    )  # fmt: skip
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_end=0.02, prediction_type="v_prediction")
    return HunyuanDiTPipeline(
        vae(blocks=4), text_encoder, tokenizer, transformer, scheduler, None, None, False, text_encoder_2, tokenizer_2
    )


def aura_flow() -> AuraFlowPipeline:
    tokenizer, text_encoder = t5(config=UMT5Config, cls=UMT5EncoderModel)
    transformer = AuraFlowTransformer2DModel(
        sample_size=8, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, num_attention_heads=2,
        attention_head_dim=8, joint_attention_dim=32, caption_projection_dim=16, pos_embed_max_size=16,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    return AuraFlowPipeline(tokenizer, text_encoder, vae(), transformer, scheduler)


def cogview_4(scheduler=None) -> CogView4Pipeline:
    tokenizer, text_encoder = glm()
    transformer = CogView4Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=16,
        text_embed_dim=16, time_embed_dim=16, condition_dim=8, rope_axes_dim=(32, 32),
    )  # fmt: skip
    shift = {"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"}
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler(**shift)
    return CogView4Pipeline(tokenizer, text_encoder, vae(), transformer, scheduler)


def qwen_3_vl(cls=Qwen3VLModel, layers: int = 2):
    """Tokenizer and text encoder; a letter a token."""
    tok, _ = qwen()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = SMALL | {"num_hidden_layers": layers, "vocab_size": len(tok), "rope_parameters": rope}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    return tok, cls(Qwen3VLConfig(text_config=text, vision_config=vision))


def qwen_3_processor(tok) -> Qwen3VLProcessor:
    video = Qwen3VLVideoProcessor(patch_size=16, merge_size=2, temporal_patch_size=2)
    tok.add_special_tokens({"additional_special_tokens": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>"]})
    return Qwen3VLProcessor(Qwen2VLImageProcessor(patch_size=16, merge_size=2), tok, video, chat_template=CHAT)


def video_vae(cls=AutoencoderKLQwenImage, halvings: int = 2, c: int = 4, **config):
    each = [0.3, -0.2, 0.1, 0.5], [1.5, 0.7, 2.0, 1.1]
    mean, std = (values * (c // 4) for values in each)
    down = [False, *[True] * (halvings - 1)]
    return cls(
        base_dim=8, z_dim=c, dim_mult=[1] * (halvings + 1), num_res_blocks=1, temperal_downsample=down,
        latents_mean=mean, latents_std=std, **config,
    )  # fmt: skip


def qwen_image_21() -> QwenImage21Pipeline:
    tok, text_encoder = qwen_3_vl(Qwen3VLForConditionalGeneration)
    processor = qwen_3_processor(tok)
    text_encoder.resize_token_embeddings(len(tok))
    transformer = QwenImage21Transformer2DModel(
        in_channels=8, out_channels=8, num_layers=2, num_attention_heads=2, attention_head_dim=16, context_in_dim=16,
        mlp_ratio=2, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    autoencoder = video_vae(AutoencoderKLQwenImage21, 4, 8, decoder_base_dim=8)
    return QwenImage21Pipeline(euler(), autoencoder, text_encoder, processor, transformer)


def krea_2() -> Krea2Pipeline:
    tok, text_encoder = qwen_3_vl()
    transformer = Krea2Transformer2DModel(
        in_channels=16, num_layers=1, num_attention_heads=2, attention_head_dim=16, num_key_value_heads=1,
        intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=16, num_text_layers=3, text_num_attention_heads=2,
        text_num_key_value_heads=1, text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return Krea2Pipeline(euler(), video_vae(), text_encoder, tok, transformer, text_encoder_select_layers=(0, 1, 2))


def ernie_image() -> ErnieImagePipeline:
    tok = letters()
    text = SMALL | {"vocab_size": len(tok), "num_hidden_layers": 2}
    text_encoder = MistralModel(MistralConfig(**text))
    transformer = ErnieImageTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_layers=1, ffn_hidden_size=32, in_channels=16, out_channels=16,
        text_in_dim=16, rope_axes_dim=(4, 4, 8),
    )  # fmt: skip
    return ErnieImagePipeline(transformer, flux_2_vae(), text_encoder, tok, FlowMatchEulerDiscreteScheduler(shift=3.0))


def ovis_image() -> OvisImagePipeline:
    tok, text_encoder = qwen()
    transformer = OvisImageTransformer2DModel(
        in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, num_attention_heads=2,
        attention_head_dim=16, joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return OvisImagePipeline(euler(), vae(shift_factor=0.1), text_encoder, tok, transformer)


def kandinsky_3() -> Kandinsky3Pipeline:
    tokenizer, text_encoder = t5()
    unet = Kandinsky3UNet(
        time_embedding_dim=32, groups=4, attention_head_dim=4, layers_per_block=3, block_out_channels=(8, 16, 32, 64),
        cross_attention_dim=8, encoder_hid_dim=32,
    )  # fmt: skip
    movq = VQModel(
        block_out_channels=[32] * 4, latent_channels=4, scaling_factor=0.7, norm_type="spatial",
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    )  # fmt: skip
    return Kandinsky3Pipeline(tokenizer, text_encoder, unet, DDPMScheduler(beta_schedule="linear"), movq)


def deepfloyd_if() -> IFPipeline:
    tokenizer, text_encoder = t5()
    unet = UNet2DConditionModel(
        sample_size=32, in_channels=3, out_channels=6, block_out_channels=[8, 16], layers_per_block=1,
        norm_num_groups=4, down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"], attention_head_dim=4,
        cross_attention_dim=16, encoder_hid_dim=32, encoder_hid_dim_type="text_proj", addition_embed_type="text",
        addition_embed_type_num_heads=2, resnet_time_scale_shift="scale_shift", act_fn="gelu",
    )  # fmt: skip
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    return IFPipeline(tokenizer, text_encoder, unet, scheduler, None, None, None, requires_safety_checker=False)


def longcat_image() -> LongCatImagePipeline:
    tok, text_encoder = qwen(Qwen2_5_VLForConditionalGeneration)
    tok.add_special_tokens({"additional_special_tokens": ["<|image_pad|>", "<|video_pad|>"]})
    text_encoder.resize_token_embeddings(len(tok))
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(), tok, Qwen2VLVideoProcessor(), chat_template=CHAT)
    transformer = LongCatImageTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    return LongCatImagePipeline(
        euler(), vae(shift_factor=0.1, latent_channels=16), text_encoder, tok, processor, transformer
    )


def nucleus_image() -> NucleusMoEImagePipeline:
    tok, text_encoder = qwen_3_vl(Qwen3VLForConditionalGeneration, 8)
    processor = qwen_3_processor(tok)
    text_encoder.resize_token_embeddings(len(tok))
    transformer = NucleusMoEImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=16,
        num_key_value_heads=1, joint_attention_dim=16, axes_dims_rope=(4, 4, 8), moe_enabled=True, num_experts=4,
        moe_intermediate_dim=16, capacity_factors=[4.0, 4.0], dense_moe_strategy="leave_first_block_dense",
    )  # fmt: skip
    for p in transformer.parameters():  # its experts are left as the memory was
        torch.nn.init.normal_(p, std=0.3)
    return NucleusMoEImagePipeline(transformer, euler(), video_vae(), text_encoder, processor)


def bria() -> BriaPipeline:
    tokenizer, text_encoder = t5()
    transformer = BriaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    return BriaPipeline(transformer, euler(), vae(shift_factor=0.1), text_encoder, tokenizer)


def hidream_image() -> HiDreamImagePipeline:
    (tok, clip_l), (tok_2, clip_g) = clip(positions=128), clip(width=8, positions=128)
    tok_3, text_encoder_3 = t5()
    tok_4 = letters(eos_token="<unk>")
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(tok_4), num_hidden_layers=2, **SMALL))
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, caption_channels=[32, 16], text_emb_dim=24, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(4, 4, 8), max_resolution=(8, 8), llama_layers=(0, 1),
    )  # fmt: skip
    return HiDreamImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0), vae(shift_factor=0.1), clip_l, tok, clip_g, tok_2, text_encoder_3,
        tok_3, llama, tok_4, transformer,
    )  # fmt: skip


def kandinsky_5() -> Kandinsky5T2IPipeline:
    tok, text_encoder = qwen(Qwen2_5_VLForConditionalGeneration)
    tok.add_special_tokens({"additional_special_tokens": ["<|image_pad|>", "<|video_pad|>"]})
    text_encoder.resize_token_embeddings(len(tok))
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(), tok, Qwen2VLVideoProcessor(), chat_template=CHAT)
    tok_2, text_encoder_2 = clip(CLIPTextModel, positions=77)
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=16, in_text_dim2=16, time_dim=16, model_dim=32, ff_dim=32,
        num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 4, 8),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return Kandinsky5T2IPipeline(
        transformer, vae(blocks=4), text_encoder, processor, text_encoder_2, tok_2, scheduler
    )  # fmt: skip


def hunyuan_image() -> HunyuanImagePipeline:
    tok, text_encoder = qwen(Qwen2_5_VLForConditionalGeneration, layers=4)
    tok_2 = ByT5Tokenizer(extra_ids=0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": len(tok_2)}
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, num_refiner_layers=1, num_attention_heads=2,
        attention_head_dim=8, patch_size=(1, 1), guidance_embeds=True, text_embed_dim=16, text_embed_2_dim=16,
        rope_axes_dim=(4, 4),
    )  # fmt: skip
    autoencoder = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 32), layers_per_block=1,
        scaling_factor=0.5, spatial_compression_ratio=4, sample_size=32,
    )  # fmt: skip
    return HunyuanImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=7.0), autoencoder, text_encoder, tok, T5EncoderModel(T5Config(**sizes)),
        tok_2, transformer,
    )  # fmt: skip


def kolors() -> KolorsPipeline:
    """Its tokenizer wants sentencepiece, the package."""
    from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
    from sentencepiece import SentencePieceTrainer

    model = tempfile.mkdtemp() + "/tokenizer"  # is copied from there when it is saved
    how = {"vocab_size": 40, "hard_vocab_limit": False, "minloglevel": 2}
    SentencePieceTrainer.train(sentence_iterator=iter([" ".join(WORDS)] * 9), model_prefix=model, **how)
    tok = ChatGLMTokenizer(f"{model}.model")
    config = ChatGLMConfig(
        num_layers=2, padded_vocab_size=64, hidden_size=24, ffn_hidden_size=16, kv_channels=12, num_attention_heads=2,
        seq_length=256, multi_query_group_num=1, multi_query_attention=True, add_qkv_bias=True,
        original_rope=True,
    )  # fmt: skip
    text_encoder = ChatGLMModel(config)
    for p in text_encoder.parameters():  # which it leaves as the memory was
        torch.nn.init.normal_(p, std=0.3)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, attention_head_dim=[2, 4],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=16, encoder_hid_dim=24, encoder_hid_dim_type="text_proj", use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8,
    )  # fmt: skip
    return KolorsPipeline(vae(), text_encoder, tok, unet, DDPMScheduler(beta_schedule="scaled_linear"))


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
NEW = [flux_2, flux_2_klein, chroma, qwen_image, z_image, lumina_2, hunyuan_dit, aura_flow, cogview_4]
NEW += [kolors] if find_spec("sentencepiece") else []
TEXT = [lcm, sd_guided, sdxl, sdxl_guided, sd3, sd3_with_t5, flux, flux_schnell, pixart, pixart_with_size]
TEXT += [pixart_sigma, sana, *NEW]
LATEST = [qwen_image_21, krea_2, ernie_image, ovis_image, kandinsky_3, deepfloyd_if, longcat_image, nucleus_image]
LATEST += [bria, hidream_image, kandinsky_5, hunyuan_image, prx]


def save(build, folder: Path):
    """Build one, with norms and outputs that are not zero as they are at first, and save it."""
    torch.manual_seed(0)
    pipe = build()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            for p in part.eval().parameters():
                p.data += 0.1 * torch.randn_like(p)
    pipe.save_pretrained(folder)
    if isinstance(pipe, PRXPipeline):
        _as_published(pipe, folder)
    return pipe


def _as_published(pipe: PRXPipeline, folder: Path) -> None:
    """As repositories have PRX: diffusers 0.42.1 does not load the text encoder as it writes it itself."""
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder": ["prx", "T5GemmaEncoder"]}))
    config = pipe.text_encoder.config
    T5GemmaConfig(encoder=config, decoder=config, dropout_rate=0.0).save_pretrained(folder / "text_encoder")


def sampling_steps(pipe, prompt: str, size: int, steps: int = 3) -> list[tuple[torch.Tensor, float, torch.Tensor]]:
    """What a pipeline's scheduler gets while it samples without guidance, at each step.

    z [1, c, h, w]; its time: 1000 sigma, or the scheduler's; the prediction [1, c, h, w] as the scheduler takes it, of
    flow matching dz / dsigma. Latents are unpacked as the pipeline unpacks them before it decodes.
    """
    found = []
    step = pipe.scheduler.step

    def watched(output, t, sample, *args, **kwargs):
        flow = isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
        time = 1000 * pipe.scheduler.sigmas[len(found)] if flow else t
        found.append((_unpacked(pipe, sample, size), float(time), _unpacked(pipe, output, size)))
        return step(output, t, sample, *args, **kwargs)

    takes = inspect.signature(pipe.__call__).parameters
    how = {"height": size, "width": size, "num_inference_steps": steps, "output_type": "latent"}
    if "token_indices" in takes:  # attends to the image's parts of words, in maps of this many places
        how |= {"token_indices": [2], "attn_res": (4, 4), "max_iter_to_alter": 0}
    how |= {key: value for key, value in PLAINLY.items() if key in takes}
    if type(pipe).__name__ in ("ZImagePipeline", "Krea2Pipeline"):  # add so much of the difference
        how["guidance_scale"] = 0.0
    if isinstance(pipe, IFPipeline):
        how["output_type"] = "pt"
    if isinstance(pipe, StableDiffusion3Pipeline) and pipe.text_encoder_3 is None:
        how["max_sequence_length"] = pipe.tokenizer_max_length  # zeros for as many tokens as CLIP takes
    if isinstance(pipe, HiDreamImagePipeline):
        pipe.default_sample_size = size // pipe.vae_scale_factor  # to which it scales every size
    if isinstance(pipe, Kandinsky5T2IPipeline):
        pipe.resolutions = [(size, size)]
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.step = watched
    pipe(prompt=prompt, generator=torch.Generator().manual_seed(1), **how)
    pipe.scheduler.step = step
    return found


def network_calls(pipe, prompt: str, size: int, steps: int = 3) -> list[tuple[torch.Tensor, float, torch.Tensor]]:
    """As `sampling_steps`, of the rows that the U-Net of a pipeline gets which calls no step of its scheduler."""
    found = []

    def watched(network, args, kwargs, output):
        for z, time, prediction in zip(args[0], args[1], output[0], strict=True):
            found.append((z[None].clone(), float(time), prediction[None].clone()))  # it goes on in place

    hook = pipe.unet.register_forward_hook(watched, with_kwargs=True)
    how = {"height": size, "width": size, "num_inference_steps": steps, "output_type": "latent", "guidance_scale": 1.0}
    pipe.set_progress_bar_config(disable=True)
    pipe(prompt, generator=torch.Generator().manual_seed(1), **how)
    hook.remove()
    return found


def encoded(pipe, pixels: torch.Tensor) -> torch.Tensor:
    """The VAE's code [1, c, h, w] of an image [1, 3, H, W]."""
    autoencoder = pipe.movq if hasattr(pipe, "movq") else pipe.vae
    if autoencoder.config.get("in_channels") == 4:
        pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1)  # opaque
    code = autoencoder.encode(pixels[:, :, None] if "z_dim" in autoencoder.config else pixels)
    code = code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latents
    return code[:, :, 0] if code.ndim == 5 else code


def before_decoding(pipe, x: torch.Tensor) -> torch.Tensor:
    """What a pipeline's __call__ gives its VAE to decode, of latents x [1, c, h, w], by hand."""
    if isinstance(pipe, Kandinsky3Pipeline):
        return x
    config = pipe.vae.config
    if "z_dim" in config:
        mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("latents_mean", "latents_std"))
        return x * std + mean
    if isinstance(pipe, ErnieImagePipeline):
        squares = torch.nn.functional.pixel_unshuffle(x, 2)
        std = (pipe.vae.bn.running_var + 1e-5) ** 0.5
        return pipe._unpatchify_latents(squares * std.view(1, -1, 1, 1) + pipe.vae.bn.running_mean.view(1, -1, 1, 1))
    return x / config.scaling_factor + (config.get("shift_factor") or 0)


PLAINLY = {  # options of sampling without guidance, and without changing prompt or size
    "guidance_scale": 1.0, "distilled_guidance_scale": 1.0, "clean_caption": False, "use_resolution_binning": False,
    "use_pe": False, "enable_prompt_rewrite": False, "pag_scale": 0.0,
    "sag_scale": 0.0,
}  # fmt: skip


def _unpacked(pipe, z: torch.Tensor, size: int) -> torch.Tensor:
    """Latents of a pipeline as [1, c, h, w]."""
    if z.ndim == 3 and isinstance(pipe, Flux2Pipeline | Flux2KleinPipeline):
        side = size // pipe.vae_scale_factor // 2
        z = z.transpose(1, 2).unflatten(2, (side, side))
    if hasattr(pipe, "_unpatchify_latents"):
        return pipe._unpatchify_latents(z)
    if z.ndim == 3:
        sizes = {"height": size, "width": size, "vae_scale_factor": pipe.vae_scale_factor, "patch_size": 2}
        takes = inspect.signature(pipe._unpack_latents).parameters
        z = pipe._unpack_latents(z, **{key: value for key, value in sizes.items() if key in takes})
    if isinstance(pipe, Kandinsky5T2IPipeline):
        return z[:, 0].permute(0, 3, 1, 2)
    return z[:, :, 0] if z.ndim == 5 else z


class Sampling:
    """A network's first call while its pipeline samples without guidance, and the same with another z and time."""

    def __init__(self, pipe, prompt: str, size: int):
        self.pipe, self.calls, self.side = pipe, [], size // pipe.vae_scale_factor
        self.network = getattr(pipe, "unet", None) or pipe.transformer
        hook = self.network.register_forward_hook(self._watch, with_kwargs=True)
        sampling_steps(pipe, prompt, size, steps=2)
        hook.remove()

    def _watch(self, network, args, kwargs, _):
        self.calls.append(inspect.signature(network.forward).bind(*args, **kwargs).arguments)

    def again(self, z: torch.Tensor, time: float) -> np.ndarray:
        """z [1, c, h, w], time as `sampling_steps` has it -> the network's prediction [c, h, w], float64."""
        inputs = dict(self.calls[0])
        name = next(key for key in ("sample", "hidden_states", "x") if key in inputs)
        inputs[name] = z if name == "sample" else self._shown(z)
        inputs["t" if "t" in inputs else "timestep"] = torch.tensor([self._time(time)], dtype=torch.float32)
        with torch.no_grad():
            output = self.network(**inputs | {"return_dict": False})[0]
        return self._prediction(output)[0, : z.shape[1]].double().numpy()

    def _shown(self, z: torch.Tensor):
        if isinstance(self.pipe, Flux2Pipeline | Flux2KleinPipeline):
            return self.pipe._pack_latents(self.pipe._patchify_latents(z))
        if isinstance(self.pipe, ZImagePipeline):
            return [z[0][:, None]]
        return self.pipe._pack_latents(z, *z.shape) if hasattr(self.pipe, "_pack_latents") else z

    def _image(self, shown) -> torch.Tensor:
        """The other way."""
        if isinstance(self.pipe, Flux2Pipeline | Flux2KleinPipeline):
            square = shown.transpose(1, 2).unflatten(2, (self.side // 2, -1))
            return self.pipe._unpatchify_latents(square)
        if isinstance(self.pipe, ZImagePipeline):
            return torch.stack(list(shown))[:, :, 0]
        if not hasattr(self.pipe, "_unpack_latents"):
            return shown
        factor = self.pipe.vae_scale_factor
        image = self.pipe._unpack_latents(shown, self.side * factor, self.side * factor, factor)
        return image[:, :, 0] if image.ndim == 5 else image

    def _time(self, time: float) -> float:
        if isinstance(self.pipe, ZImagePipeline | Lumina2Pipeline):
            return 1 - time / 1000
        if isinstance(self.pipe, CogView4Pipeline):  # what its scheduler shifts to sigma, by halving
            mu = calculate_shift(self.side**2 / 4, 256, 0.25, 0.75)
            low, high = 0.0, 1.0
            for _ in range(60):
                middle = (low + high) / 2
                shifted = self.pipe.scheduler.time_shift(mu, 1.0, middle)
                low, high = (middle, high) if shifted < time / 1000 else (low, middle)
            return 1000 * high
        in_levels = FluxPipeline | Flux2Pipeline | Flux2KleinPipeline | ChromaPipeline | QwenImagePipeline
        return time / 1000 if isinstance(self.pipe, in_levels | AuraFlowPipeline) else time

    def _prediction(self, output) -> torch.Tensor:
        backwards = isinstance(self.pipe, ZImagePipeline | Lumina2Pipeline)
        return -self._image(output) if backwards else self._image(output)

    def latent(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels [3, H, W] -> x [1, c, h, w], what the pipeline would decode to them."""
        vae, config = self.pipe.vae, self.pipe.vae.config
        if isinstance(self.pipe, Flux2Pipeline | Flux2KleinPipeline):
            return self.pipe._unpatchify_latents(self.pipe._encode_vae_image(pixels[None], None))
        if isinstance(self.pipe, QwenImagePipeline):
            mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("latents_mean", "latents_std"))
            return (vae.encode(pixels[None, :, None]).latent_dist.mode()[:, :, 0] - mean) / std
        code = vae.encode(pixels[None])
        mean = code.latent if hasattr(code, "latent") else code.latent_dist.mode()
        return (mean - (config.get("shift_factor") or 0)) * config.scaling_factor
