"""The families: what each kind of pipeline is told of an arm, and how its network is asked.

Each is (pipeline, device) -> tell(n prompts or class ids) -> conditions [n, ...], one tensor, and
say(z [n, c, h, w], time [n], conditions [n, ...]) -> the network's answer [n, c or 2c, h, w].
"""

import functools
import inspect
import math

import torch
import torch.nn.functional as F
from torch import Tensor

TAKEN = 512  # tokens, of Qwen-Image and Z-Image


def _pack(text: Tensor, pooled: Tensor) -> Tensor:
    """text [n, tokens, width], pooled [n, k] -> [n, tokens width + k]."""
    return torch.cat([text.flatten(1), pooled.to(text.dtype)], 1)


def _unpack(packed: Tensor, width: int, k: int) -> tuple[Tensor, Tensor]:
    return packed[:, :-k].unflatten(1, (-1, width)), packed[:, -k:]


def _with_mask(text: Tensor, mask: Tensor) -> Tensor:
    """text [n, tokens, width], mask [n, tokens] -> [n, tokens, width + 1]."""
    return torch.cat([text, mask[..., None].to(text.dtype)], -1)


def _no_guidance(pipeline, device: torch.device) -> dict[str, Tensor]:
    """What a U-Net distilled from guided predictions is told: guidance 1, as its pipeline tells it; others nothing."""
    if (width := pipeline.unet.config.time_cond_proj_dim) is None:
        return {}
    told = pipeline.get_guidance_scale_embedding(torch.zeros(1), width)  # of guidance less 1
    return {"timestep_cond": told.to(device, pipeline.unet.dtype)}


def _stable_diffusion(pipeline, device: torch.device):
    """Stable Diffusion 1.x and 2.x, epsilon and v-prediction, and LCM: text through cross-attention."""
    guidance = _no_guidance(pipeline, device)

    def tell(prompts: list[str]) -> Tensor:
        return pipeline.encode_prompt(prompts, device, 1, False)[0]

    def say(z: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return pipeline.unet(z, time, encoder_hidden_states=text, **guidance).sample

    return tell, say


def _stable_diffusion_xl(pipeline, device: torch.device):
    """Text of both CLIPs, pooled text of the second, or both of Kolors' GLM; the size: uncropped, as it is shown."""
    unet, config, guidance = pipeline.unet, pipeline.unet.config, _no_guidance(pipeline, device)
    width = config.encoder_hid_dim or config.cross_attention_dim
    k = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def tell(prompts: list[str]) -> Tensor:
        text, _, pooled, _ = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return _pack(text, pooled)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        text, pooled = _unpack(told, width, k)
        height, across = (side * pipeline.vae_scale_factor for side in z.shape[-2:])
        size = torch.tensor([height, across, 0, 0, height, across], device=device).expand(len(z), -1)
        added = {"text_embeds": pooled, "time_ids": size}
        return unet(z, time, encoder_hidden_states=text, added_cond_kwargs=added, **guidance).sample

    return tell, say


def _stable_diffusion_3(pipeline, device: torch.device):
    """Flow matching: two CLIPs, their pooled texts, and T5 or, in its place, as many zeros as CLIP has tokens.

    So it was trained (arXiv 2403.03206): 77 tokens of each, T5's left out at random.
    """
    transformer = pipeline.transformer
    width, k = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
    length = {} if pipeline.text_encoder_3 else {"max_sequence_length": pipeline.tokenizer_max_length}

    def tell(prompts: list[str]) -> Tensor:
        text, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, device, do_classifier_free_guidance=False, **length
        )
        return _pack(text, pooled)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        text, pooled = _unpack(told, width, k)
        return transformer(z, text, pooled, time).sample

    return tell, say


PACKED = 2  # Flux and those like it see the latent as squares of 2 by 2


def _squares(z: Tensor) -> tuple[Tensor, Tensor]:
    """z [n, c, h, w] -> its squares [n, h w / 4, 4 c], and the row and column of each [h w / 4, 2]."""
    places = torch.cartesian_prod(*(torch.arange(side // PACKED, device=z.device) for side in z.shape[-2:]))
    return F.pixel_unshuffle(z, PACKED).flatten(2).transpose(1, 2), places


def _joined(squares: Tensor, like: Tensor) -> Tensor:
    """Squares [n, h w / 4, 4 c] -> [n, c, h, w], of the height and width of `like`."""
    return F.pixel_shuffle(squares.transpose(1, 2).unflatten(2, [side // PACKED for side in like.shape[-2:]]), PACKED)


def _level(time: Tensor, z: Tensor) -> Tensor:
    """time [n], 1000 sigma -> sigma [n] in z's dtype, of networks that multiply it by 1000 again in that dtype.

    Rounded before it is divided, as in their pipelines (diffusers 0.42.1). In bfloat16 the network then sees a time
    that is off by 0.625 on average over 1..1000, and by 2 at most; divided first it would be 0.747, and 3.
    """
    return time.to(z.dtype) / 1000


def _guidance(transformer, z: Tensor) -> Tensor | None:
    """What a network that is distilled from guided predictions is told: 1, the prediction that is not guided.

    Its error means something. Others are told nothing.
    """
    return torch.ones(len(z), device=z.device) if transformer.config.guidance_embeds else None


def _flux(pipeline, device: torch.device):
    """Flow matching: T5's text and CLIP's pooled one. The network is told the level in 0..1, by `_level`."""
    transformer = pipeline.transformer
    width, k = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim

    def tell(prompts: list[str]) -> Tensor:
        text, pooled, _ = pipeline.encode_prompt(prompts, device=device)
        return _pack(text, pooled)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        text, pooled = _unpack(told, width, k)
        squares, places = _squares(z)
        places = F.pad(places, (1, 0)).to(z.dtype)  # [h w / 4, 3]: of the text 0, 0, 0
        answer = transformer(
            squares, text, pooled, _level(time, z), places, places.new_zeros(text.shape[1], 3),
            guidance=_guidance(transformer, z),
        ).sample  # fmt: skip
        return _joined(answer, z)

    return tell, say


def _chroma(pipeline, device: torch.device):
    """Flux without the pooled text; 1 is added to attention's scores of all but T5's padding, as its pipeline does."""
    transformer = pipeline.transformer

    def tell(prompts: list[str]) -> Tensor:
        text, _, mask, *_ = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return _with_mask(text, mask)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        squares, places = _squares(z)
        places = F.pad(places, (1, 0)).to(z.dtype)
        mask = F.pad(told[..., -1], (0, squares.shape[1]), value=1.0)
        answer = transformer(
            squares, told[..., :-1], _level(time, z), places, places.new_zeros(told.shape[1], 3), mask
        ).sample
        return _joined(answer, z)

    return tell, say


def _flux_2(pipeline, device: torch.device):
    """Flow matching: three layers of a language model, Mistral or Qwen, which reads the prompt in its chat template."""
    transformer = pipeline.transformer

    def tell(prompts: list[str]) -> Tensor:
        return pipeline.encode_prompt(prompts, device=device)[0]

    def say(z: Tensor, time: Tensor, text: Tensor) -> Tensor:
        squares, places = _squares(z)
        order = torch.arange(text.shape[1], device=device)[:, None]  # places are time, row, column, order in the text
        answer = transformer(
            squares, text, _level(time, z), F.pad(places, (1, 1)), F.pad(order, (3, 0)),
            guidance=_guidance(transformer, z),
        ).sample  # fmt: skip
        return _joined(answer, z)

    return tell, say


def _filled(texts: list[Tensor], tokens: int) -> Tensor:
    """Texts [its tokens, width] -> [n, tokens, width + 1], with zeros after each, and a mask."""
    return torch.stack([F.pad(F.pad(text, (0, 1), value=1.0), (0, 0, 0, tokens - len(text))) for text in texts])


def _longest(told: Tensor) -> tuple[Tensor, Tensor]:
    """Of what `_filled` made the text and the mask, as long as the longest of these rows."""
    told = told[:, : int(_lengths(told).max())]
    return told[..., :-1], told[..., -1].bool()


def _lengths(told: Tensor) -> Tensor:
    """Of what `_filled` made the tokens of each row [n]; counted as integers, since bfloat16 ends at 256."""
    return told[..., -1].bool().sum(1)


def _qwen_image(pipeline, device: torch.device):
    """Flow matching: the text of Qwen2.5-VL, which is asked to describe the image; its padding is masked.

    The network takes the level in 0..1 and multiplies it by 1000 in float32. So it is divided first and rounded once:
    in bfloat16 0.651 off on average over 1..1000; rounding before too, as its pipeline does, gives 0.907.
    """
    transformer = pipeline.transformer

    def tell(prompts: list[str]) -> Tensor:
        text, mask = pipeline.encode_prompt(prompts, device, max_sequence_length=TAKEN)  # as many as when it samples
        lengths = [len(one) if mask is None else int(mask[k].sum()) for k, one in enumerate(text)]
        return _filled([one[:length] for one, length in zip(text, lengths, strict=True)], TAKEN)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        text, mask = _longest(told)
        (n, _, h, w), (squares, _) = z.shape, _squares(z)
        answer = transformer(
            squares, text, mask, (time / 1000).to(z.dtype), [[(1, h // PACKED, w // PACKED)]] * n,
            guidance=_guidance(transformer, z),
        ).sample  # fmt: skip
        return _joined(answer, z)

    return tell, say


def _z_image(pipeline, device: torch.device):
    """Qwen3's text, without its padding."""

    def tell(prompts: list[str]) -> Tensor:
        texts, _ = pipeline.encode_prompt(list(prompts), device, do_classifier_free_guidance=False)  # writes into it
        return _filled(texts, TAKEN)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        texts = [row[:length, :-1] for row, length in zip(told, _lengths(told).tolist(), strict=True)]
        return torch.cat(pipeline.transformer(list(z[:, :, None]), time, texts).sample, 1).transpose(0, 1)

    return tell, say


def _cogview_4(pipeline, device: torch.device):
    """Flow matching: GLM's text, filled up to 16 tokens at a time by padding that is not masked, as for one prompt.

    So rows of one length share a call. The network is told the time from which its scheduler's shift leads to sigma:
    when the pipeline samples, it shifts the sigmas, and tells the times as they were.
    """
    transformer, config = pipeline.transformer, pipeline.scheduler.config

    def tell(prompts: list[str]) -> Tensor:
        alone = [pipeline.encode_prompt([each], None, False, device=device)[0][0] for each in prompts]
        return _filled(alone, 1024)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        told_time = config.num_train_timesteps / (1 + _shift(z) * (config.num_train_timesteps / time - 1))
        lengths, answer = _lengths(told), torch.empty_like(z)
        size = z.new_tensor([side * pipeline.vae_scale_factor for side in z.shape[-2:]])
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            sizes, text = size.expand(len(rows), 2), told[rows, :length, :-1]
            answer[rows] = transformer(z[rows], text, told_time[rows], sizes, sizes, torch.zeros_like(sizes)).sample
        return answer

    def _shift(z: Tensor) -> float:
        if not config.use_dynamic_shifting:
            return config.shift
        squares = z.shape[-2] * z.shape[-1] / transformer.config.patch_size**2
        mu = (squares / config.base_image_seq_len) ** 0.5 * config.max_shift + config.base_shift
        return mu if config.time_shift_type == "linear" else math.exp(mu)

    return tell, say


def sana_instruction(pipeline) -> list[str]:
    """The lines that Sana's pipeline puts before every prompt by default; of other pipelines none.

    Its training does too. `encode_prompt` leaves them out unless it is given them (diffusers 0.42.1).
    """
    known = inspect.signature(pipeline.__call__).parameters.get("complex_human_instruction")
    return list(known.default or ()) if known else []


def _masked(pipeline, device: torch.device):
    """PixArt-alpha, PixArt-Sigma, Sana and Lumina 2: a language model's text, of which the padding is masked.

    PixArt learned its variance as DiT did. Sana reads the prompt after an instruction, as when it samples.
    """
    transformer, instruction = pipeline.transformer, sana_instruction(pipeline)
    how = {"complex_human_instruction": instruction} if instruction else {}
    scale = transformer.config.get("timestep_scale", 1.0)  # Sana's

    def tell(prompts: list[str]) -> Tensor:
        text, mask, *_ = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False, **how)
        return _with_mask(text, mask)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        size = {}
        if getattr(transformer, "use_additional_conditions", False):  # PixArt-alpha of 1024 pixels
            height, across = (torch.tensor(side * pipeline.vae_scale_factor) for side in z.shape[-2:])
            one = torch.stack([height, across]).expand(len(z), 2), (height / across).expand(len(z), 1)
            size = {"added_cond_kwargs": dict(zip(("resolution", "aspect_ratio"), one, strict=True))}
        text, mask = told[..., :-1], told[..., -1].bool()
        return transformer(
            z, encoder_hidden_states=text, timestep=time * scale, encoder_attention_mask=mask, **size
        ).sample

    return tell, say


def _reversed(adapter):
    """Lumina 2 and Z-Image: the network's time runs from noise, 0, to image, 1, and it says x - eps."""

    def turned(pipeline, device: torch.device):
        tell, say = adapter(pipeline, device)
        return tell, lambda z, time, told: -say(z, (1000 - time) / 1000, told)

    return turned


def _aura_flow(pipeline, device: torch.device):
    """Flow matching: T5's text, zero where there is padding. The network is told the level in 0..1."""

    def tell(prompts: list[str]) -> Tensor:
        return pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)[0]

    def say(z: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return pipeline.transformer(z, text, (time / 1000).to(z.dtype)).sample

    return tell, say


def _hunyuan_dit(pipeline, device: torch.device):
    """A CLIP's and T5's text, their padding masked, and, before version 1.2, the size as the pipeline tells it."""
    from diffusers.pipelines.hunyuandit import pipeline_hunyuandit as own

    transformer, config = pipeline.transformer, pipeline.transformer.config
    lengths = config.text_len, config.text_len_t5
    widths = config.cross_attention_dim + 1, config.cross_attention_dim_t5 + 1

    def tell(prompts: list[str]) -> Tensor:
        rows = []
        for which, length in enumerate(lengths):
            how = {"max_sequence_length": length, "text_encoder_index": which, "do_classifier_free_guidance": False}
            text, _, mask, _ = pipeline.encode_prompt(prompts, device, transformer.dtype, **how)
            rows.append(_with_mask(text, mask).flatten(1))
        return torch.cat(rows, 1)

    @functools.cache
    def places(h: int, w: int) -> tuple[Tensor, Tensor]:
        grid = h // config.patch_size, w // config.patch_size
        crop = own.get_resize_crop_region_for_grid(grid, 64 // config.patch_size)  # of 512 pixels
        head = transformer.inner_dim // transformer.num_heads
        return own.get_2d_rotary_pos_embed(head, crop, grid, device=device, output_type="pt")

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        parts = told.split([length * width for length, width in zip(lengths, widths, strict=True)], 1)
        clip, t5 = (part.unflatten(1, (length, -1)) for part, length in zip(parts, lengths, strict=True))
        height, across = (side * pipeline.vae_scale_factor for side in z.shape[-2:])
        size = z.new_tensor([[1024, 1024, height, across, 0, 0]]).repeat(len(z), 1)  # original, shown, its corner
        return transformer(
            z, time.to(z.dtype), clip[..., :-1], clip[..., -1], t5[..., :-1].contiguous(), t5[..., -1], size,
            torch.zeros(len(z), dtype=torch.long, device=device), places(*z.shape[-2:]),
        ).sample  # fmt: skip

    return tell, say


def _dit(pipeline, device: torch.device):
    """DiT: class ids through adaptive layer norm; where the variance is learned, it is the second c channels.

    With a flow-matching scheduler, SiT: its network must be told 1000 sigma and say eps - x, diffusers' convention.
    """

    def tell(classes: list[int]) -> Tensor:
        return torch.tensor(classes, device=device)

    def say(z: Tensor, time: Tensor, classes: Tensor) -> Tensor:
        return pipeline.transformer(z, timestep=time, class_labels=classes).sample

    return tell, say


def _class_unet(pipeline, device: torch.device):
    """A U-Net that is told class ids, in pixels or behind an autoencoder."""
    text = {"encoder_hidden_states": None} if type(pipeline.unet).__name__ == "UNet2DConditionModel" else {}

    def tell(classes: list[int]) -> Tensor:
        return torch.tensor(classes, device=device)

    def say(z: Tensor, time: Tensor, classes: Tensor) -> Tensor:
        return pipeline.unet(z, time, class_labels=classes, **text).sample

    return tell, say


ADAPTERS = {  # pipeline class -> (the folder of its network, what the network is told, adapter)
    "StableDiffusionPipeline": ("unet", "text", _stable_diffusion),
    "LatentConsistencyModelPipeline": ("unet", "text", _stable_diffusion),
    "StableDiffusionXLPipeline": ("unet", "text", _stable_diffusion_xl),
    "KolorsPipeline": ("unet", "text", _stable_diffusion_xl),
    "StableDiffusion3Pipeline": ("transformer", "text", _stable_diffusion_3),
    "FluxPipeline": ("transformer", "text", _flux),
    "Flux2Pipeline": ("transformer", "text", _flux_2),
    "Flux2KleinPipeline": ("transformer", "text", _flux_2),
    "ChromaPipeline": ("transformer", "text", _chroma),
    "QwenImagePipeline": ("transformer", "text", _qwen_image),
    "ZImagePipeline": ("transformer", "text", _reversed(_z_image)),
    "CogView4Pipeline": ("transformer", "text", _cogview_4),
    "PixArtAlphaPipeline": ("transformer", "text", _masked),
    "PixArtSigmaPipeline": ("transformer", "text", _masked),
    "SanaPipeline": ("transformer", "text", _masked),
    "Lumina2Pipeline": ("transformer", "text", _reversed(_masked)),
    "AuraFlowPipeline": ("transformer", "text", _aura_flow),
    "HunyuanDiTPipeline": ("transformer", "text", _hunyuan_dit),
    "DiTPipeline": ("transformer", "class", _dit),
    "DDPMPipeline": ("unet", "class", _class_unet),
    "DDIMPipeline": ("unet", "class", _class_unet),
    "LDMPipeline": ("unet", "class", _class_unet),
}
PACKS = {name for name, (*_, adapter) in ADAPTERS.items() if adapter in (_flux, _flux_2, _chroma, _qwen_image)}
FLOW = {  # those that exist as flow matching only, whatever scheduler lies in their folder
    "StableDiffusion3Pipeline", "FluxPipeline", "Flux2Pipeline", "Flux2KleinPipeline", "ChromaPipeline",
    "QwenImagePipeline", "ZImagePipeline", "CogView4Pipeline", "SanaPipeline", "Lumina2Pipeline", "AuraFlowPipeline",
}  # fmt: skip
SHIFTED = {"CogView4Pipeline"}  # of these, those whose network's time depends on the scheduler's shift
