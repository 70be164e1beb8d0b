"""The oracle: one image, one arm, one level at a time, written over diffusers alone. Slow, plain, independent."""

import math

import numpy as np
import torch
from diffusers import DiTPipeline, StableDiffusionPipeline


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


def class_errors(folder, pixels, classes, levels, noise) -> np.ndarray:
    """As `errors`, for class ids and a DiT with learned variance -> [classes, points, (l2, l1, huber, vb)] float64."""
    pipe = DiTPipeline.from_pretrained(folder, dtype=torch.float32)
    betas = pipe.scheduler.betas.numpy().astype(np.float64)
    abar = np.cumprod(1 - betas)
    out = np.zeros((len(classes), len(levels), 4))
    with torch.no_grad():
        x = pipe.vae.encode(pixels[None]).latent_dist.mode() * pipe.vae.config.scaling_factor
        for a, class_id in enumerate(classes):
            for p, t in enumerate(levels):
                z = float(np.sqrt(abar[t])) * x + float(np.sqrt(1 - abar[t])) * noise[p][None]
                said = pipe.transformer(z, timestep=torch.tensor([t]), class_labels=torch.tensor([class_id])).sample
                said = said[0].numpy().astype(np.float64)
                clean, eps = x[0].numpy().astype(np.float64), noise[p].numpy().astype(np.float64)
                d = said[:4] - eps
                huber = np.where(abs(d) < 1, 0.5 * d**2, abs(d) - 0.5)
                bits = _bits(betas, abar, t, clean, eps, said[:4], said[4:])
                out[a, p] = (d**2).mean(), abs(d).mean(), huber.mean(), bits
    return out


def _bits(betas, abar, t, x, eps, said_eps, said_v) -> float:
    """The bound's term at level t in bits per dimension: arXiv 2006.11239, eqs. 5-8 and 13; 2102.09672, eq. 15."""
    beta, before = betas[t], abar[t - 1] if t else 1.0
    z = np.sqrt(abar[t]) * x + np.sqrt(1 - abar[t]) * eps
    mean = (z - beta / np.sqrt(1 - abar[t]) * said_eps) / np.sqrt(1 - beta)
    least = betas[1] * (1 - abar[0]) / (1 - abar[1]) if t == 0 else beta * (1 - before) / (1 - abar[t])
    part = (said_v + 1) / 2
    sd = np.exp((part * np.log(beta) + (1 - part) * np.log(least)) / 2)
    nats = np.zeros(x.shape)
    if t > 0:
        true_mean = np.sqrt(before) * beta / (1 - abar[t]) * x + np.sqrt(1 - beta) * (1 - before) / (1 - abar[t]) * z
        nats = np.log(sd / np.sqrt(least)) + (least + (true_mean - mean) ** 2) / (2 * sd**2) - 0.5
    else:
        for place in np.ndindex(x.shape):
            low, high = ((x[place] + side - mean[place]) / sd[place] for side in (-1 / 255, 1 / 255))
            low, high = (-np.inf if x[place] < -0.999 else low), (np.inf if x[place] > 0.999 else high)
            if low > 0:  # erfc keeps its digits in the upper tail: count the mass from there
                low, high = -high, -low
            nats[place] = -np.log((math.erfc(-high / np.sqrt(2)) - math.erfc(-low / np.sqrt(2))) / 2)
    return nats.mean() / np.log(2)
