"""The families: what each kind of pipeline is told of an arm, and how its network is asked.

Each is (pipeline, device) -> tell(n prompts or class ids) -> conditions [n, ...], one tensor, and
say(z [n, c, h, w], time [n], conditions [n, ...]) -> the network's answer [n, c or 2c, h, w].
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _pack(text: Tensor, pooled: Tensor) -> Tensor:
    """text [n, tokens, width], pooled [n, k] -> [n, tokens width + k]."""
    return torch.cat([text.flatten(1), pooled.to(text.dtype)], 1)


def _unpack(packed: Tensor, width: int, k: int) -> tuple[Tensor, Tensor]:
    return packed[:, :-k].unflatten(1, (-1, width)), packed[:, -k:]


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
    """Both text encoders, the pooled text of the second, and the size: an uncropped picture of the size it is shown."""
    unet, guidance = pipeline.unet, _no_guidance(pipeline, device)
    width, k = unet.config.cross_attention_dim, pipeline.text_encoder_2.config.projection_dim

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


PACKED = 2  # Flux sees the latent as squares of 2 by 2


def _flux(pipeline, device: torch.device):
    """Flow matching: T5's text and CLIP's pooled one. The network is told the level in 0..1.

    FLUX.1-dev is distilled from guided predictions and told the guidance: 1 here, the prediction that is not guided,
    whose error means something. Its time is rounded to the network's dtype, as in its pipeline.
    """
    transformer = pipeline.transformer
    width, k = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim

    def tell(prompts: list[str]) -> Tensor:
        text, pooled, _ = pipeline.encode_prompt(prompts, device=device)
        return _pack(text, pooled)

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        text, pooled = _unpack(told, width, k)
        n, _, h, w = z.shape
        squares = F.pixel_unshuffle(z, PACKED).flatten(2).transpose(1, 2)  # [n, h w / 4, 4 c]
        places = torch.cartesian_prod(*(torch.arange(side // PACKED, device=device) for side in (h, w)))
        places = F.pad(places, (1, 0)).to(z.dtype)  # [h w / 4, 3]: of the text 0, 0, 0
        answer = transformer(
            squares, text, pooled, (time / 1000).to(z.dtype), places, places.new_zeros(text.shape[1], 3),
            guidance=torch.ones(n, device=device) if transformer.config.guidance_embeds else None,
        ).sample  # fmt: skip
        return F.pixel_shuffle(answer.transpose(1, 2).unflatten(2, (h // PACKED, w // PACKED)), PACKED)

    return tell, say


def _masked(pipeline, device: torch.device):
    """PixArt-alpha, PixArt-Sigma and Sana: a language model's text, of which the padding is masked.

    PixArt learned its variance as DiT did. Sana's instruction that rewrites short prompts is left out.
    """
    transformer = pipeline.transformer
    scale = transformer.config.get("timestep_scale", 1.0)  # Sana's

    def tell(prompts: list[str]) -> Tensor:
        text, mask, *_ = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return torch.cat([text, mask[..., None].to(text.dtype)], -1)  # [n, tokens, width + 1]

    def say(z: Tensor, time: Tensor, told: Tensor) -> Tensor:
        size = {}
        if getattr(transformer, "use_additional_conditions", False):  # PixArt-alpha of 1024 pixels
            height, across = (torch.tensor(side * pipeline.vae_scale_factor) for side in z.shape[-2:])
            one = torch.stack([height, across]).expand(len(z), 2), (height / across).expand(len(z), 1)
            size = {"added_cond_kwargs": dict(zip(("resolution", "aspect_ratio"), one, strict=True))}
        text, mask = told[..., :-1], told[..., -1]
        return transformer(z, text, timestep=time * scale, encoder_attention_mask=mask, **size).sample

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
    "StableDiffusion3Pipeline": ("transformer", "text", _stable_diffusion_3),
    "FluxPipeline": ("transformer", "text", _flux),
    "PixArtAlphaPipeline": ("transformer", "text", _masked),
    "PixArtSigmaPipeline": ("transformer", "text", _masked),
    "SanaPipeline": ("transformer", "text", _masked),
    "DiTPipeline": ("transformer", "class", _dit),
    "DDPMPipeline": ("unet", "class", _class_unet),
    "DDIMPipeline": ("unet", "class", _class_unet),
    "LDMPipeline": ("unet", "class", _class_unet),
}
