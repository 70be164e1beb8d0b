"""Networks of the sizes of published models, with random weights: for measurements of speed and memory.

The dimensions are those of the models' public configurations; nothing is downloaded. Speed and memory do not depend on
the weights, so these are random numbers made on the device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffusion.settings import quiet_libraries


@dataclass(frozen=True)
class Size:
    """A network of a published model's size, at the resolution the model was made for."""

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int, torch.device, torch.dtype], dict]  # batch, device, dtype -> arguments of a call


def _stable_diffusion_2() -> torch.nn.Module:
    """The U-Net of Stable Diffusion 2: 866 million parameters."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
    )


def _stable_diffusion_2_inputs(batch: int, device: torch.device, dtype: torch.dtype) -> dict:
    return {
        "sample": torch.zeros(batch, 4, 64, 64, device=device, dtype=dtype),
        "timestep": torch.full([batch], 500, device=device),
        "encoder_hidden_states": torch.zeros(batch, 77, 1024, device=device, dtype=dtype),
    }


def _sdxl() -> torch.nn.Module:
    """The U-Net of Stable Diffusion XL: 2,567 million parameters."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=[320, 640, 1280],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _sdxl_inputs(batch: int, device: torch.device, dtype: torch.dtype) -> dict:
    pooled = torch.zeros(batch, 1280, device=device, dtype=dtype)
    sizes = torch.full([batch, 6], 1024, device=device, dtype=dtype)
    return {
        "sample": torch.zeros(batch, 4, 128, 128, device=device, dtype=dtype),
        "timestep": torch.full([batch], 500, device=device),
        "encoder_hidden_states": torch.zeros(batch, 77, 2048, device=device, dtype=dtype),
        "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes},
    }


def _dit() -> torch.nn.Module:
    """DiT-XL/2 as diffusers has it, whose layers each embed the class: 750 million parameters, 675 in the paper."""
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=28,
        num_attention_heads=16,
        attention_head_dim=72,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        num_embeds_ada_norm=1000,
    )


def _dit_inputs(batch: int, device: torch.device, dtype: torch.dtype) -> dict:
    return {
        "hidden_states": torch.zeros(batch, 4, 32, 32, device=device, dtype=dtype),
        "timestep": torch.full([batch], 500, device=device),
        "class_labels": torch.zeros(batch, device=device, dtype=torch.long),
    }


def flux(layers: int, single_layers: int) -> torch.nn.Module:
    """Flux's transformer with so many layers of each kind; Flux.1-dev has 19 and 38, 11,901 million parameters."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=layers,
        num_single_layers=single_layers,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )


def _flux_inputs(batch: int, device: torch.device, dtype: torch.dtype) -> dict:
    return {
        "hidden_states": torch.zeros(batch, 4096, 64, device=device, dtype=dtype),  # squares of 2x2 of 128x128
        "encoder_hidden_states": torch.zeros(batch, 512, 4096, device=device, dtype=dtype),
        "pooled_projections": torch.zeros(batch, 768, device=device, dtype=dtype),
        "timestep": torch.full([batch], 0.5, device=device, dtype=dtype),
        "guidance": torch.full([batch], 3.5, device=device, dtype=dtype),
        "img_ids": torch.zeros(4096, 3, device=device),
        "txt_ids": torch.zeros(512, 3, device=device),
    }


STABLE_DIFFUSION_2 = "Stable Diffusion 2, 512 px"
SIZES = [  # the fewest FLOP first
    Size("DiT-XL/2, 256 px", _dit, _dit_inputs),
    Size(STABLE_DIFFUSION_2, _stable_diffusion_2, _stable_diffusion_2_inputs),
    Size("SDXL, 1024 px", _sdxl, _sdxl_inputs),
    Size("Flux, 1024 px, 2 of 19 and 4 of 38 layers", lambda: flux(2, 4), _flux_inputs),
]


def size_of(name: str) -> Size:
    return next(size for size in SIZES if size.name == name)


def empty(size: Size) -> torch.nn.Module:
    """The network on the meta device: shapes without numbers, which takes no memory."""
    with torch.device("meta"):
        return size.build().eval()


def parameters(network: torch.nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def random_network(size: Size, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """The network on its device, in eval mode; all numbers are normal, of deviation 0.02, integers are 0."""
    with quiet_libraries():  # diffusers advises another way to cast, for weights that are read
        network = empty(size).to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02, generator=generator)
            else:
                tensor.zero_()
    return network


def random_inputs(size: Size, batch: int, device: torch.device, dtype: torch.dtype) -> dict:
    """Arguments of a call with so many rows: normal numbers, since a GPU computes zeros at a higher clock."""
    inputs = size.inputs(batch, device, dtype)
    generator = torch.Generator(device).manual_seed(0)
    for value in inputs.values():
        tensors = value.values() if isinstance(value, dict) else [value]
        for tensor in tensors:
            if tensor.is_floating_point():
                tensor.normal_(generator=generator)
    return inputs


@torch.inference_mode()
def flop_per_nfe(network: torch.nn.Module, inputs: dict) -> int:
    """Floating-point operations of a call with one row: two for each multiplication of a matrix product.

    Network and inputs are on the meta device, where nothing is computed. There torch (2.14.1) counts attention, whose
    kernel on a CPU it counts as 0: `_scaled_dot_product_flash_attention_for_cpu` is not in its flop_registry.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network(**inputs)
    return counter.get_total_flops()
