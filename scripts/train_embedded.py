"""Train the small models in models/ on real handwriting (see diffusion/digits.py), on a CPU.

python scripts/train_embedded.py sd      # models/digits-sd: VAE, text encoder, U-Net in Stable Diffusion's layout
python scripts/train_embedded.py dit     # models/digits-dit: class-conditional transformer over the VAE of digits-sd
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusion import digits
from diffusion.digits import SEEN, UNSEEN
from diffusion.errors import variational_bound
from diffusion.process import Process

MODELS = Path(__file__).parent.parent / "models"
RELATIONS = [  # vertical, how the first digit (left or top) stands to the second, and the second to the first
    (False, "to the left of", "to the right of"),
    (True, "above", "below"),
]


def captioned_canvases(n: int, rng: np.random.Generator) -> tuple[torch.Tensor, list[str]]:
    """n training canvases [n, 3, 32, 32] in -1..1 with captions: half one digit, half two, a tenth without words."""
    ink, labels = digits.handwriting("train")
    seen = np.array([[(c, d) in SEEN for c in range(len(digits.COLOURS))] for d in range(10)])
    drawn = rng.integers(len(ink), size=(n, 2))
    d = labels[drawn]
    colour = np.array([[rng.choice(np.flatnonzero(seen[digit])) for digit in pair] for pair in d])
    vertical = rng.integers(2, size=n)
    half = n // 2
    x = torch.cat([
        digits.one(ink[drawn[:half, 0]], torch.tensor(colour[:half, 0]), rng),
        digits.two(ink[drawn[half:]], torch.tensor(colour[half:]), vertical[half:] == 1, rng),
    ])  # fmt: skip
    captions = []
    for k in range(n):
        first, second = zip(colour[k], d[k], strict=True)
        _, forward, backward = RELATIONS[vertical[k]]
        if rng.random() < 0.1:
            captions.append("")
        elif k < half:
            captions.append(digits.caption_one(d[k, 0], colour[k, 0] if rng.random() < 0.5 else None))
        elif rng.random() < 0.5:
            captions.append(digits.caption_two(first, second, forward))
        else:
            captions.append(digits.caption_two(second, first, backward))
    return x * 2 - 1, captions


def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer class with a byte-pair vocabulary of the captions' words."""
    pairs = SEEN + UNSEEN
    words = [digits.caption_one(d) for d in range(10)] + [digits.caption_one(d, c) for c, d in pairs]
    words += [digits.caption_two(pairs[0], pairs[1], name) for relation in RELATIONS for name in relation[1:]]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Whitespace()])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(words * 8, trainers.BpeTrainer(
        vocab_size=900, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = sorted(alphabet) + [a + "</w>" for a in sorted(alphabet)]
    tokens += [t for t in sorted(bpe.get_vocab(), key=bpe.get_vocab().get) if t not in set(tokens)]
    vocab = {token: k for k, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=24)


def train_vae(steps: int, rng: np.random.Generator) -> AutoencoderKL:
    """32x32x3 -> 8x8x4, mean squared error plus a little KL; scaled to unit variance as Stable Diffusion's is."""
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[16, 32, 32], layers_per_block=1, latent_channels=4, norm_num_groups=16, sample_size=32,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in (bar := tqdm(range(steps), desc="vae")):
        x, _ = captioned_canvases(32, rng)
        posterior = vae.encode(x).latent_dist
        error = F.mse_loss(vae.decode(posterior.sample()).sample, x)
        loss = error + 1e-5 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(mse=f"{error:.4f}")
    with torch.no_grad():
        scale = 1 / vae.encode(captioned_canvases(512, rng)[0]).latent_dist.mean.std().item()
    vae.register_to_config(scaling_factor=scale)
    return vae.eval().requires_grad_(False)


def optimise(networks: torch.nn.ModuleDict, loss_of_step, steps: int, save) -> None:
    """AdamW, one cycle, exponential moving average of the weights; `save(average)` every 1000 steps and at the end."""
    average = copy.deepcopy(networks).requires_grad_(False)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    smooth = 1.0
    for step in (bar := tqdm(range(1, steps + 1), mininterval=5)):
        loss = loss_of_step()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.999, step / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(networks.parameters()), 1 - decay)
        smooth += 0.01 * (loss.item() - smooth)
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if step % 1000 == 0 or step == steps:
            save(copy.deepcopy(average).half())


def train_sd(steps: int, folder: Path) -> None:
    rng = np.random.default_rng(0)
    tok = tokenizer()
    vae = train_vae(-(-steps * 4 // 25), rng)
    scheduler = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1)
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tok), hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=tok.model_max_length, bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id, projection_dim=128,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=[32, 64, 96], layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=128, attention_head_dim=4,
    )  # fmt: skip
    networks = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    vae16 = copy.deepcopy(vae).half()
    middle = torch.distributions.Beta(1.5, 1.5)  # the middle levels are where the words matter

    def loss_of_step():
        x, captions = captioned_canvases(64, rng)
        with torch.no_grad():
            x = vae.encode(x).latent_dist.mean * vae.config.scaling_factor
        ids = tok(captions, padding="max_length", return_tensors="pt").input_ids
        eps, t = torch.randn_like(x), (1000 * middle.sample([len(x)])).long().clamp(max=999)
        return F.mse_loss(unet(scheduler.add_noise(x, eps, t), t, text_encoder(ids)[0]).sample, eps)

    def save(average):
        StableDiffusionPipeline(
            vae=vae16, text_encoder=average["text_encoder"], tokenizer=tok, unet=average["unet"], scheduler=scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).save_pretrained(folder)  # fmt: skip

    print({k: f"{sum(p.numel() for p in n.parameters()):,}" for k, n in [("vae", vae), *networks.items()]})
    optimise(networks, loss_of_step, steps, save)


def train_dit(steps: int, folder: Path) -> None:
    """DiT's own recipe in small: linear betas, learned variance, squared error plus the bound of a frozen mean."""
    rng = np.random.default_rng(0)
    vae16 = AutoencoderKL.from_pretrained(MODELS / "digits-sd", subfolder="vae", dtype=torch.float16)
    vae = copy.deepcopy(vae16).float().eval().requires_grad_(False)
    scheduler = DDIMScheduler(1000, 0.0001, 0.02, "linear", clip_sample=False)
    process = Process.from_scheduler(scheduler)
    transformer = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=32, num_layers=6, sample_size=8, patch_size=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip  # its own label dropout draws once per layer, ours once per image
    ink, labels = digits.handwriting("train")
    colours = [[c for c, d in SEEN if d == digit] for digit in range(10)]

    def loss_of_step():
        drawn = rng.integers(len(ink), size=128)
        digit = labels[drawn]
        x = digits.one(ink[drawn], torch.tensor([rng.choice(colours[d]) for d in digit]), rng) * 2 - 1
        with torch.no_grad():
            x = vae.encode(x).latent_dist.mean * vae.config.scaling_factor
        told = torch.tensor(np.where(rng.random(128) < 0.1, 10, digit))  # 10: not told
        eps, t = torch.randn_like(x), torch.randint(1000, [len(x)])
        prediction, variance = transformer(scheduler.add_noise(x, eps, t), t, told).sample.chunk(2, 1)
        bound = variational_bound(process, x[:, None], eps, t, prediction.detach()[:, None], variance[:, None])
        return F.mse_loss(prediction, eps) + bound.mean()

    def save(average):
        DiTPipeline(average["transformer"], vae16, scheduler, dict(enumerate(digits.WORDS))).save_pretrained(folder)

    print(f"transformer: {sum(p.numel() for p in transformer.parameters()):,}")
    optimise(torch.nn.ModuleDict({"transformer": transformer}), loss_of_step, steps, save)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["sd", "dit"])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    {"sd": train_sd, "dit": train_dit}[args.model](args.steps, args.folder or MODELS / f"digits-{args.model}")
