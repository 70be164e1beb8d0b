"""Time what the host does for one image beside the network: classify() on ImageNet's schedule with an instant network.

python scripts/benchmark_host.py             # --profile shows where the time goes

The fake network answers at once with zeros that are already there. Latents of 4x8x8 leave little but bookkeeping;
4x64x64, Stable Diffusion's at 512 px, adds the arithmetic of noising and of the three losses on this machine's CPU.
"""

import argparse
import cProfile
import pstats
import statistics
import time

import numpy as np
import torch

from diffusion import cli
from diffusion.classify import classify
from diffusion.models import Model
from diffusion.process import Process
from diffusion.search import halving, level_sequence

T = 1000
TO_KEEP, N_SAMPLES = [500, 50, 10, 1], [50, 100, 500, 1000]
CASES = [(1000, 8), (1000, 64), (3600, 8)]  # prompts, side of the latent: 124,500 NFE; the last 254,500


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batch_size", "-b", type=int, default=32, help="evaluations in one network call")
    p.add_argument("--repeats", type=int, default=3, help="images; the median is printed")
    p.add_argument("--threads", type=int, default=1, help="of torch")
    p.add_argument(
        "--profile", action="store_true", help="the ten functions that cost most, for one image of each case"
    )
    return p


def fake_model(calls: list[int]) -> Model:
    """A network that costs nothing; it appends to `calls` the evaluations of each call."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64) ** 2  # Stable Diffusion's
    abar = (1 - betas).cumprod(0)
    process = Process(abar.sqrt(), (1 - abar).sqrt(), torch.arange(T), "epsilon")
    zero = torch.zeros(1)

    def denoise(z, i, conditions):
        calls.append(len(z) * len(conditions))
        return zero.expand(len(z), len(conditions), *z.shape[1:])

    return Model(process, lambda images: images, lambda prompts: torch.zeros(len(prompts), 1), denoise)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "batch_size", "repeats", "threads")
    torch.set_num_threads(args.threads)
    levels, ends = level_sequence(N_SAMPLES, T)
    print(f"{'prompts':>7} {'latent':>8} {'NFE':>8} {'calls':>6} {'s/image':>8} {'CPU s':>8} {'us/call':>8}")
    for prompts, side in CASES:
        calls: list[int] = []
        model = fake_model(calls)
        x, noise = torch.zeros(4, side, side), torch.randn(len(levels), 4, side, side)
        conditions, arm_class = model.conditions(range(prompts)), np.arange(prompts)

        def one_image(model=model, x=x, noise=noise, conditions=conditions, arm_class=arm_class):
            search = halving(len(arm_class), ends, TO_KEEP)
            batch = args.batch_size
            return classify(model, x, conditions, arm_class, search, levels, noise, loss="l2", batch_size=batch)

        seconds, cpu_seconds = [], []
        for _ in range(args.repeats):
            calls.clear()
            started, cpu_started = time.perf_counter(), time.process_time()
            nfe = one_image().nfe
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(time.process_time() - cpu_started)
        s, cpu = statistics.median(seconds), statistics.median(cpu_seconds)
        cost = f"{nfe:8} {len(calls):6} {s:8.3f} {cpu:8.3f} {1e6 * s / len(calls):8.1f}"
        print(f"{prompts:7} {f'4x{side}x{side}':>8} {cost}")
        if args.profile:
            with cProfile.Profile() as profile:
                one_image()
            pstats.Stats(profile).sort_stats("tottime").print_stats(10)
    return 0


if __name__ == "__main__":
    cli.run(main)
