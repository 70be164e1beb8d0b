"""Peak host memory of a model from loading to its first errors, by this checkout and others, in turn.

    python studies/peak_memory.py [--against FOLDER ...] [--repeats N]

The models are the embedded Stable Diffusion 3 and one of Stable Diffusion 3's proportions, a quarter of its weights,
random, stored in float16 as on the hub; without and with T5. Each measurement is a process of its own, and its peak is
that of `resource.getrusage`. Beside it stands the memory of the process before a model is loaded, that of Python and
the libraries.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).parent.parent
WORK = """
import gc, resource, sys
import numpy as np, torch
import diffusers, transformers
from diffusers import StableDiffusion3Pipeline
from diffusion import load_model, score
from diffusion.models.loading import read_card

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

name, size, t5 = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "t5"
before = peak()
model = load_model(read_card(name, size, t5=t5))
prompts = ["a photo of the number three.", "blue"]
score(model, np.zeros((size, size, 3), np.uint8), prompts, n_samples=2, seed=0)
print(before, peak())
"""


def build(folder: Path) -> None:
    """Save a Stable Diffusion 3 of random weights: as deep as the real one, and half as wide."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from diffusers import StableDiffusion3Pipeline as Pipeline
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )

    tokenizer = CLIPTokenizer.from_pretrained(HOME / "models/digits-flow/tokenizer")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids |= {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}

    def clip(width: int, layers: int) -> CLIPTextModelWithProjection:
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
        config = CLIPTextConfig(num_hidden_layers=layers, num_attention_heads=width // 64, **sizes, **ids)
        return CLIPTextModelWithProjection(config).half()

    torch.set_default_dtype(torch.float16)
    words = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\\u2581a", -1.0)], extra_ids=0)
    t5 = T5Config(vocab_size=len(words), d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32,
        feed_forward_proj="gated-gelu")  # fmt: skip
    transformer = SD3Transformer2DModel(
        sample_size=16, num_layers=24, num_attention_heads=12, attention_head_dim=64, joint_attention_dim=2048,
        caption_projection_dim=768, pooled_projection_dim=1024, in_channels=16, out_channels=16, pos_embed_max_size=96,
    )  # fmt: skip
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = AutoencoderKL(block_out_channels=[64, 128, 256, 256], norm_num_groups=16, latent_channels=16,
        layers_per_block=2, shift_factor=0.06, scaling_factor=1.5, **blocks)  # fmt: skip
    pipeline = Pipeline(transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), vae, clip(384, 12), tokenizer,
        clip(640, 32), tokenizer, T5EncoderModel(t5), words)  # fmt: skip
    pipeline.to(torch.float16).save_pretrained(folder)


def measure(checkout: Path, *words: str) -> tuple[float, float]:
    """MB before a model is loaded, and at the peak."""
    env = os.environ | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", WORK, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=checkout, check=True)
    before, peak = done.stdout.split()
    return float(before), float(peak)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="FOLDER", nargs="*", type=Path, default=[], help="other checkouts")
    parser.add_argument("--repeats", metavar="N", type=int, default=3, help="processes for each number (default: 3)")
    args = parser.parse_args(argv)
    checkouts = [HOME, *(folder.resolve() for folder in args.against)]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-W", "ignore", __file__, "build", folder], check=True)
        models = {
            "digits-flow": ("digits-flow", "32", ""),
            "a quarter of Stable Diffusion 3": (folder, "128", ""),
            "the same with T5": (folder, "128", "t5"),
        }
        print("| model | checkout | MB before loading | MB at the peak | ratio to the last |\n|---|---|---:|---:|---:|")
        for title, words in models.items():
            found: dict[Path, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
            for _ in range(args.repeats):
                for checkout in checkouts:
                    found[checkout].append(measure(checkout, *words))
            last = statistics.median(peak for _, peak in found[checkouts[-1]])
            for checkout, pairs in found.items():
                before = statistics.median(before for before, _ in pairs)
                peak = statistics.median(peak for _, peak in pairs)
                print(f"| {title} | {checkout.name} | {before:,.0f} | {peak:,.0f} | {peak / last:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:
        build(Path(sys.argv[2]))
    else:
        main(sys.argv[1:])
