"""The families: how each kind of pipeline turns prompts into conditions, and how its network predicts from them."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffusion.core.conditions import Conditions, places_of

TAKEN = 512  # tokens, of Qwen-Image and Z-Image
PACKED = 2  # Flux and those like it see the latent as squares of 2 by 2
LAYOUT = 2  # of the columns of conditions; raised if they change, so that no older file of them is read
STEP = 16  # tokens: calls of texts of many lengths have few shapes, and a compiled network is compiled for few
Sides = tuple[int, int]  # the rows and columns of these squares
UNGUIDED: dict[str, Any] = {"do_classifier_free_guidance": False}  # options of a pipeline's encode_prompt
LONG: dict[str, Any] = {"max_sequence_length": TAKEN}  # as in sampling


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

    encoding: ClassVar[dict[str, Any]] = {}  # options of the pipeline's encode_prompt, beside prompts and device
    scaling: float | None = None  # of latents, if the pipeline does not use the VAE's
    eps: float | None = None  # of the norm of latents, likewise

    def __init__(self, pipeline, device: torch.device):
        self.pipeline, self.device = pipeline, device

    def encode_prompts(self, prompts: list) -> Conditions:
        """n prompts or class ids -> their conditions, n rows; by default the text alone, as its pipeline pads it."""
        return Conditions({"text": self._encoded(prompts)[0]})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """z [n, c, h, w], time [n], n conditions -> the network's output [n, c or 2c, h, w]."""
        raise NotImplementedError

    def read(self, prompts: list[str]) -> list[Reading]:
        """What each text encoder reads of prompts, so that those that are too long can be named."""
        readings = []
        for part, tokenizer in self.pipeline.components.items():
            if not part.startswith(("tokenizer", "processor")) or tokenizer is None:
                continue
            texts = [self.text(part, prompt) for prompt in prompts]
            if not hasattr(tokenizer, "get_vocab"):
                tokenizer = tokenizer.tokenizer  # of a processor, which reads images too
            limit = min(tokenizer.model_max_length, self.limit(part) or tokenizer.model_max_length)
            encoder = part.replace("tokenizer", "text_encoder").replace("processor", "text_encoder")
            readings.append(Reading(encoder, tokenizer, self.token_ids(part, tokenizer, texts), limit))
        return readings

    def text(self, part: str, prompt: str) -> str:
        """What a tokenizer gets of a prompt; some put it into a chat's template, as the network was trained."""
        if hasattr(self.pipeline, "maybe_convert_prompt"):  # a token of several vectors is as many tokens
            return self.pipeline.maybe_convert_prompt(prompt, getattr(self.pipeline, part))
        return prompt

    def limit(self, part: str) -> int | None:
        """How many tokens of a text are read, the template's included; None: as many as the tokenizer's maximum."""
        longest = inspect.signature(self.pipeline.encode_prompt).parameters.get("max_sequence_length")
        return longest and longest.default

    def token_ids(self, part: str, tokenizer, texts: list[str]) -> list[list[int]]:
        return tokenizer(texts).input_ids

    def _encoded(self, prompts: list) -> tuple:
        return self.pipeline.encode_prompt(prompts, device=self.device, **self.encoding)


class MaskedText(Adapter):
    """Text whose padding is masked: it is kept without, and filled up to the longest text of a call, by `_padded`.

    A masked token has no part in the attention: exp(-10000) is 0 in every dtype.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, mask, *_ = self._encoded(prompts)
        return Conditions({"text": _unpadded(text, mask)})


class Packed(Adapter):
    """A transformer that sees the latent as squares of PACKED by PACKED, row by row."""

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        sides = z.shape[-2] // PACKED, z.shape[-1] // PACKED
        squares = F.pixel_unshuffle(z, PACKED).flatten(2).transpose(1, 2)
        prediction = self.predict_squares(squares, time, conditions, sides)
        return F.pixel_shuffle(prediction.transpose(1, 2).unflatten(2, sides), PACKED)

    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        """Squares [n, rows * columns, 4 c], time [n], n conditions, rows and columns -> as many squares."""
        raise NotImplementedError


# ---- texts and places ----


def _chat(tokenizer, prompt: str, thinking: bool) -> str:
    """A prompt as a user's message in the chat's template."""
    message = {"role": "user", "content": prompt}
    return tokenizer.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )


def _unpadded(text: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Texts [n, tokens, ...] -> of each the tokens that are not masked [its tokens, ...]; mask None: all."""
    if mask is None:
        return tuple(text)
    return tuple(row[kept] for row, kept in zip(text, mask.bool(), strict=True))


def _padded(texts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Texts [its tokens, ...] -> [n, tokens, ...], zeros behind, and the mask [n, tokens].

    As many tokens as the longest has, rounded up to a multiple of STEP.
    """
    lengths = torch.tensor(list(map(len, texts)))
    longest = int(lengths.max())
    tokens = math.ceil(longest / STEP) * STEP
    mask = torch.arange(tokens) < lengths[:, None]
    padded = pad_sequence(list(texts), batch_first=True)
    behind = [0, 0] * (padded.ndim - 2) + [0, tokens - longest]
    return F.pad(padded, behind), mask.to(texts[0].device)


def by_length(predict: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a method of an adapter: its first argument, time and conditions are of texts of one length.

    It is called for the rows of each length, with columns that are tensors [n, ...], not tuples.
    """

    @functools.wraps(predict)
    def of_all(self, z: Tensor, time: Tensor, conditions: Conditions, *rest) -> Tensor:
        prediction = torch.empty_like(z)
        for rows in places_of(map(len, conditions["text"])).values():
            columns = {}
            for name, column in conditions[rows].columns.items():
                columns[name] = torch.stack(tuple(column))
            prediction[rows] = predict(self, z[rows], time[rows], Conditions(columns), *rest)
        return prediction

    return of_all


def _places(sides: Sides, like: Tensor) -> Tensor:
    """[rows * columns, 3]: 0, the row and the column of each square, on the device of `like`."""
    rows, columns = (torch.arange(side, device=like.device) for side in sides)
    return F.pad(torch.cartesian_prod(rows, columns), (1, 0))


def _diagonal(text: Tensor) -> Tensor:
    """[tokens, 3] for texts [n, tokens, width]: 0, and twice the number of each token."""
    order = torch.arange(text.shape[1], device=text.device)
    return torch.stack([torch.zeros_like(order), order, order], 1)


def _pixels(pipeline, z: Tensor) -> tuple[int, int]:
    """Height and width of the image in pixels."""
    height, width = z.shape[-2:]
    return height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor


def _rounded_first(time: Tensor, like: Tensor) -> Tensor:
    """time [n], 1000 sigma -> sigma [n] in the dtype of `like`, of networks that multiply it by 1000 in that dtype.

    Rounded before it is divided, as in their pipelines (diffusers 0.42.1). In bfloat16 the network then sees a time
    that is off by 0.625 on average over 1..1000, and by 2 at most; divided first it would be 0.747, and 3.
    """
    return time.to(like.dtype) / 1000


def _guidance(transformer, z: Tensor) -> Tensor | None:
    """Guidance 1, the prediction without guidance, for a network distilled from guided predictions; None for others.

    Only the error of a prediction without guidance means something.
    """
    return torch.ones(len(z), device=z.device) if transformer.config.guidance_embeds else None


# ---- U-Nets ----


class StableDiffusion(Adapter):
    """Stable Diffusion 1.x and 2.x, epsilon and v-prediction, and LCM: text through cross-attention."""

    encoding = UNGUIDED | {"num_images_per_prompt": 1}

    def __init__(self, pipeline, device: torch.device):
        super().__init__(pipeline, device)
        self.guidance = self._guidance()

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return self.pipeline.unet(z, time, encoder_hidden_states=conditions["text"], **self.guidance).sample

    def _guidance(self) -> dict[str, Tensor]:
        """Guidance 1, as its pipeline embeds it, for a U-Net distilled from guided predictions; nothing for others."""
        width = self.pipeline.unet.config.time_cond_proj_dim
        if width is None:
            return {}
        embedding = self.pipeline.get_guidance_scale_embedding(torch.zeros(1), width)  # of guidance less 1
        return {"timestep_cond": embedding.to(self.device, self.pipeline.unet.dtype)}


class StableDiffusionXL(StableDiffusion):
    """Text of both CLIPs, pooled text of the second, or both of Kolors' GLM; the size: uncropped, as it is shown."""

    encoding = UNGUIDED

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, _, pooled, _ = self._encoded(prompts)
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

    scaling = 1.0  # its pipeline decodes latents as they are

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        texts, masks = [], []
        for prompt in prompts:
            text, _, mask, _ = self.pipeline.encode_prompt([prompt], False, device=self.device, _cut_context=True)
            texts.append(text[0])
            masks.append(mask[0].bool())
        return Conditions({"text": tuple(texts), "mask": tuple(masks)})

    @by_length
    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text, mask = conditions["text"], conditions["mask"]
        return self.pipeline.unet(z, time, encoder_hidden_states=text, encoder_attention_mask=mask).sample

    def limit(self, part: str) -> int:
        return 128


class DeepFloydIF(StableDiffusion):
    """The first stage, in pixels: T5's text, its padding not masked; the variance is learned."""

    encoding = UNGUIDED

    def text(self, part: str, prompt: str) -> str:
        return self.pipeline._text_preprocessing(prompt)[0]

    def limit(self, part: str) -> int:
        return 77


# ---- transformers of which the latent is packed ----


class Flux(Packed):
    """Flow matching: T5's text and CLIP's pooled one. The network takes the level in 0..1, by `_rounded_first`."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, pooled, _ = self._encoded(prompts)
        return Conditions({"text": text, "pooled": pooled.to(text.dtype)})

    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        transformer, text = self.pipeline.transformer, conditions["text"]
        places = _places(sides, squares).to(squares.dtype)
        return transformer(
            squares, text, conditions["pooled"], _rounded_first(time, squares), places,
            places.new_zeros(text.shape[1], 3), guidance=_guidance(transformer, squares),
        ).sample  # fmt: skip


class Chroma(Packed):
    """Flux without the pooled text; 1 is added to attention's scores of all but T5's padding, as its pipeline does."""

    encoding = UNGUIDED

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, _, mask, *_ = self._encoded(prompts)
        return Conditions({"text": text, "mask": mask.to(text.dtype)})

    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        text = conditions["text"]
        places = _places(sides, squares).to(squares.dtype)
        mask = F.pad(conditions["mask"], (0, squares.shape[1]), value=1.0)
        return self.pipeline.transformer(
            squares, text, _rounded_first(time, squares), places, places.new_zeros(text.shape[1], 3), mask
        ).sample


class Flux2(Packed):
    """Flow matching: three layers of a language model, Mistral or Qwen, which reads the prompt in its chat template."""

    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        transformer, text = self.pipeline.transformer, conditions["text"]
        places = F.pad(_places(sides, squares), (0, 1))  # time, row, column, token
        order = F.pad(torch.arange(text.shape[1], device=self.device)[:, None], (3, 0))
        return transformer(
            squares, text, _rounded_first(time, squares), places, order, guidance=_guidance(transformer, squares)
        ).sample

    def text(self, part: str, prompt: str) -> str:
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        (messages,) = format_input([prompt], self.pipeline.system_message)
        return self.pipeline.tokenizer.apply_chat_template(messages, tokenize=False)


class Flux2Klein(Flux2):
    """The same with Qwen3."""

    def text(self, part: str, prompt: str) -> str:
        return _chat(self.pipeline.tokenizer, prompt, thinking=False)


class QwenImage(MaskedText, Packed):
    """Flow matching: the text of Qwen2.5-VL, which is asked to describe the image; its padding is masked.

    The network takes the level in 0..1 and multiplies it by 1000 in float32. So it is divided first and rounded once:
    in bfloat16 0.651 off on average over 1..1000; rounding before too, as its pipeline does, gives 0.907.
    """

    encoding = LONG

    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        transformer = self.pipeline.transformer
        text, mask = _padded(conditions["text"])
        return transformer(
            squares, text, mask, (time / 1000).to(squares.dtype), [[(1, *sides)]] * len(squares),
            guidance=_guidance(transformer, squares),
        ).sample  # fmt: skip

    def text(self, part: str, prompt: str) -> str:
        return self.pipeline.prompt_template_encode.format(prompt)

    def limit(self, part: str) -> int:
        return TAKEN + self.pipeline.prompt_template_encode_start_idx


class Krea2(MaskedText, Packed):
    """Flow matching: layers of Qwen3-VL's text, which is asked to describe the image, without its padding."""

    encoding = LONG

    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        text, mask = _padded(conditions["text"])  # [n, tokens, layers, width]
        places = _places(sides, squares)
        places = torch.cat([places.new_zeros(text.shape[1], 3), places]).float()
        return self.pipeline.transformer(squares, text, (time / 1000).to(squares.dtype), places, mask).sample

    def text(self, part: str, prompt: str) -> str:
        return self.pipeline.prompt_template_encode_prefix + prompt

    def limit(self, part: str) -> int:
        suffix = self.pipeline.prompt_template_encode_num_suffix_tokens  # comes behind the padding
        return TAKEN + self.pipeline.prompt_template_encode_start_idx - suffix


class ErnieImage(Adapter):
    """Flow matching: Mistral's text, its padding masked. The packed latent keeps its two axes."""

    eps = 1e-5  # as its pipeline decodes; the VAE's configuration says 1e-4 (diffusers 0.42.1)

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        return Conditions({"text": tuple(self._encoded(prompts))})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text, mask = _padded(conditions["text"])
        packed = F.pixel_unshuffle(z, PACKED)
        prediction = self.pipeline.transformer(packed, time.to(z.dtype), text, mask.sum(1)).sample
        return F.pixel_shuffle(prediction, PACKED)


class OvisImage(Packed):
    """Flow matching: Qwen3's text, which is asked to describe the image, zero where there is padding."""

    encoding = UNGUIDED

    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        text, places = conditions["text"], _places(sides, squares)
        return self.pipeline.transformer(
            squares, text, _rounded_first(time, squares), places.to(squares.dtype), _diagonal(text).to(squares.dtype)
        ).sample

    def text(self, part: str, prompt: str) -> str:
        return _chat(self.pipeline.tokenizer, self.pipeline.system_prompt + prompt, thinking=False)

    def limit(self, part: str) -> int:
        return super().limit(part) + self.pipeline.user_prompt_begin_id


class LongCatImage(Packed):
    """Flow matching: Qwen2.5-VL's text, which is asked for a prompt; padding is in the middle and is not masked."""

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        return Conditions({"text": self.pipeline.encode_prompt(prompts)[0]})

    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        text = conditions["text"]
        places = _places(sides, squares) + self.pipeline.tokenizer_max_length  # behind the longest text
        places[:, 0] = 1
        return self.pipeline.transformer(
            squares, text, _rounded_first(time, squares), places.float(), _diagonal(text).float()
        ).sample

    def limit(self, part: str) -> int:
        return self.pipeline.tokenizer_max_length

    def token_ids(self, part: str, tokenizer, texts: list[str]) -> list[list[int]]:
        """What is in quotes is read letter by letter."""
        from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation

        found = []
        for text in texts:
            ids = []
            for piece, quoted in split_quotation(text):
                words = list(piece) if quoted else [piece]
                for word in words:
                    ids += tokenizer(word, add_special_tokens=False).input_ids
            found.append(ids)
        return found


class NucleusImage(Packed):
    """Flow matching: an inner layer of Qwen3-VL's text, its padding masked. It predicts x - eps.

    A prompt is encoded alone, filled up to a multiple of 8 tokens; rows of one length share a call.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        texts, masks = [], []
        for prompt in prompts:
            text, mask = self._encoded([prompt])
            if mask is None:
                mask = torch.ones(1, text.shape[1], device=self.device)
            texts.append(text[0])
            masks.append(mask[0].bool())
        return Conditions({"text": tuple(texts), "mask": tuple(masks)})

    @by_length
    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        return -self.pipeline.transformer(
            squares, [(1, *sides)] * len(squares), conditions["text"], conditions["mask"],
            (time / 1000).to(squares.dtype),
        ).sample  # fmt: skip

    def text(self, part: str, prompt: str) -> str:
        return self.pipeline._format_prompt(prompt)

    def limit(self, part: str) -> int:
        return self.pipeline.default_max_sequence_length


class Bria(Packed):
    """Flow matching: T5's text, zeros behind it, not masked."""

    encoding = UNGUIDED

    def predict_squares(self, squares: Tensor, time: Tensor, conditions: Conditions, sides: Sides) -> Tensor:
        text, places = conditions["text"], _places(sides, squares).to(squares.dtype)
        return self.pipeline.transformer(
            squares, text, timestep=time, img_ids=places, txt_ids=places.new_zeros(text.shape[1], 3)
        ).sample


# ---- other transformers ----


class StableDiffusion3(Adapter):
    """Flow matching: two CLIPs, their pooled texts, and T5 or, in its place, as many zeros as CLIP has tokens.

    So it was trained (arXiv 2403.03206): 77 tokens of each, T5's left out at random.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        pipeline, length = self.pipeline, {}
        if pipeline.text_encoder_3 is None:
            length["max_sequence_length"] = pipeline.tokenizer_max_length
        text, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, self.device, **UNGUIDED, **length)
        return Conditions({"text": text, "pooled": pooled.to(text.dtype)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return self.pipeline.transformer(z, conditions["text"], conditions["pooled"], time).sample


class ZImage(Adapter):
    """Flow matching: Qwen3's text, without its padding. Time runs from noise, 0, to image, 1; it predicts x - eps."""

    encoding = UNGUIDED

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        texts, _ = self._encoded(list(prompts))  # a copy, since encode_prompt writes into it
        return Conditions({"text": tuple(texts)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        frames = list(z[:, :, None])  # of a video
        prediction = self.pipeline.transformer(frames, (1000 - time) / 1000, list(conditions["text"])).sample
        return -torch.cat(prediction, 1).transpose(0, 1)

    def text(self, part: str, prompt: str) -> str:
        return _chat(self.pipeline.tokenizer, prompt, thinking=True)


class CogView4(Adapter):
    """Flow matching: GLM's text, filled up to 16 tokens at a time by padding that is not masked, as for one prompt.

    So rows of one length share a call. The network takes the time from which its scheduler's shift leads to sigma: when
    the pipeline samples, it shifts the sigmas and leaves the times as they were.
    """

    encoding = UNGUIDED

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        return Conditions({"text": tuple(self._encoded([prompt])[0][0] for prompt in prompts)})

    @by_length
    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        levels = self.pipeline.scheduler.config.num_train_timesteps
        before_shift = levels / (1 + self._shift(z) * (levels / time - 1))
        size = z.new_tensor(_pixels(self.pipeline, z)).expand(len(z), 2)
        corner = torch.zeros_like(size)
        return self.pipeline.transformer(z, conditions["text"], before_shift, size, size, corner).sample

    def _shift(self, z: Tensor) -> float:
        config = self.pipeline.scheduler.config
        if not config.use_dynamic_shifting:
            return config.shift
        squares = z.shape[-2] * z.shape[-1] / self.pipeline.transformer.config.patch_size**2
        mu = (squares / config.base_image_seq_len) ** 0.5 * config.max_shift + config.base_shift
        return mu if config.time_shift_type == "linear" else math.exp(mu)


class PixArt(MaskedText):
    """PixArt-alpha and PixArt-Sigma: T5's text, of which the padding is masked. Both learned their variance as DiT."""

    encoding = UNGUIDED

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        transformer, size = self.pipeline.transformer, {}
        if getattr(transformer, "use_additional_conditions", False):  # PixArt-alpha of 1024 pixels
            height, width = map(torch.tensor, _pixels(self.pipeline, z))
            resolution = torch.stack([height, width]).expand(len(z), 2)
            aspect = (height / width).expand(len(z), 1)
            size = {"added_cond_kwargs": {"resolution": resolution, "aspect_ratio": aspect}}
        text, mask = _padded(conditions["text"])
        return transformer(z, encoder_hidden_states=text, timestep=time, encoder_attention_mask=mask, **size).sample


class Sana(PixArt):
    """Flow matching: Gemma's text, the padding masked; it reads the prompt after an instruction, as in sampling."""

    @property
    def encoding(self) -> dict[str, Any]:
        return UNGUIDED | {"complex_human_instruction": sana_instruction(self.pipeline)}

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return super().predict(z, time * self.pipeline.transformer.config.timestep_scale, conditions)

    def text(self, part: str, prompt: str) -> str:
        return "\n".join(sana_instruction(self.pipeline)) + prompt

    def limit(self, part: str) -> int:
        instruction, before = "\n".join(sana_instruction(self.pipeline)), 0
        if instruction:
            before = len(self.pipeline.tokenizer.encode(instruction)) - 2  # as encode_prompt counts
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

    def text(self, part: str, prompt: str) -> str:
        return f"{self.pipeline.system_prompt} <Prompt Start> {prompt}"


class PRX(MaskedText):
    """Flow matching: the text of T5Gemma's encoder, the padding masked. The network takes the level in 0..1."""

    encoding = UNGUIDED

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text, mask = _padded(conditions["text"])
        return self.pipeline.transformer(z, time / 1000, text, mask).sample

    def text(self, part: str, prompt: str) -> str:
        return self.pipeline.text_preprocessor.clean_text(prompt)


class AuraFlow(Adapter):
    """Flow matching: T5's text, zero where there is padding. The network takes the level in 0..1."""

    encoding = UNGUIDED

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
                prompts, self.device, transformer.dtype, max_sequence_length=length, text_encoder_index=which,
                **UNGUIDED,
            )  # fmt: skip
            columns[name] = text
            columns[f"{name}_mask"] = mask.to(text.dtype)
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


class QwenImage21(MaskedText):
    """Flow matching: the text of Qwen3-VL before its last norm, without padding; images are RGBA, opaque.

    Places of the image follow the text, so rows of one length share a call.
    """

    @by_length
    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text = conditions["text"]
        n, _, h, w = z.shape
        tokens = z.flatten(2).transpose(1, 2)
        of_image = torch.ones(n, text.shape[1] + h * w // 4, dtype=torch.bool, device=self.device)
        of_image[:, : text.shape[1]] = False  # a token of the language model stands for 4 places of the latent
        prediction = self.pipeline.transformer(
            tokens, text, (time / 1000).to(z.dtype), [[(1, h, w)]] * n, of_image
        ).sample
        return prediction[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))

    def text(self, part: str, prompt: str) -> str:
        return self.pipeline.prompt_template_t2i.format(prompt or " ")


class HiDreamImage(Adapter):
    """Flow matching: T5's text, that of every layer of Llama, and both CLIPs' pooled ones. It predicts x - eps."""

    encoding = UNGUIDED

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        t5, _, llama, _, pooled, _ = self._encoded(prompts)
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
        texts, pooled = [], []
        for prompt in prompts:
            text, of_clip, _ = self.pipeline.encode_prompt(
                [prompt], device=self.device, dtype=self.pipeline.transformer.dtype
            )
            texts.append(text[0])
            pooled.append(of_clip)
        return Conditions({"text": tuple(texts), "pooled": torch.cat(pooled)})

    @by_length
    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        text = conditions["text"]
        sides = 1, z.shape[-2] // PACKED, z.shape[-1] // PACKED  # of the frames and the squares
        *places, order = (torch.arange(length, device=self.device) for length in (*sides, text.shape[1]))
        prediction = self.pipeline.transformer(
            z.permute(0, 2, 3, 1)[:, None], text, time.to(z.dtype), conditions["pooled"], places, order
        ).sample
        return prediction[:, 0].permute(0, 3, 1, 2)

    def text(self, part: str, prompt: str) -> str:
        from diffusers.pipelines.kandinsky5.pipeline_kandinsky_t2i import prompt_clean

        cleaned = prompt_clean(prompt)
        return cleaned if part == "tokenizer_2" else self.pipeline.prompt_template.format(cleaned)

    def limit(self, part: str) -> int:
        return 77 if part == "tokenizer_2" else super().limit(part) + self.pipeline.prompt_template_encode_start_idx


class HunyuanImage(Adapter):
    """Flow matching: the text of Qwen2.5-VL, which is asked to describe the image, and ByT5's of what is in quotes.

    Padding of both is masked.
    """

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        text, mask, quoted, quoted_mask = self.pipeline.encode_prompt(prompts, self.device, len(prompts))
        dtype = self.pipeline.transformer.dtype
        return Conditions({"text": _unpadded(text.to(dtype), mask), "quoted": _unpadded(quoted.to(dtype), quoted_mask)})

    def predict(self, z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        transformer, guidance = self.pipeline.transformer, None
        if transformer.config.guidance_embeds:
            guidance = z.new_full([len(z)], 1000.0)  # 1, in thousandths
        (text, mask), (quoted, quoted_mask) = _padded(conditions["text"]), _padded(conditions["quoted"])
        return transformer(
            z, time.to(z.dtype), text, mask, encoder_hidden_states_2=quoted, encoder_attention_mask_2=quoted_mask,
            guidance=guidance,
        ).sample  # fmt: skip

    def text(self, part: str, prompt: str) -> str:
        from diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage import extract_glyph_text

        if part == "tokenizer_2":
            return extract_glyph_text(prompt) or ""
        return self.pipeline.prompt_template_encode.format(prompt)

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
        unet, text = self.pipeline.unet, {}
        if type(unet).__name__ == "UNet2DConditionModel":
            text["encoder_hidden_states"] = None
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
    "PRXPipeline": Family("transformer", "text", PRX, flow=True),
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
