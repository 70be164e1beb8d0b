"""The families: how each kind of pipeline turns prompts into conditions, and how its network predicts from them."""

import functools
import inspect
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffusion.core.conditions import Conditions, places_of

TAKEN = 512  # tokens, of Qwen-Image and Z-Image
PACKED = 2  # Flux and those like it see the latent as squares of 2 by 2


class Adapter:
    """One kind of pipeline, for the kernel.

    Sizes, levels, VAE and what the network predicts are read from its configuration; an adapter says the rest.
    """

    def __init__(self, pipeline, device: torch.device):
        self.pipeline, self.device = pipeline, device

    def encode_prompts(self, prompts: list) -> Conditions:
        """n prompts or class ids -> their conditions, n rows."""
        raise NotImplementedError

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """z [n, c, h, w], time [n], n conditions -> the network's output [n, c or 2c, h, w]."""
        raise NotImplementedError


# ---- U-Nets ----


class StableDiffusion(Adapter):
    """Stable Diffusion 1.x and 2.x, epsilon and v-prediction, and LCM: text through cross-attention."""

    def __init__(self, pipeline, device: torch.device):
        super().__init__(pipeline, device)
        self.guidance = _unet_guidance(pipeline, device)

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        return Conditions({"text": self.pipeline.encode_prompt(prompts, self.device, 1, False)[0]})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return self.pipeline.unet(z, time, encoder_hidden_states=conditions["text"], **self.guidance).sample


class StableDiffusionXL(Adapter):
    """Text of both CLIPs, pooled text of the second, or both of Kolors' GLM; the size: uncropped, as it is shown."""

    def __init__(self, pipeline, device: torch.device):
        super().__init__(pipeline, device)
        self.guidance = _unet_guidance(pipeline, device)

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, _, pooled, _ = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        return Conditions({"text": text, "pooled": pooled.to(text.dtype)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        height, width = _pixels(self.pipeline, z)
        size = torch.tensor([height, width, 0, 0, height, width], device=self.device).expand(len(z), -1)
        added = {"text_embeds": conditions["pooled"], "time_ids": size}
        return self.pipeline.unet(
            z, time, encoder_hidden_states=conditions["text"], added_cond_kwargs=added, **self.guidance
        ).sample


def _unet_guidance(pipeline, device: torch.device) -> dict[str, Tensor]:
    """Guidance 1, as its pipeline embeds it, for a U-Net distilled from guided predictions; nothing for others."""
    width = pipeline.unet.config.time_cond_proj_dim
    if width is None:
        return {}
    embedding = pipeline.get_guidance_scale_embedding(torch.zeros(1), width)  # of guidance less 1
    return {"timestep_cond": embedding.to(device, pipeline.unet.dtype)}


def _pixels(pipeline, z: Tensor) -> tuple[int, int]:
    """Height and width of the image in pixels."""
    height, width = z.shape[-2:]
    return height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor


# ---- transformers of which the latent is packed ----


class Flux(Adapter):
    """Flow matching: T5's text and CLIP's pooled one. The network takes the level in 0..1, by `_level`."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, pooled, _ = self.pipeline.encode_prompt(prompts, device=self.device)
        return Conditions({"text": text, "pooled": pooled.to(text.dtype)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        transformer, text = self.pipeline.transformer, conditions["text"]
        squares, places = _pack(z)
        places = F.pad(places, (1, 0)).to(z.dtype)  # [h w / 4, 3]: of the text 0, 0, 0
        prediction = transformer(
            squares, text, conditions["pooled"], _level(time, z), places, places.new_zeros(text.shape[1], 3),
            guidance=_guidance(transformer, z),
        ).sample  # fmt: skip
        return _unpack(prediction, z)


class Chroma(Adapter):
    """Flow matching: T5's text; all padding but its first token is masked."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, _, mask, *_ = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        return Conditions({"text": text, "mask": mask.to(text.dtype)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text = conditions["text"]
        squares, places = _pack(z)
        places = F.pad(places, (1, 0)).to(z.dtype)
        mask = F.pad(conditions["mask"], (0, squares.shape[1]), value=1.0)
        prediction = self.pipeline.transformer(
            squares, text, _level(time, z), places, places.new_zeros(text.shape[1], 3), mask
        ).sample
        return _unpack(prediction, z)


class Flux2(Adapter):
    """Flow matching: three layers of a language model, Mistral or Qwen, which reads the prompt in its chat template."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        return Conditions({"text": self.pipeline.encode_prompt(prompts, device=self.device)[0]})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        transformer, text = self.pipeline.transformer, conditions["text"]
        squares, places = _pack(z)
        order = torch.arange(text.shape[1], device=self.device)[:, None]
        prediction = transformer(
            squares, text, _level(time, z), F.pad(places, (1, 1)), F.pad(order, (3, 0)),  # time, row, column, token
            guidance=_guidance(transformer, z),
        ).sample  # fmt: skip
        return _unpack(prediction, z)


class QwenImage(Adapter):
    """Flow matching: the text of Qwen2.5-VL, which is asked to describe the image; its padding is masked.

    The network takes the level in 0..1 and multiplies it by 1000 in float32. So it is divided first and rounded once:
    in bfloat16 0.651 off on average over 1..1000; rounding before too, as its pipeline does, gives 0.907.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, mask = self.pipeline.encode_prompt(prompts, self.device, max_sequence_length=TAKEN)  # as in sampling
        return Conditions({"text": _unpadded(text, mask)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        text, mask = _padded(conditions["text"])
        squares, _ = _pack(z)
        n, _, h, w = z.shape
        prediction = transformer(
            squares, text, mask, (time / 1000).to(z.dtype), [[(1, h // PACKED, w // PACKED)]] * n,
            guidance=_guidance(transformer, z),
        ).sample  # fmt: skip
        return _unpack(prediction, z)


def _pack(z: Tensor) -> tuple[Tensor, Tensor]:
    """z [n, c, h, w] -> its squares [n, h w / 4, 4 c], and the row and column of each [h w / 4, 2]."""
    places = torch.cartesian_prod(*(torch.arange(side // PACKED, device=z.device) for side in z.shape[-2:]))
    return F.pixel_unshuffle(z, PACKED).flatten(2).transpose(1, 2), places


def _unpack(squares: Tensor, like: Tensor) -> Tensor:
    """Squares [n, h w / 4, 4 c] -> [n, c, h, w], of the height and width of `like`."""
    sides = [side // PACKED for side in like.shape[-2:]]
    return F.pixel_shuffle(squares.transpose(1, 2).unflatten(2, sides), PACKED)


def _level(time: Tensor, z: Tensor) -> Tensor:
    """time [n], 1000 sigma -> sigma [n] in z's dtype, of networks that multiply it by 1000 again in that dtype.

    Rounded before it is divided, as in their pipelines (diffusers 0.42.1). In bfloat16 the network then sees a time
    that is off by 0.625 on average over 1..1000, and by 2 at most; divided first it would be 0.747, and 3.
    """
    return time.to(z.dtype) / 1000


def _guidance(transformer, z: Tensor) -> Tensor | None:
    """Guidance 1, the prediction without guidance, for a network distilled from guided predictions; None for others.

    Only the error of a prediction without guidance means something.
    """
    return torch.ones(len(z), device=z.device) if transformer.config.guidance_embeds else None


# ---- texts without their padding ----


def _unpadded(text: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Texts [n, tokens, width], padding behind -> of each its tokens [its tokens, width]; mask None: all are."""
    if mask is None:
        return tuple(text)
    return tuple(row[:length].clone() for row, length in zip(text, mask.sum(1).tolist(), strict=True))


def _padded(texts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Texts [its tokens, width] -> [n, tokens of the longest, width], zeros behind, and the mask [n, tokens]."""
    lengths = torch.tensor([len(text) for text in texts])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return pad_sequence(texts, batch_first=True), mask.to(texts[0].device)


# ---- other transformers ----


class StableDiffusion3(Adapter):
    """Flow matching: two CLIPs, their pooled texts, and T5 or, in its place, as many zeros as CLIP has tokens.

    So it was trained (arXiv 2403.03206): 77 tokens of each, T5's left out at random.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        pipeline = self.pipeline
        length = {} if pipeline.text_encoder_3 else {"max_sequence_length": pipeline.tokenizer_max_length}
        text, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, self.device, do_classifier_free_guidance=False, **length
        )
        return Conditions({"text": text, "pooled": pooled.to(text.dtype)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return self.pipeline.transformer(z, conditions["text"], conditions["pooled"], time).sample


class ZImage(Adapter):
    """Flow matching: Qwen3's text, without its padding. Time runs from noise, 0, to image, 1; it predicts x - eps."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        copy = list(prompts)  # encode_prompt writes into it
        texts, _ = self.pipeline.encode_prompt(copy, self.device, do_classifier_free_guidance=False)
        return Conditions({"text": tuple(texts)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        frames = list(z[:, :, None])  # of a video
        prediction = self.pipeline.transformer(frames, (1000 - time) / 1000, list(conditions["text"])).sample
        return -torch.cat(prediction, 1).transpose(0, 1)


class CogView4(Adapter):
    """Flow matching: GLM's text, filled up to 16 tokens at a time by padding that is not masked, as for one prompt.

    So rows of one length share a call. The network takes the time from which its scheduler's shift leads to sigma: when
    the pipeline samples, it shifts the sigmas and leaves the times as they were.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        texts = [self.pipeline.encode_prompt([each], None, False, device=self.device)[0][0] for each in prompts]
        return Conditions({"text": tuple(texts)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        levels = self.pipeline.scheduler.config.num_train_timesteps
        before_shift = levels / (1 + self._shift(z) * (levels / time - 1))
        size = z.new_tensor(_pixels(self.pipeline, z))
        prediction = torch.empty_like(z)
        for rows in places_of(len(text) for text in conditions["text"]).values():
            text = torch.stack(conditions[rows]["text"])
            sizes = size.expand(len(rows), 2)
            prediction[rows] = self.pipeline.transformer(
                z[rows], text, before_shift[rows], sizes, sizes, torch.zeros_like(sizes)
            ).sample
        return prediction

    def _shift(self, z: Tensor) -> float:
        config = self.pipeline.scheduler.config
        if not config.use_dynamic_shifting:
            return config.shift
        squares = z.shape[-2] * z.shape[-1] / self.pipeline.transformer.config.patch_size**2
        mu = (squares / config.base_image_seq_len) ** 0.5 * config.max_shift + config.base_shift
        return mu if config.time_shift_type == "linear" else math.exp(mu)


class PixArt(Adapter):
    """PixArt-alpha and PixArt-Sigma: T5's text, of which the padding is masked. Both learned their variance as DiT."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, mask, *_ = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        return Conditions({"text": text, "mask": mask.bool()})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        transformer, size = self.pipeline.transformer, {}
        if getattr(transformer, "use_additional_conditions", False):  # PixArt-alpha of 1024 pixels
            height, width = map(torch.tensor, _pixels(self.pipeline, z))
            resolution = torch.stack([height, width]).expand(len(z), 2)
            aspect = (height / width).expand(len(z), 1)
            size = {"added_cond_kwargs": {"resolution": resolution, "aspect_ratio": aspect}}
        return transformer(
            z, encoder_hidden_states=conditions["text"], timestep=time, encoder_attention_mask=conditions["mask"],
            **size,
        ).sample  # fmt: skip


class Sana(PixArt):
    """Flow matching: Gemma's text, the padding masked; it reads the prompt after an instruction, as in sampling."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        instruction = sana_instruction(self.pipeline)
        text, mask, *_ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False, complex_human_instruction=instruction
        )
        return Conditions({"text": text, "mask": mask.bool()})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return super().predict(z, time * self.pipeline.transformer.config.timestep_scale, conditions)


def sana_instruction(pipeline) -> list[str]:
    """The lines that Sana's pipeline puts before every prompt by default.

    Its training does too. `encode_prompt` leaves them out unless it gets them (diffusers 0.42.1).
    """
    return list(inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default or ())


class Lumina2(PixArt):
    """Flow matching: Gemma's text, the padding masked. Time runs from noise, 0, to image, 1; it predicts x - eps."""

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return -super().predict(z, (1000 - time) / 1000, conditions)


class AuraFlow(Adapter):
    """Flow matching: T5's text, zero where there is padding. The network takes the level in 0..1."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)[0]
        return Conditions({"text": text})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return self.pipeline.transformer(z, conditions["text"], (time / 1000).to(z.dtype)).sample


class HunyuanDiT(Adapter):
    """A CLIP's and T5's text, their padding masked, and, before version 1.2, the size as its pipeline has it."""

    def __init__(self, pipeline, device: torch.device):
        super().__init__(pipeline, device)
        self.places = functools.cache(self._places)

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        transformer, columns = self.pipeline.transformer, {}
        lengths = {"clip": transformer.config.text_len, "t5": transformer.config.text_len_t5}
        for which, (name, length) in enumerate(lengths.items()):
            text, _, mask, _ = self.pipeline.encode_prompt(
                prompts, self.device, transformer.dtype, do_classifier_free_guidance=False, max_sequence_length=length,
                text_encoder_index=which,
            )  # fmt: skip
            columns |= {name: text, f"{name}_mask": mask.to(text.dtype)}
        return Conditions(columns)

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        height, width = _pixels(self.pipeline, z)
        size = z.new_tensor([[1024, 1024, height, width, 0, 0]]).repeat(len(z), 1)  # original, shown, its corner
        style = torch.zeros(len(z), dtype=torch.long, device=self.device)
        return self.pipeline.transformer(
            z, time.to(z.dtype), conditions["clip"], conditions["clip_mask"], conditions["t5"], conditions["t5_mask"],
            size, style, self.places(*z.shape[-2:]),
        ).sample  # fmt: skip

    def _places(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Rotary embedding of the places of a latent."""
        from diffusers.pipelines.hunyuandit import pipeline_hunyuandit as theirs

        config, transformer = self.pipeline.transformer.config, self.pipeline.transformer
        grid = h // config.patch_size, w // config.patch_size
        crop = theirs.get_resize_crop_region_for_grid(grid, 64 // config.patch_size)  # of 512 pixels
        head = transformer.inner_dim // transformer.num_heads
        return theirs.get_2d_rotary_pos_embed(head, crop, grid, device=self.device, output_type="pt")


# ---- class ids ----


class DiT(Adapter):
    """DiT: class ids through adaptive layer norm; if the variance is learned, it is the second c channels.

    With a flow-matching scheduler, SiT: its network must take 1000 sigma and predict eps - x, diffusers' convention.
    """

    def encode_prompts(self, prompts: list[int]) -> Conditions:
        return Conditions({"class": torch.tensor(prompts, device=self.device)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return self.pipeline.transformer(z, timestep=time, class_labels=conditions["class"]).sample


class ClassUNet(DiT):
    """A U-Net conditioned on class ids, in pixels or behind an autoencoder."""

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        unet = self.pipeline.unet
        text = {"encoder_hidden_states": None} if type(unet).__name__ == "UNet2DConditionModel" else {}
        return unet(z, time, class_labels=conditions["class"], **text).sample


# ---- the table ----


class Family(NamedTuple):
    """A row of the table: how pipelines of one class are used."""

    network: str  # the folder of its network
    condition: str  # what it is conditioned on, "text" or "class"
    adapter: type[Adapter]
    flow: bool = False  # exists as flow matching only, whatever scheduler lies in its folder
    packed: bool = False  # the network sees squares of the latent, PACKED by PACKED
    shifted: bool = False  # the network's time depends on the scheduler's shift


ADAPTERS = {  # pipeline class -> its family
    "StableDiffusionPipeline": Family("unet", "text", StableDiffusion),
    "LatentConsistencyModelPipeline": Family("unet", "text", StableDiffusion),
    "StableDiffusionXLPipeline": Family("unet", "text", StableDiffusionXL),
    "KolorsPipeline": Family("unet", "text", StableDiffusionXL),
    "StableDiffusion3Pipeline": Family("transformer", "text", StableDiffusion3, flow=True),
    "FluxPipeline": Family("transformer", "text", Flux, flow=True, packed=True),
    "Flux2Pipeline": Family("transformer", "text", Flux2, flow=True, packed=True),
    "Flux2KleinPipeline": Family("transformer", "text", Flux2, flow=True, packed=True),
    "ChromaPipeline": Family("transformer", "text", Chroma, flow=True, packed=True),
    "QwenImagePipeline": Family("transformer", "text", QwenImage, flow=True, packed=True),
    "ZImagePipeline": Family("transformer", "text", ZImage, flow=True),
    "CogView4Pipeline": Family("transformer", "text", CogView4, flow=True, shifted=True),
    "PixArtAlphaPipeline": Family("transformer", "text", PixArt),
    "PixArtSigmaPipeline": Family("transformer", "text", PixArt),
    "SanaPipeline": Family("transformer", "text", Sana, flow=True),
    "Lumina2Pipeline": Family("transformer", "text", Lumina2, flow=True),
    "AuraFlowPipeline": Family("transformer", "text", AuraFlow, flow=True),
    "HunyuanDiTPipeline": Family("transformer", "text", HunyuanDiT),
    "DiTPipeline": Family("transformer", "class", DiT),
    "DDPMPipeline": Family("unet", "class", ClassUNet),
    "DDIMPipeline": Family("unet", "class", ClassUNet),
    "LDMPipeline": Family("unet", "class", ClassUNet),
}
