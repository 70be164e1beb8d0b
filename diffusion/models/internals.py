"""The parts of diffusers and transformers that their documentation does not promise, and that this package uses.

They are listed here alone. A version that lacks one is refused before a model is looked at; pyproject.toml can so leave
the versions of these libraries open.
"""

import functools
import importlib
from importlib.metadata import version

from diffusion import InputError

TESTED = {"diffusers": "0.42.1", "transformers": "5.24.0"}
INTERNALS = {  # module, or module:class -> names in it
    "diffusers.loaders.single_file_model": ("SINGLE_FILE_LOADABLE_CLASSES",),
    "diffusers.loaders.single_file_utils": (
        "DIFFUSERS_DEFAULT_PIPELINE_PATHS", "SingleFileComponentError", "create_diffusers_clip_model_from_ldm",
        "create_diffusers_t5_model_from_checkpoint", "infer_diffusers_model_type", "is_clip_model_in_single_file",
        "is_t5_in_single_file",
    ),
    "diffusers:ModelMixin": (
        "_fix_state_dict_keys_on_load", "_keep_in_fp32_modules", "_keys_to_ignore_on_load_unexpected",
    ),
    "diffusers:DiffusionPipeline": ("_optional_components",),
    "transformers:PreTrainedModel": ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"),
    "diffusers.utils.dummy_torch_and_torchsde_objects:DPMSolverSDEScheduler": ("_backends",),  # a stand-in
    "diffusers.utils.logging": ("disable_progress_bar", "enable_progress_bar", "is_progress_bar_enabled"),
    "transformers.utils.logging": ("disable_progress_bar", "enable_progress_bar", "is_progress_bar_enabled"),
}  # fmt: skip
OF_PIPELINES = {  # the same, imported only with their pipeline
    "diffusers.pipelines.flux2.pipeline_flux2": ("format_input",),
    "diffusers:IFPipeline": ("_text_preprocessing",),
    "diffusers:NucleusMoEImagePipeline": ("_format_prompt",),
    "diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage": ("extract_glyph_text",),
    "diffusers.pipelines.kandinsky5.pipeline_kandinsky_t2i": ("prompt_clean",),
    "diffusers.pipelines.longcat_image.pipeline_longcat_image": ("split_quotation",),
    "diffusers.pipelines.hunyuandit.pipeline_hunyuandit": (
        "get_2d_rotary_pos_embed", "get_resize_crop_region_for_grid",
    ),
    "diffusers.pipelines.kolors": ("ChatGLMModel", "ChatGLMTokenizer"),
    "diffusers.pipelines.prx": ("T5GemmaEncoder",),
    "transformers.dynamic_module_utils": ("TIME_OUT_REMOTE_CODE",),  # with open_clip
}  # fmt: skip


def missing(table: dict[str, tuple[str, ...]]) -> list[str]:
    """The dotted names of a table that the installed libraries do not have."""
    lost = []
    for place, names in table.items():
        module, _, of_class = place.partition(":")
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            lost.append(module)
            continue
        if of_class:
            found = getattr(found, of_class, None)
        lost += [f"{place.replace(':', '.')}.{name}" for name in names if not hasattr(found, name)]
    return lost


@functools.cache
def check_internals() -> None:
    """Raise InputError if a library lacks one of INTERNALS, with the version that this package was tested with."""
    lost = missing(INTERNALS)
    if lost:
        library = lost[0].split(".")[0]
        found = f"{version(library)} lacks {', '.join(lost)}"
        raise InputError(library, f"{found}; wanted {TESTED[library]}: pip install {library}=={TESTED[library]}")
