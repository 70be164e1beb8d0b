"""The families: how each kind of pipeline turns prompts into conditions, and how its network predicts from them."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffusion.core.conditions import Conditions, places_of

TAKEN = 512  # tokens, of Qwen-Image and Z-Image
PACKED = 2  # Flux and those like it see the latent as squares of 2 by 2


class Reading(NamedTuple):
    """What a text encoder reads of some prompts."""

    encoder: str  # the part that reads
    tokenizer: object
    ids: list[list[int]]  # of each prompt, in its template
    limit: int  # of these the encoder takes so many


class Adapter:
    """One kind of pipeline, for the kernel: conditions and predictions, and how prompts are tokenized.

    Sizes, levels, VAE and what the network predicts are read from the pipeline's configuration.
    """

    def __init__(self, pipeline, device: torch.device):
        self.pipeline, self.device = pipeline, device

    def encode_prompts(self, prompts: list) -> Conditions:
        """n prompts or class ids -> their conditions, n rows."""
        raise NotImplementedError

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """z [n, c, h, w], time [n], n conditions -> the network's output [n, c or 2c, h, w]."""
        raise NotImplementedError

    def read(self, prompts: list[str]) -> list[Reading]:
        """What each text encoder reads of prompts, so that those that are too long can be named."""
        readings = []
        for part, tokenizer in self.pipeline.components.items():
            if not part.startswith(("tokenizer", "processor")) or tokenizer is None:
                continue
            texts = self.texts(part, prompts)
            if not hasattr(tokenizer, "get_vocab"):
                tokenizer = tokenizer.tokenizer  # of a processor, which reads images too
            limit = min(tokenizer.model_max_length, self.limit(part) or tokenizer.model_max_length)
            encoder = part.replace("tokenizer", "text_encoder").replace("processor", "text_encoder")
            readings.append(Reading(encoder, tokenizer, self.token_ids(part, tokenizer, texts), limit))
        return readings

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        """What a tokenizer gets of prompts; some are put into a chat's template, as the network was trained."""
        if hasattr(self.pipeline, "maybe_convert_prompt"):  # a token of several vectors is as many tokens
            return self.pipeline.maybe_convert_prompt(prompts, getattr(self.pipeline, part))
        return prompts

    def limit(self, part: str) -> int | None:
        """How many tokens of a text are read, the template's included; None: as many as the tokenizer's maximum."""
        longest = inspect.signature(self.pipeline.encode_prompt).parameters.get("max_sequence_length")
        return longest and longest.default

    def token_ids(self, part: str, tokenizer, texts: list[str]) -> list[list[int]]:
        return tokenizer(texts).input_ids


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


class Kandinsky3(Adapter):
    """T5's text; the network takes its mean, padding included, so a prompt is encoded alone with one token of it.

    Rows of one length share a call.
    """

    def __init__(self, pipeline, device: torch.device):
        super().__init__(pipeline, device)
        pipeline.movq.register_to_config(scaling_factor=1.0)  # its pipeline decodes latents as they are

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        texts, masks = [], []
        for prompt in prompts:
            text, _, mask, _ = self.pipeline.encode_prompt([prompt], False, device=self.device, _cut_context=True)
            texts.append(text[0])
            masks.append(mask[0].bool())
        return Conditions({"text": tuple(texts), "mask": tuple(masks)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return _by_length(self._predict, z, time, conditions)

    def _predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text, mask = torch.stack(conditions["text"]), torch.stack(conditions["mask"])
        return self.pipeline.unet(z, time, encoder_hidden_states=text, encoder_attention_mask=mask).sample

    def limit(self, part: str) -> int:
        return 128


class DeepFloydIF(StableDiffusion):
    """The first stage, in pixels: T5's text, its padding not masked; the variance is learned."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        return Conditions({"text": self.pipeline.encode_prompt(prompts, False, device=self.device)[0]})

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        return self.pipeline._text_preprocessing(prompts)

    def limit(self, part: str) -> int:
        return 77


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
    """Flux without the pooled text; 1 is added to attention's scores of all but T5's padding, as its pipeline does."""

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

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        messages = format_input(prompts, self.pipeline.system_message)
        return self.pipeline.tokenizer.apply_chat_template(messages, tokenize=False)


class Flux2Klein(Flux2):
    """The same with Qwen3."""

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        return _chats(self.pipeline.tokenizer, prompts, thinking=False)


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

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        return [self.pipeline.prompt_template_encode.format(each) for each in prompts]

    def limit(self, part: str) -> int:
        return TAKEN + self.pipeline.prompt_template_encode_start_idx


class Krea2(Adapter):
    """Flow matching: layers of Qwen3-VL's text, which is asked to describe the image, without its padding."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, mask = self.pipeline.encode_prompt(prompts, self.device, max_sequence_length=TAKEN)
        return Conditions({"text": tuple(row[kept] for row, kept in zip(text, mask.bool(), strict=True))})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text, mask = _padded(conditions["text"])  # [n, tokens, layers, width]
        squares, places = _pack(z)
        positions = torch.cat([places.new_zeros(text.shape[1], 3), F.pad(places, (1, 0))]).float()
        prediction = self.pipeline.transformer(squares, text, (time / 1000).to(z.dtype), positions, mask).sample
        return _unpack(prediction, z)

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        return [self.pipeline.prompt_template_encode_prefix + each for each in prompts]

    def limit(self, part: str) -> int:
        suffix = self.pipeline.prompt_template_encode_num_suffix_tokens  # comes behind the padding
        return TAKEN + self.pipeline.prompt_template_encode_start_idx - suffix


class ErnieImage(Adapter):
    """Flow matching: Mistral's text, its padding masked. The packed latent keeps its two axes."""

    def __init__(self, pipeline, device: torch.device):
        super().__init__(pipeline, device)
        pipeline.vae.bn.eps = 1e-5  # as its pipeline decodes; the VAE's configuration says 1e-4 (diffusers 0.42.1)

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        return Conditions({"text": tuple(self.pipeline.encode_prompt(prompts, self.device))})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text, mask = _padded(conditions["text"])
        packed = F.pixel_unshuffle(z, PACKED)
        prediction = self.pipeline.transformer(packed, time.to(z.dtype), text, mask.sum(1)).sample
        return F.pixel_shuffle(prediction, PACKED)


class OvisImage(Adapter):
    """Flow matching: Qwen3's text, which is asked to describe the image, zero where there is padding."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)[0]
        return Conditions({"text": text})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text = conditions["text"]
        squares, places = _pack(z)
        order = torch.arange(text.shape[1], device=self.device)
        order = torch.stack([torch.zeros_like(order), order, order], 1)  # a token's place is on the diagonal
        prediction = self.pipeline.transformer(
            squares, text, _level(time, z), F.pad(places, (1, 0)).to(z.dtype), order.to(z.dtype)
        ).sample
        return _unpack(prediction, z)

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        return _chats(self.pipeline.tokenizer, prompts, thinking=False, before=self.pipeline.system_prompt)

    def limit(self, part: str) -> int:
        return super().limit(part) + self.pipeline.user_prompt_begin_id


class LongCatImage(Adapter):
    """Flow matching: Qwen2.5-VL's text, which is asked for a prompt; padding is in the middle and is not masked."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        return Conditions({"text": self.pipeline.encode_prompt(prompts)[0]})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text = conditions["text"]
        squares, places = _pack(z)
        tokens = self.pipeline.tokenizer_max_length  # image places start behind the longest text
        order = torch.arange(text.shape[1], device=self.device)
        order = torch.stack([torch.zeros_like(order), order, order], 1)
        prediction = self.pipeline.transformer(
            squares, text, _level(time, z), F.pad(places + tokens, (1, 0), value=1).float(), order.float()
        ).sample
        return _unpack(prediction, z)

    def limit(self, part: str) -> int:
        return self.pipeline.tokenizer_max_length

    def token_ids(self, part: str, tokenizer, texts: list[str]) -> list[list[int]]:
        """What is in quotes is read letter by letter."""
        from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation

        found = []
        for text in texts:
            ids = []
            for piece, quoted in split_quotation(text):
                for word in piece if quoted else [piece]:
                    ids += tokenizer(word, add_special_tokens=False).input_ids
            found.append(ids)
        return found


class NucleusImage(Adapter):
    """Flow matching: an inner layer of Qwen3-VL's text, its padding masked. It predicts x - eps.

    A prompt is encoded alone, filled up to a multiple of 8 tokens; rows of one length share a call.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        texts, masks = [], []
        for prompt in prompts:
            text, mask = self.pipeline.encode_prompt([prompt], self.device)
            texts.append(text[0])
            masks.append(torch.ones(len(text[0]), device=self.device) if mask is None else mask[0])
        return Conditions({"text": tuple(texts), "mask": tuple(mask.bool() for mask in masks)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return _by_length(self._predict, z, time, conditions)

    def _predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        squares, _ = _pack(z)
        n, _, h, w = z.shape
        prediction = self.pipeline.transformer(
            squares, [(1, h // PACKED, w // PACKED)] * n, torch.stack(conditions["text"]),
            torch.stack(conditions["mask"]), (time / 1000).to(z.dtype),
        ).sample  # fmt: skip
        return -_unpack(prediction, z)

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        return [self.pipeline._format_prompt(each) for each in prompts]

    def limit(self, part: str) -> int:
        return self.pipeline.default_max_sequence_length


class Bria(Adapter):
    """Flow matching: T5's text, zeros behind it, not masked."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text = self.pipeline.encode_prompt(prompts, self.device, do_classifier_free_guidance=False)[0]
        return Conditions({"text": text})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text = conditions["text"]
        squares, places = _pack(z)
        places = F.pad(places, (1, 0)).to(z.dtype)
        prediction = self.pipeline.transformer(
            squares, text, timestep=time, img_ids=places, txt_ids=places.new_zeros(text.shape[1], 3)
        ).sample
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


# ---- texts ----


def _chats(tokenizer, prompts: list[str], *, thinking: bool, before: str = "") -> list[str]:
    """Each prompt, `before` in front of it, as a user's message in the chat's template."""
    how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
    return [tokenizer.apply_chat_template([{"role": "user", "content": before + each}], **how) for each in prompts]


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


def _by_length(predict: Callable, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
    """predict(z, time, conditions) [n, c, h, w], called for the rows of each length of text."""
    prediction = torch.empty_like(z)
    for rows in places_of(len(text) for text in conditions["text"]).values():
        prediction[rows] = predict(z[rows], time[rows], conditions[rows])
    return prediction


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

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        return _chats(self.pipeline.tokenizer, prompts, thinking=True)


class CogView4(Adapter):
    """Flow matching: GLM's text, filled up to 16 tokens at a time by padding that is not masked, as for one prompt.

    So rows of one length share a call. The network takes the time from which its scheduler's shift leads to sigma: when
    the pipeline samples, it shifts the sigmas and leaves the times as they were.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        texts = [self.pipeline.encode_prompt([each], None, False, device=self.device)[0][0] for each in prompts]
        return Conditions({"text": tuple(texts)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return _by_length(self._predict, z, time, conditions)

    def _predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        levels = self.pipeline.scheduler.config.num_train_timesteps
        before_shift = levels / (1 + self._shift(z) * (levels / time - 1))
        size = z.new_tensor(_pixels(self.pipeline, z)).expand(len(z), 2)
        text = torch.stack(conditions["text"])
        return self.pipeline.transformer(z, text, before_shift, size, size, torch.zeros_like(size)).sample

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

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        instruction = "\n".join(sana_instruction(self.pipeline))
        return [instruction + each for each in prompts]

    def limit(self, part: str) -> int:
        instruction = "\n".join(sana_instruction(self.pipeline))
        before = len(self.pipeline.tokenizer.encode(instruction)) - 2 if instruction else 0  # as encode_prompt counts
        return super().limit(part) + before


def sana_instruction(pipeline) -> list[str]:
    """The lines that Sana's pipeline puts before every prompt by default.

    Its training does too. `encode_prompt` leaves them out unless it gets them (diffusers 0.42.1).
    """
    return list(inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default or ())


class Lumina2(PixArt):
    """Flow matching: Gemma's text, the padding masked. Time runs from noise, 0, to image, 1; it predicts x - eps."""

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return -super().predict(z, (1000 - time) / 1000, conditions)

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        return [f"{self.pipeline.system_prompt} <Prompt Start> {each}" for each in prompts]


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

    def limit(self, part: str) -> int:
        return self.pipeline.transformer.config["text_len" if part == "tokenizer" else "text_len_t5"]

    def _places(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Rotary embedding of the places of a latent."""
        from diffusers.pipelines.hunyuandit import pipeline_hunyuandit as theirs

        config, transformer = self.pipeline.transformer.config, self.pipeline.transformer
        grid = h // config.patch_size, w // config.patch_size
        crop = theirs.get_resize_crop_region_for_grid(grid, 64 // config.patch_size)  # of 512 pixels
        head = transformer.inner_dim // transformer.num_heads
        return theirs.get_2d_rotary_pos_embed(head, crop, grid, device=self.device, output_type="pt")


class QwenImage21(Adapter):
    """Flow matching: the text of Qwen3-VL before its last norm, without padding; images are RGBA, opaque.

    Places of the image follow the text, so rows of one length share a call.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, mask, _ = self.pipeline.encode_prompt(prompts, device=self.device)
        return Conditions({"text": _unpadded(text, mask)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return _by_length(self._predict, z, time, conditions)

    def _predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text = torch.stack(conditions["text"])
        n, _, h, w = z.shape
        tokens = z.flatten(2).transpose(1, 2)
        of_image = torch.ones(n, text.shape[1] + h * w // 4, dtype=torch.bool, device=self.device)
        of_image[:, : text.shape[1]] = False  # a token of the language model stands for 4 places of the latent
        prediction = self.pipeline.transformer(
            tokens, text, (time / 1000).to(z.dtype), [[(1, h, w)]] * n, of_image
        ).sample
        return prediction[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        return [self.pipeline.prompt_template_t2i.format(each or " ") for each in prompts]


class HiDreamImage(Adapter):
    """Flow matching: T5's text, that of every layer of Llama, and both CLIPs' pooled ones. It predicts x - eps."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        t5, _, llama, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        return Conditions({"t5": t5, "llama": llama.transpose(0, 1), "pooled": pooled})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return -self.pipeline.transformer(
            z, time, conditions["t5"], conditions["llama"].transpose(0, 1), conditions["pooled"]
        ).sample


class Kandinsky5(Adapter):
    """Flow matching: the text of Qwen2.5-VL, which is asked to describe the image, and CLIP's pooled one.

    Neither network masks padding: a prompt is encoded alone, and rows of one length share a call.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        dtype = self.pipeline.transformer.dtype
        encoded = [self.pipeline.encode_prompt([prompt], device=self.device, dtype=dtype) for prompt in prompts]
        pooled = torch.cat([pooled for _, pooled, _ in encoded])
        return Conditions({"text": tuple(text[0] for text, _, _ in encoded), "pooled": pooled})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return _by_length(self._predict, z, time, conditions)

    def _predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text = torch.stack(conditions["text"])
        sides = 1, z.shape[-2] // PACKED, z.shape[-1] // PACKED  # of the frames and the squares
        places = [torch.arange(side, device=self.device) for side in sides]
        prediction = self.pipeline.transformer(
            z.permute(0, 2, 3, 1)[:, None], text, time.to(z.dtype), conditions["pooled"], places,
            torch.arange(text.shape[1], device=self.device),
        ).sample  # fmt: skip
        return prediction[:, 0].permute(0, 3, 1, 2)

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        from diffusers.pipelines.kandinsky5.pipeline_kandinsky_t2i import prompt_clean

        template = self.pipeline.prompt_template if part == "tokenizer" else "{}"
        return [template.format(prompt_clean(each)) for each in prompts]

    def limit(self, part: str) -> int:
        return 77 if part == "tokenizer_2" else super().limit(part) + self.pipeline.prompt_template_encode_start_idx


class HunyuanImage(Adapter):
    """Flow matching: the text of Qwen2.5-VL, which is asked to describe the image, and ByT5's of what is in quotes.

    Padding of both is masked. A network of average velocities (MeanFlow) takes a second time, at which the average
    ends: with the same time it is the velocity (arXiv 2505.13447).
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, mask, quoted, quoted_mask = self.pipeline.encode_prompt(prompts, self.device, len(prompts))
        dtype = self.pipeline.transformer.dtype
        return Conditions({"text": _unpadded(text.to(dtype), mask), "quoted": _unpadded(quoted.to(dtype), quoted_mask)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        transformer = self.pipeline.transformer
        (text, mask), (quoted, quoted_mask) = _padded(conditions["text"]), _padded(conditions["quoted"])
        guidance = z.new_full([len(z)], 1000.0) if transformer.config.guidance_embeds else None  # 1, in thousandths
        time = time.to(z.dtype)
        return transformer(
            z, time, text, mask, timestep_r=time if transformer.config.use_meanflow else None,
            encoder_hidden_states_2=quoted, encoder_attention_mask_2=quoted_mask, guidance=guidance,
        ).sample  # fmt: skip

    def texts(self, part: str, prompts: list[str]) -> list[str]:
        from diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage import extract_glyph_text

        if part == "tokenizer_2":
            return [extract_glyph_text(each) or "" for each in prompts]
        return [self.pipeline.prompt_template_encode.format(each) for each in prompts]

    def limit(self, part: str) -> int:
        if part == "tokenizer_2":
            return self.pipeline.tokenizer_2_max_length
        return self.pipeline.tokenizer_max_length + self.pipeline.prompt_template_encode_start_idx


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
    side: int = 128  # of the latent that it was trained on, if the network's configuration has none
    multiple: int = 1  # of which a latent's sides are, beside what packing and patches ask for


FAMILIES = {  # pipeline class -> its family
    "StableDiffusionPipeline": Family("unet", "text", StableDiffusion),
    "LatentConsistencyModelPipeline": Family("unet", "text", StableDiffusion),
    "StableDiffusionXLPipeline": Family("unet", "text", StableDiffusionXL),
    "KolorsPipeline": Family("unet", "text", StableDiffusionXL),
    "StableDiffusion3Pipeline": Family("transformer", "text", StableDiffusion3, flow=True),
    "FluxPipeline": Family("transformer", "text", Flux, flow=True, packed=True),
    "Flux2Pipeline": Family("transformer", "text", Flux2, flow=True, packed=True),
    "Flux2KleinPipeline": Family("transformer", "text", Flux2Klein, flow=True, packed=True),
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
    "QwenImage21Pipeline": Family("transformer", "text", QwenImage21, flow=True, side=64, multiple=2),
    "Krea2Pipeline": Family("transformer", "text", Krea2, flow=True, packed=True),
    "ErnieImagePipeline": Family("transformer", "text", ErnieImage, flow=True, packed=True),
    "OvisImagePipeline": Family("transformer", "text", OvisImage, flow=True, packed=True),
    "Kandinsky3Pipeline": Family("unet", "text", Kandinsky3, multiple=8),
    "IFPipeline": Family("unet", "text", DeepFloydIF),
    "LongCatImagePipeline": Family("transformer", "text", LongCatImage, flow=True, packed=True),
    "NucleusMoEImagePipeline": Family("transformer", "text", NucleusImage, flow=True, packed=True),
    "BriaPipeline": Family("transformer", "text", Bria, flow=True, packed=True),
    "HiDreamImagePipeline": Family("transformer", "text", HiDreamImage, flow=True),
    "Kandinsky5T2IPipeline": Family("transformer", "text", Kandinsky5, flow=True),
    "HunyuanImagePipeline": Family("transformer", "text", HunyuanImage, flow=True, side=64),
    "DiTPipeline": Family("transformer", "class", DiT),
    "DDPMPipeline": Family("unet", "class", ClassUNet),
    "DDIMPipeline": Family("unet", "class", ClassUNet),
    "LDMPipeline": Family("unet", "class", ClassUNet),
}

SHARED = {  # pipelines that differ from another in sampling alone -> that one, which is loaded in their place
    "StableDiffusionPAGPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLPAGPipeline": "StableDiffusionXLPipeline",
    "StableDiffusion3PAGPipeline": "StableDiffusion3Pipeline",
    "KolorsPAGPipeline": "KolorsPipeline",
    "PixArtSigmaPAGPipeline": "PixArtSigmaPipeline",
    "SanaPAGPipeline": "SanaPipeline",
    "HunyuanDiTPAGPipeline": "HunyuanDiTPipeline",
    "StableDiffusionSAGPipeline": "StableDiffusionPipeline",
    "StableDiffusionPanoramaPipeline": "StableDiffusionPipeline",
    "StableDiffusionParadigmsPipeline": "StableDiffusionPipeline",
    "StableDiffusionAttendAndExcitePipeline": "StableDiffusionPipeline",
    "StableDiffusionModelEditingPipeline": "StableDiffusionPipeline",
    "SemanticStableDiffusionPipeline": "StableDiffusionPipeline",
}

_PRIOR = "is two models: noise is added to an image's embedding, which another model draws"
_TOKENS = "predicts tokens that were masked, not noise"
_NO_IMAGE = "makes no images"
_NO_ADAPTER = "is a text-to-image model that has no adapter yet"
UNSUPPORTED = {  # pipelines that make an image of a text or a class -> why they are not supported
    "AltDiffusionPipeline": "has a text encoder that only diffusers before 1.0 has",
    "AmusedPipeline": _TOKENS,
    "BriaFiboPipeline": "reads a structured caption that a language model writes first",
    "CogView3PlusPipeline": _NO_ADAPTER,
    "ConsistencyModelPipeline": "predicts the end of a path, not noise",
    "Cosmos2TextToImagePipeline": "is not loaded without the guardrails of another package, cosmos_guardrail",
    "DiffusionGemmaPipeline": _NO_IMAGE,
    "GlmImagePipeline": "draws tokens of the image with a language model first",
    "Ideogram4Pipeline": _NO_ADAPTER,
    "KandinskyCombinedPipeline": _PRIOR,
    "KandinskyPipeline": _PRIOR,
    "KandinskyPriorPipeline": _PRIOR,
    "KandinskyV22CombinedPipeline": _PRIOR,
    "KandinskyV22Pipeline": _PRIOR,
    "KandinskyV22PriorPipeline": _PRIOR,
    "LDMTextToImagePipeline": _NO_ADAPTER,
    "LLaDA2Pipeline": _NO_IMAGE,
    "LongCatAudioDiTPipeline": _NO_IMAGE,
    "LuminaPipeline": _NO_ADAPTER,
    "PRXPipeline": "has a text encoder, T5GemmaEncoder, that transformers does not load by itself",
    "PRXPixelPipeline": "has a text encoder, T5GemmaEncoder, that transformers does not load by itself",
    "SanaSprintPipeline": "predicts on another path (TrigFlow) than a scheduler's",
    "ShapEPipeline": _NO_IMAGE,
    "StableAudio3AudioToAudioPipeline": _NO_IMAGE,
    "StableAudio3InpaintPipeline": _NO_IMAGE,
    "StableAudio3Pipeline": _NO_IMAGE,
    "StableAudioPipeline": _NO_IMAGE,
    "StableCascadeCombinedPipeline": _PRIOR,
    "StableCascadeDecoderPipeline": _PRIOR,
    "StableCascadePriorPipeline": _PRIOR,
    "StableDiffusionDepth2ImgPipeline": "takes a map of depths beside the text",
    "StableDiffusionInpaintPipeline": "takes a masked image and its mask beside the text",
    "StableDiffusionInstructPix2PixPipeline": "takes the image before the change beside the text",
    "StableDiffusionLDM3DPipeline": "has a VAE of images with depths",
    "StableDiffusionPix2PixZeroPipeline": "changes an image",
    "StableDiffusionUpscalePipeline": "takes a small image beside the text",
    "StableDiffusionXLInpaintPipeline": "takes a masked image and its mask beside the text",
    "StableDiffusionXLInstructPix2PixPipeline": "takes the image before the change beside the text",
    "StableUnCLIPPipeline": _PRIOR,
    "UnCLIPPipeline": _PRIOR,
    "VQDiffusionPipeline": _TOKENS,
    "VersatileDiffusionTextToImagePipeline": "has a network that is put together by code",
    "WuerstchenCombinedPipeline": _PRIOR,
    "WuerstchenDecoderPipeline": _PRIOR,
    "WuerstchenPriorPipeline": _PRIOR,
}


def takes_beside(parameters: Iterable[str]) -> str | None:
    """A parameter of a pipeline's call that is more than text or class: an image, a video, sound; else None."""
    plain = {"num_images_per_prompt", "num_prompts_per_image"}
    for name in parameters:
        of_adapter = "ip_adapter" in name or name in plain
        if not of_adapter and any(word in name for word in ("image", "video", "audio", "frames", "fps")):
            return name
    return None


def why_unsupported(pipeline: str, cls: type | None) -> str:
    """Why a pipeline without an adapter is refused; `cls` is diffusers' class of that name, if there is one."""
    if pipeline in UNSUPPORTED:
        return UNSUPPORTED[pipeline]
    if cls is None:
        return "is no class of the installed diffusers"
    beside = takes_beside(inspect.signature(cls.__call__).parameters)
    return f"takes more than a text or a class: {beside}" if beside else _NO_ADAPTER
