"""The oracle: one image, one prompt, one level at a time, written over diffusers alone. Slow, plain, independent."""

import numpy as np
import torch
from diffusers import StableDiffusionPipeline


def errors(folder, pixels, prompts, levels, noise) -> np.ndarray:
    """pixels [3, H, W] in [-1, 1]; levels, noise [p, c, h, w] -> [prompts, points, (l2, l1, huber)] float64."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    betas = pipe.scheduler.betas.numpy().astype(np.float64)
    abar = np.cumprod(1 - betas)
    out = np.zeros((len(prompts), len(levels), 3))
    with torch.no_grad():
        x = pipe.vae.encode(pixels[None]).latent_dist.mode() * pipe.vae.config.scaling_factor
        for a, prompt in enumerate(prompts):
            ids = pipe.tokenizer([prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
            text = pipe.text_encoder(ids).last_hidden_state
            for p, t in enumerate(levels):
                signal, spread = float(np.sqrt(abar[t])), float(np.sqrt(1 - abar[t]))
                z = signal * x + spread * noise[p][None]
                said = pipe.unet(z, torch.tensor([int(t)]), encoder_hidden_states=text).sample
                wanted = noise[p][None]
                if pipe.scheduler.config.prediction_type == "v_prediction":
                    wanted = signal * noise[p][None] - spread * x
                d = (said - wanted).numpy().astype(np.float64)
                huber = np.where(abs(d) < 1, 0.5 * d**2, abs(d) - 0.5)
                out[a, p] = (d**2).mean(), abs(d).mean(), huber.mean()
    return out
