"""Train the small models in models/ on real handwriting (see diffusion/data/digits.py), on a CPU.

python studies/train_embedded.py sd      # models/digits-sd: VAE, text encoder, U-Net in Stable Diffusion's layout
python studies/train_embedded.py sd-2    # continues models/digits-sd, with more weight on high noise
python studies/train_embedded.py dit     # models/digits-dit: class-conditional transformer over the VAE of digits-sd
python studies/train_embedded.py dit-2   # continues models/digits-dit, as sd-2 does
python studies/train_embedded.py flow    # models/digits-flow: flow matching in Stable Diffusion 3's layout
python studies/train_embedded.py flow-2  # continues models/digits-flow, at levels that are not shifted
python studies/train_embedded.py lcm     # distils models/digits-sd to a few steps; not shipped
python studies/train_embedded.py clip    # models/digits-clip: image and text towers in open_clip's layout
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "MODEL")
    p.add_argument("model", choices=["sd", "sd-2", "dit", "dit-2", "flow", "flow-2", "lcm", "clip"], help="see above")
    options.add(p, "--steps N", "steps of the optimiser", 5000)
    options.add(p, "--folder FOLDER", "folder to write; default models/digits-MODEL")
    return p


import copy
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffusion.core.losses import variational_bound
from diffusion.core.process import Process
from diffusion.data import digits
from diffusion.data.digits import SEEN, UNSEEN
from diffusion.paths import shipped

MODELS = Path("models")


def model(name: str) -> Path:
    """The folder of an embedded model: in the working folder or, if it is not there, the shipped one."""
    return shipped(MODELS / name)


def seen_colours(digit: int) -> list[int]:
    """The colours that this digit has in the training data, ascending."""
    return sorted(c for c, d in SEEN if d == digit)


def captioned_canvases(
    n: int, rng: np.random.Generator, split: str = "train", alone: float = 0.5
) -> tuple[torch.Tensor, list[str]]:
    """n canvases [n, 3, 32, 32] in -1..1 and their captions.

    The share `alone` of the canvases holds one digit, the others two. A tenth of the captions is empty.
    """
    ink, labels = digits.handwriting(split)
    drawn = rng.integers(len(ink), size=(n, 2))
    d = labels[drawn]
    colour = np.array([rng.choice(seen_colours(digit)) for digit in d.ravel()]).reshape(n, 2)
    vertical = rng.integers(2, size=n)
    half = int(n * alone)
    x = torch.cat([
        digits.one(ink[drawn[:half, 0]], torch.tensor(colour[:half, 0]), rng),
        digits.two(ink[drawn[half:]], torch.tensor(colour[half:]), vertical[half:] == 1, rng),
    ])  # fmt: skip
    captions = []
    for k in range(n):
        first, second = zip(colour[k], d[k], strict=True)
        _, forward, backward = digits.RELATIONS[vertical[k]]
        if rng.random() < 0.1:
            captions.append("")
        elif k < half:
            captions.append(digits.caption_one(d[k, 0], colour[k, 0] if rng.random() < 0.5 else None))
        elif rng.random() < 0.5:
            captions.append(digits.caption_two(first, second, forward))
        else:
            captions.append(digits.caption_two(second, first, backward))
    return x * 2 - 1, captions


def tokenizer(length: int = 24) -> CLIPTokenizer:
    """CLIP's tokenizer class with a byte-pair vocabulary of the captions' words; texts of `length` tokens."""
    pairs = SEEN + UNSEEN
    words = [digits.caption_one(d) for d in range(10)] + [digits.caption_one(d, c) for c, d in pairs]
    for _, forward, backward in digits.RELATIONS:
        words += [digits.caption_two(pairs[0], pairs[1], name) for name in (forward, backward)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Whitespace()])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(words * 8, trainers.BpeTrainer(
        vocab_size=900, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = sorted(alphabet) + [a + "</w>" for a in sorted(alphabet)]
    tokens += [t for t in sorted(bpe.get_vocab(), key=bpe.get_vocab().get) if t not in set(tokens)]
    vocab = {token: k for k, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def text_config(tok: CLIPTokenizer, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tok), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, max_position_embeddings=tok.model_max_length, projection_dim=width,
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id,
    )  # fmt: skip


def train_vae(steps: int, rng: np.random.Generator) -> AutoencoderKL:
    """32x32x3 -> 8x8x4, mean squared error plus a little KL; scaled to unit variance as Stable Diffusion's is."""
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[16, 32, 32], layers_per_block=1, latent_channels=4, norm_num_groups=16, sample_size=32,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    bar = tqdm(range(steps), desc="vae")
    for _ in bar:
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


@torch.no_grad()
def latents(vae: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    """The latents [n, 4, 8, 8] of canvases [n, 3, 32, 32] in -1..1, scaled as the networks expect them."""
    return (vae.encode(x).latent_dist.mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def optimise(networks: torch.nn.ModuleDict, loss_of_step, steps: int, save) -> None:
    """AdamW with a one-cycle learning rate; calls `save` with the averaged weights every 1000 steps and at the end."""
    average = copy.deepcopy(networks).requires_grad_(False)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    smooth = 1.0
    bar = tqdm(range(1, steps + 1), mininterval=5)
    for step in bar:
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


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Save a pipeline without `_name_or_path`, which holds the paths of the machine it was trained on."""
    pipeline.save_pretrained(folder)
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")


def print_sizes(networks: dict[str, torch.nn.Module]) -> None:
    """The number of parameters of each network."""
    for name, network in networks.items():
        print(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters")


def train_sd(steps: int, folder: Path) -> None:
    rng = np.random.default_rng(0)
    tok = tokenizer()
    vae = train_vae(-(-steps * 4 // 25), rng)
    scheduler = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1)
    text_encoder = CLIPTextModel(text_config(tok, width=128, layers=3))
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=[32, 64, 96], layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=128, attention_head_dim=4,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tok, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    middle = torch.distributions.Beta(1.5, 1.5)  # the middle levels are where the words matter
    even = torch.ones(64)
    train_text_to_image(pipeline, lambda: (*captioned_canvases(64, rng), middle.sample([64]), even), steps, folder)


def errors_of_x(abar: torch.Tensor) -> torch.Tensor:
    """The weight (1 - abar) / abar that turns a squared error of eps into one of x; at most 30, at high noise."""
    return ((1 - abar) / abar).clamp(max=30)


def train_sd_2(steps: int, folder: Path) -> None:
    """Continue digits-sd: half of each batch as before, the other half mostly pairs at high noise.

    Only at high noise do the words contain more about places than the canvas does. There errors of eps are scaled to
    errors of x, in which a colour in the wrong place weighs most. Without both, the model does not learn left from
    right.
    """
    rng = np.random.default_rng(1)
    pipeline = StableDiffusionPipeline.from_pretrained(model("digits-sd"), dtype=torch.float32)
    middle = torch.distributions.Beta(1.5, 1.5)

    abar = pipeline.scheduler.alphas_cumprod

    def batch():
        x, captions = captioned_canvases(32, rng)
        pairs, captions_of_pairs = captioned_canvases(32, rng, alone=1 / 8)
        high = 1 - 0.4 * torch.rand(32)
        weight = torch.cat([torch.ones(32), errors_of_x(abar[(1000 * high).long().clamp(max=999)])])
        level = torch.cat([middle.sample([32]), high])
        return torch.cat([x, pairs]), captions + captions_of_pairs, level, weight

    train_text_to_image(pipeline, batch, steps, folder)


def train_text_to_image(pipeline: StableDiffusionPipeline, batch, steps: int, folder: Path) -> None:
    """Train U-Net and text encoder on `batch()` -> canvases, captions, levels in 0..1, weights."""
    vae, tok, scheduler = pipeline.vae.requires_grad_(False), pipeline.tokenizer, pipeline.scheduler
    networks = torch.nn.ModuleDict({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}).train()
    vae16 = copy.deepcopy(vae).half()

    def loss_of_step():
        x, captions, level, weight = batch()
        x = latents(vae, x)
        ids = tok(captions, padding="max_length", return_tensors="pt").input_ids
        eps, t = torch.randn_like(x), (1000 * level).long().clamp(max=999)
        text = networks["text_encoder"](ids)[0]
        prediction = networks["unet"](scheduler.add_noise(x, eps, t), t, text).sample
        return (weight * ((prediction - eps) ** 2).mean((1, 2, 3))).mean()

    def save(average):
        parts = pipeline.components | dict(average) | {"vae": vae16}
        save_pipeline(StableDiffusionPipeline(**parts, requires_safety_checker=False), folder)

    print_sizes({"vae": vae, **networks})
    optimise(networks, loss_of_step, steps, save)


def train_lcm(steps: int, folder: Path) -> None:
    """Distil digits-sd: the student predicts the same x along a whole path of the teacher's ODE, so one step is enough.

    Consistency distillation (arXiv 2303.01469, algorithm 2) of latents (arXiv 2310.04378), by DDIM steps of 20 levels,
    without guidance. The target is the student itself, not an average of it (arXiv 2310.14189, section 3.2).
    """
    rng = np.random.default_rng(2)
    pipeline = StableDiffusionPipeline.from_pretrained(model("digits-sd"), dtype=torch.float32)
    scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    vae, text_encoder = pipeline.vae.requires_grad_(False), pipeline.text_encoder.requires_grad_(False)
    teacher = copy.deepcopy(pipeline.unet).eval().requires_grad_(False)
    student = pipeline.unet.train()
    abar = scheduler.alphas_cumprod[:, None, None, None]

    def x_and_eps(unet, z, t, text):
        eps = unet(z, t, text).sample
        return (z - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt(), eps

    def end_of_path(z, t, text):
        skip, out = (c[:, None, None, None] for c in scheduler.get_scalings_for_boundary_condition_discrete(t))
        return skip * z + out * x_and_eps(student, z, t, text)[0]

    def loss_of_step():
        x, captions = captioned_canvases(32, rng)
        text = text_encoder(pipeline.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids)[0]
        t = torch.randint(1000, [32])
        before = (t - 20).clamp(min=0)
        z = scheduler.add_noise(latents(vae, x), torch.randn(32, 4, 8, 8), t)
        with torch.no_grad():
            x, eps = x_and_eps(teacher, z, t, text)
            target = end_of_path(abar[before].sqrt() * x + (1 - abar[before]).sqrt() * eps, before, text)
        return (((end_of_path(z, t, text) - target) ** 2 + 1e-6).sqrt() - 1e-3).mean()  # pseudo-Huber

    def save(average):
        parts = dict(average) | {"scheduler": scheduler}
        save_pipeline(pipeline.from_pretrained(model("digits-sd"), dtype=torch.float16, **parts), folder)

    optimise(torch.nn.ModuleDict({"unet": student}), loss_of_step, steps, save)


def train_dit(steps: int, folder: Path, *, go_on: bool = False) -> None:
    """DiT's recipe in small: linear betas, learned variance, squared error plus the bound with the mean detached.

    With `go_on`, digits-dit is continued: half of each batch has levels from 300 to 900, and its errors of eps are
    scaled to errors of x.
    """
    rng = np.random.default_rng(int(go_on))
    vae16 = AutoencoderKL.from_pretrained(model("digits-sd"), subfolder="vae", dtype=torch.float16)
    vae = copy.deepcopy(vae16).float().eval().requires_grad_(False)
    scheduler = DDIMScheduler(1000, 0.0001, 0.02, "linear", clip_sample=False)
    process = Process.from_scheduler(scheduler)
    transformer = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=32, num_layers=6, sample_size=8, patch_size=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=10,
    )  # fmt: skip
    if go_on:
        transformer = DiTTransformer2DModel.from_pretrained(model("digits-dit"), subfolder="transformer").float()
    transformer.eval()  # its own label dropout draws once per layer, ours once per image
    abar = scheduler.alphas_cumprod
    ink, labels = digits.handwriting("train")

    def loss_of_step():
        drawn = rng.integers(len(ink), size=128)
        digit = labels[drawn]
        colour = torch.tensor([rng.choice(seen_colours(d)) for d in digit])
        x = latents(vae, digits.one(ink[drawn], colour, rng) * 2 - 1)
        class_id = torch.tensor(np.where(rng.random(128) < 0.1, 10, digit))  # 10: the null class
        eps, t, weight = torch.randn_like(x), torch.randint(1000, [128]), torch.ones(128)
        if go_on:
            t[64:] = torch.randint(300, 900, [64])
            weight[64:] = errors_of_x(abar[t[64:]])
        prediction, variance = transformer(scheduler.add_noise(x, eps, t), t, class_id).sample.chunk(2, 1)
        bound = variational_bound(process, x, eps, t, prediction.detach(), variance)
        return (weight * ((prediction - eps) ** 2).mean((1, 2, 3))).mean() + bound.mean()

    def save(average):
        save_pipeline(DiTPipeline(average["transformer"], vae16, scheduler), folder)

    print_sizes({"transformer": transformer})
    optimise(torch.nn.ModuleDict({"transformer": transformer}), loss_of_step, steps, save)


def train_flow(steps: int, folder: Path, *, go_on: bool = False) -> None:
    """Stable Diffusion 3 in small: two text encoders and no T5, pooled text, a shifted flow-matching schedule.

    Half of the noise levels are logit-normal as there (arXiv 2403.03206, section 3.1), half even, and all are shifted
    as in its table of levels. With `go_on`, digits-flow is continued without the shift: the levels that distinguish
    digits have sigma from 0.3 to 0.7.
    """
    rng = np.random.default_rng(int(go_on))
    vae16 = AutoencoderKL.from_pretrained(model("digits-sd"), subfolder="vae", dtype=torch.float16)
    vae16.register_to_config(shift_factor=0.073)  # a tenth of a standard deviation, as large as SD3's is
    vae = copy.deepcopy(vae16).float().eval().requires_grad_(False)
    scheduler = FlowMatchEulerDiscreteScheduler(1000, shift=3.0)
    tok = tokenizer(16)
    networks = torch.nn.ModuleDict({
        "text_encoder": CLIPTextModelWithProjection(text_config(tok, width=96, layers=3)),
        "text_encoder_2": CLIPTextModelWithProjection(text_config(tok, width=32, layers=2)),
        "transformer": SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=5, attention_head_dim=32,
            num_attention_heads=4, joint_attention_dim=128, caption_projection_dim=128, pooled_projection_dim=128,
            pos_embed_max_size=8,
        ),
    }).train()  # fmt: skip
    if go_on:
        for name, network in networks.items():
            networks[name] = type(network).from_pretrained(model("digits-flow"), subfolder=name).float().train()
    shift = 1.0 if go_on else scheduler.shift
    tokenizers = {"tokenizer": tok, "tokenizer_2": tok, "text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline(scheduler=scheduler, vae=vae, **tokenizers, **networks)

    def loss_of_step():
        x, captions = captioned_canvases(96, rng)
        x = latents(vae, x)
        text, _, pooled, _ = pipeline.encode_prompt(
            captions, None, None, do_classifier_free_guidance=False, max_sequence_length=tok.model_max_length
        )
        even = torch.cat([torch.randn(48).sigmoid(), torch.rand(48)])
        s = shift * even / (1 + (shift - 1) * even)
        eps = torch.randn_like(x)
        z = torch.lerp(x, eps, s[:, None, None, None])
        prediction = networks["transformer"](z, text, pooled, 1000 * s).sample
        return ((prediction - (eps - x)) ** 2).mean()

    def save(average):
        save_pipeline(StableDiffusion3Pipeline(scheduler=scheduler, vae=vae16, **tokenizers, **average), folder)

    print_sizes(dict(networks))
    optimise(networks, loss_of_step, steps, save)


def train_clip(steps: int, folder: Path) -> None:
    """CLIP on the canvases and captions of `train_sd`, with its tokenizer; keeps the average of best held-out loss.

    A caption that occurs several times in a batch is right for each of its canvases: the target is spread over them.
    """
    import open_clip

    rng = np.random.default_rng(0)
    tok = CLIPTokenizer.from_pretrained(model("digits-sd") / "tokenizer")
    config = {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 160, "layers": 7, "head_width": 32},
        "text_cfg": {
            "context_length": tok.model_max_length, "vocab_size": len(tok), "width": 128, "heads": 4, "layers": 3,
            "hf_tokenizer_name": "digits",
        },
    }  # fmt: skip
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    clip = open_clip.CLIP(**copy.deepcopy(config))

    def contrast(network, x: torch.Tensor, captions: list[str]) -> torch.Tensor:
        captioned = [k for k, caption in enumerate(captions) if caption]
        ids = tok([captions[k] for k in captioned], padding="max_length", return_tensors="pt").input_ids
        images, texts, scale = network(x[captioned], ids)
        logits = scale * images @ texts.T
        same = (ids[:, None] == ids).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    held_out = captioned_canvases(1024, np.random.default_rng(1), "test")
    best = float("inf")

    def save(average):
        nonlocal best
        with torch.no_grad():
            loss = contrast(average["clip"].float(), *held_out).item()
        print(f"held-out loss {loss:.4f}", flush=True)
        if loss < best:
            best = loss
            folder.mkdir(parents=True, exist_ok=True)
            tok.save_pretrained(folder)
            text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1)
            (folder / "open_clip_config.json").write_text(text)
            save_file(average["clip"].half().state_dict(), folder / "open_clip_model.safetensors")

    print_sizes({"clip": clip})
    networks = torch.nn.ModuleDict({"clip": clip})
    optimise(networks, lambda: contrast(clip, *captioned_canvases(128, rng)), steps, save)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "steps")
    torch.manual_seed(0)
    train = {
        "sd": train_sd,
        "sd-2": train_sd_2,
        "dit": train_dit,
        "dit-2": partial(train_dit, go_on=True),
        "flow": train_flow,
        "flow-2": partial(train_flow, go_on=True),
        "lcm": train_lcm,
        "clip": train_clip,
    }[args.model]
    train(args.steps, args.folder or MODELS / f"digits-{args.model.removesuffix('-2')}")
    return 0


if __name__ == "__main__":
    options.run(main)
