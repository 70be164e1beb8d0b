"""The published way of classifying, from the paper's description: a prompt after the other, batches of noise levels.

Not an oracle but the opponent of scripts/benchmark.py; it is as fast as this plain order of work can be.
"""

import numpy as np
import torch


@torch.inference_mode()
def classify(pipe, pixels, text, noise, to_keep, n_samples, batch_size=32) -> tuple[int, int]:
    """The winning prompt and the NFE, by L2.

    pipe a StableDiffusionPipeline, pixels [3, H, W] in [-1, 1], text [prompts, tokens, width], noise [levels, c, h, w].
    """
    x = pipe.vae.encode(pixels[None]).latent_dist.mode() * pipe.vae.config.scaling_factor
    abar = pipe.scheduler.alphas_cumprod
    T, most = len(abar), max(n_samples)
    grid = list(range(T // most // 2, T, T // most))[:most]
    errors = {prompt: {} for prompt in range(len(text))}
    remaining, nfe = list(errors), 0
    for keep, n in zip(to_keep, n_samples, strict=True):
        wanted = grid[len(grid) // n // 2 :: len(grid) // n][:n]
        for prompt in remaining:
            todo = [t for t in wanted if t not in errors[prompt]]
            for start in range(0, len(todo), batch_size):
                t = torch.tensor(todo[start : start + batch_size])
                eps = noise[[grid.index(level) for level in t.tolist()]]
                z = abar[t].view(-1, 1, 1, 1).sqrt() * x + (1 - abar[t]).view(-1, 1, 1, 1).sqrt() * eps
                said = pipe.unet(z, t, encoder_hidden_states=text[prompt].expand(len(t), -1, -1)).sample
                error = ((said - eps) ** 2).mean((1, 2, 3))
                errors[prompt] |= dict(zip(t.tolist(), error.tolist(), strict=True))
                nfe += len(t)
        remaining = sorted(remaining, key=lambda prompt: np.mean(list(errors[prompt].values())))[:keep]
    return remaining[0], nfe
