"""Why pipelines of diffusers that have no adapter are not supported: one line for each, before a weight is read."""

import inspect
from collections.abc import Iterable

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
    "PRXPixelPipeline": "begins with noise of twice the deviation, and predicts the image, not noise",
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
