"""The overhead of a run on a large cluster, outside the network: 50,000 images, 1000 classes, 512 workers, this disk.

    python studies/simulate_cluster.py --nfe_from data/digits/vdigits_1trials_race_3z_500samples

Writes a run of synthetic records of the size that --nfe evaluations give, times workers and readers on it, and removes
it. How evenly the work is spread is simulated from the NFE of the images of a real run.
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    options.add(p, "--images N", "images in the run", 50_000)
    options.add(p, "--classes N", "classes to choose from", 1000)
    options.add(p, "--workers N", "workers, each with a GPU", 512)
    options.add(p, "--nfe N", "evaluations per image, at least two per class", 4000)
    options.add(p, "--nfe_from FOLDER", "folder of a run; the NFE of simulated images are drawn from its images")
    return p


import heapq
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from diffusion import InputError, paths
from diffusion.evaluate import loop
from diffusion.runs import records, results


def synthetic(index: int, classes: int, nfe: int) -> dict:
    """A record with the size and keys of a real one."""
    counts = torch.full((classes,), nfe // classes)
    return {
        "index": index, "label": index % classes, "pred": index % classes if index % 3 else 0, "nfe": int(counts.sum()),
        "decided": True, "margin": 0.01, "losses": ["l2", "l1", "huber"], "levels": torch.arange(nfe // classes),
        "noise": torch.arange(nfe // classes), "counts": counts, "errors": torch.rand(int(counts.sum()), 3),
    }  # fmt: skip


def seconds(do) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def imbalance(nfe: np.ndarray, images: int, workers: int, gpus: int, rng: np.random.Generator) -> float:
    """NFE of the GPU that ends last, divided by the mean over GPUs; the images' NFE are drawn from `nfe` [n].

    Worker w has images[w::workers]; a GPU that is free takes the next worker of the array.
    """
    spent = np.zeros(-(-images // workers) * workers)
    spent[:images] = rng.choice(nfe, images)
    free_at = [0.0] * gpus
    for each in spent.reshape(-1, workers).sum(0):
        heapq.heappush(free_at, heapq.heappop(free_at) + each)
    return max(free_at) / (spent.sum() / gpus)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "images", "classes", "workers")
    if args.nfe < 2 * args.classes:
        raise InputError(f"--nfe {args.nfe}", f"must be at least two of each class, {2 * args.classes}")
    measured = None
    if args.nfe_from:
        folder = records.find_run(args.nfe_from)
        rows, _ = results.read_rows(records.chosen(folder, records.read_run(folder)).values(), of_run=True)
        measured = np.array([row["nfe"] for row in rows])
        if not rows:
            raise InputError(f"--nfe_from {args.nfe_from}", "no records there")

    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        table = [(f"a photo of a class {k}.", f"class {k}", k) for k in range(args.classes)]
        chosen, about = {"loss": "l2"}, {"images": args.images, "arms": table}
        records.open_run(folder, chosen, about)
        wanted = records.expected(records.read_run(folder))

        def write_all():
            for k in range(args.images):
                path = records.record_path(folder, args.images, k)
                records.save_record(path, synthetic(k, args.classes, args.nfe), wanted)

        def join():
            loop.join_run(folder, chosen, about, list(range(0, args.images, args.workers)))

        def call(script, *words):
            subprocess.run([sys.executable, paths.program(script), *words], check=True, stdout=subprocess.DEVNULL)

        writing = seconds(write_all)
        size = sum(entry.stat().st_size for entry in os.scandir(folder))
        rows = [
            ("files", f"{args.images + 1:,}, as many inodes, in one folder"),
            ("bytes", f"{size / 1e9:.2f} GB, {size / args.images / 1e3:.1f} kB a record"),
            ("to write one, synced", f"{writing / args.images * 1e3:.2f} ms"),
            ("to start a script", f"{seconds(lambda: call('eval_prob_adaptive.py', '--help')):.1f} s"),
            ("to list the folder", f"{seconds(lambda: records.finished(folder)):.2f} s"),
            ("a worker's start on the finished run", f"{seconds(join):.2f} s"),
            ("print_acc.py", f"{seconds(lambda: call('scripts/print_acc.py', folder)):.1f} s"),
        ]
    if measured is not None:
        rng = np.random.default_rng(0)
        rows.append(("NFE of one image", f"{measured.mean():.0f}, standard deviation {measured.std():.0f}"))
        for times in (1, 4, 16):
            workers = times * args.workers
            found = np.median([imbalance(measured, args.images, workers, args.workers, rng) for _ in range(20)])
            rows.append((f"last GPU over the mean one, {workers} workers", f"{found:.2f}"))
    for what, value in rows:
        print(f"{what:<44}{value}")
    return 0


if __name__ == "__main__":
    options.run(main)
