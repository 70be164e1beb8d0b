"""Measure the overhead outside the network, what an image costs, and what a device computes.

    python scripts/benchmark.py device --out device.json    # a check of this GPU or CPU, in under three minutes
    python scripts/benchmark.py scale --images 1000 --classes 1000    # what reading a run of that size costs
    python scripts/benchmark.py                    # all other parts, on the CPU in some 15 minutes; or name some
    python scripts/benchmark.py network size --device cuda --dtype float16 --latent 64    # at 512 px, on a GPU
    python scripts/benchmark.py noise --version 2-0 --dataset pets --images 20    # whether antithetic noise pays

Each part from network to memory runs the two sides of a ratio in turns in one process and prints the median of the
ratios. Parts:

    network    per NFE, ours against the bare network at the same batch; batch occupancy
    size       the same with a U-Net of Stable Diffusion 2's size and random weights; FLOP per NFE, share of the peak
    published  per image, the published schedule in a plain loop against the race, embedded model
    lora       per NFE, ten prompts by a LoRA of rank 4 each, on all attention, against the model alone; full calls
    host       per image, all but the network, 1000 prompts by ImageNet's schedule and by the race
    memory     peak with 1000 prompts and 16 images in flight, against one bare network call
    noise      variance of the difference to the nearest three classes, by how the noise of the points is drawn

and, only if named:

    device     do number formats decide alike, are bits repeated, how fast are networks of published sizes (random
               weights, no download), which batch is fastest, hours for the data sets of the README; one table, one json
    scale      CPU seconds and memory of each script that reads a run, extrapolated to 50,000 images, and of pandas for
               the table of export.py from one parquet file; seconds per NFE of a search between 20,000 classes
"""

from diffusion.core import constants
from diffusion.data import catalogue
from diffusion.evaluate import options

PARTS = ["network", "size", "published", "lora", "host", "memory", "noise"]
NAMED_ONLY = ["device", "scale"]
READERS = ["print_acc", "print_dit_acc", "print_robustness", "export", "export --scores"]
READERS += ["compare", "report", "calibrate", "ensemble"]


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "[PART ...]")
    parts = f"{', '.join(PARTS)}; default these; or {' or '.join(NAMED_ONLY)}"
    p.add_argument("parts", nargs="*", choices=[[], *PARTS, *NAMED_ONLY], metavar="PART", help=parts)
    options.add(p, "--repeats N", "measure N ratios, print their median", 5)
    options.add(p, "--images N", "images in each measurement; default 16, of scale 1000")
    options.add(p, "--latent N", "side of the latent in the part size; 64 is 512 px", 8)
    options.add(p, "--threads N", "threads of torch; default its own choice")
    options.add_network(p)
    g = p.add_argument_group("the parts device and scale")
    options.add(g, "--out FILE", "device: also write what was measured as json")
    options.add(g, "--within SECONDS", "device: skip what would take longer, in all", 170.0)
    options.add(g, "--classes N", "scale: classes of the run", 1000)
    options.add(g, "--readers", "scale: only these scripts; default all", choices=READERS, nargs="+")
    g = p.add_argument_group("the part noise")
    options.add(g, "--version MODEL", "model, as in the script that evaluates", "digits")
    options.add(g, "--condition", "how the model gets a class", "text", choices=["text", "class"])
    options.add(g, "--dataset NAME", f"one of {', '.join(catalogue.DATASETS)}; {options.USERS_DATA}", "digits")
    options.add(g, "--split", "which part of the data", "train", choices=catalogue.SPLITS)
    options.add(
        g, "--levels A-B", "spread the points between these shares of the schedule", constants.usual_levels("race")
    )
    options.add(g, "--points N", "points of each class, an even number", 8)
    options.add(g, "--draws N", "times that these are drawn anew for an image", 16)
    return p


import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from diffusion import InputError
from diffusion.core.batching import Block, together
from diffusion.core.conditions import Conditions
from diffusion.core.image import Measured
from diffusion.core.noise import ImageNoise
from diffusion.core.process import Process
from diffusion.core.search import even, halving, level_sequence, race, spread_sequence
from diffusion.data.datasets import load_dataset, model_arms
from diffusion.data.images import crop
from diffusion.data.prompts import prompts_for
from diffusion.evaluate import config as run_config
from diffusion.evaluate.points import usable_levels
from diffusion.io.atomic import write_atomic
from diffusion.io.wording import count, with_split
from diffusion.models.aliases import EMBEDDED
from diffusion.models.loading import Model, checkpoint, load_model, prepare, read_card
from diffusion.settings import use_exact_float32
from diffusion.speed import device as device_check
from diffusion.speed import networks, summary, synthetic
from diffusion.speed.device import Clock, seconds
from diffusion.speed.memory import peak_of_process
from diffusion.speed.races import T, embedded, race_all, search_all


def counted(model: Model) -> tuple[Model, list[int]]:
    """The model, and a list that grows by the rows of each of its calls."""
    calls: list[int] = []

    def denoise(z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        calls.append(len(z))
        return model.denoise(z, time, conditions)

    return replace(model, denoise=denoise), calls


@torch.inference_mode()
def bare(model: Model, latent: tuple[int, ...], conditions: Conditions, calls: list[int]) -> None:
    """The network alone, on random input, in calls of so many rows."""
    inputs = {n: torch.randn(n, *latent, device=model.device) for n in set(calls)}
    for n in calls:
        model.denoise(inputs[n], torch.full([n], T // 2), conditions[torch.arange(n) % len(conditions)])


def lora(args, device: torch.device) -> None:
    task = embedded(device)
    images = task.latents(even(args.images, len(task.labels)))
    unet = checkpoint.read([EMBEDDED / "digits-sd/unet/diffusion_pytorch_model.safetensors"])
    layers = [key for key, value in unet.items() if ".attn" in key and value.ndim == 2]

    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{k}.safetensors" for k in range(len(task.texts))]
        for file in files:
            weights = {}
            for key in layers:
                rows, columns = unet[key].shape
                name = f"unet.{key}"
                down = torch.randn(4, columns, generator=generator) / 8
                up = torch.randn(rows, 4, generator=generator) / 8
                weights[name.replace("weight", "lora_A.weight")] = down
                weights[name.replace("weight", "lora_B.weight")] = up
            save_file(weights, file)
        adapted = load_model(replace(read_card("digits"), prompt_loras=tuple(files)), device=device)

    loras = [(file,) for file in files]
    levels = even(8, T)

    def start(among: np.ndarray):
        return halving(10, [8], [1])

    def measure(model: Model, of_prompts: list | None) -> float:
        conditions = model.conditions(task.texts, of_prompts)
        search = partial(search_all, model, images, conditions, levels, start, args.batch_size, args.in_flight)
        return seconds(search, device)

    ratios = []
    for _ in tqdm(range(args.repeats), leave=False):
        alone = measure(task.model, None)
        ratios.append(measure(adapted, loras) / alone)
    ratio = statistics.median(ratios)
    print(f"lora: ten prompts by a LoRA each, batch {args.batch_size}: {ratio:.2f} of the model's time per NFE without")


def network(args, device: torch.device) -> None:
    task = embedded(device)
    images = task.latents(range(0, len(task.labels), 8))
    latent = images[0].shape
    bare(task.model, latent, task.conditions, [args.batch_size] * 3)  # warm

    ratios, occupancies, speeds = [], [], []
    for _ in tqdm(range(args.repeats), leave=False):
        watched, calls = counted(task.model)
        done: list[Measured] = []
        work = partial(race_all, watched, images, task.conditions, args.batch_size, args.in_flight)
        ours = seconds(lambda w=work, d=done: d.extend(w()), device)
        alone = seconds(partial(bare, task.model, latent, task.conditions, calls), device)
        nfe = sum(measured.nfe for measured in done)
        ratios.append((ours / nfe) / (alone / sum(calls)))
        occupancies.append(nfe / (args.batch_size * len(calls)))
        speeds.append(nfe / ours)

    ratio, occupancy, speed = (statistics.median(x) for x in (ratios, occupancies, speeds))
    print(
        f"network: race over {len(images)} embedded images, batch {args.batch_size}: {ratio:.3f} of the bare network's"
        f" time per NFE, batches {occupancy:.1%} full, {speed:,.0f} NFE/s"
    )


def fake_model(denoise: Callable, device: torch.device) -> Model:
    """Stable Diffusion's schedule around any network; nothing to encode."""
    from diffusers import DDPMScheduler

    process = Process.from_scheduler(DDPMScheduler(T, 0.00085, 0.012, "scaled_linear"))
    return Model(process, device, 0, lambda images: images, lambda prompts: prompts, denoise)


def large_model(args, device: torch.device) -> tuple[Model, torch.nn.Module]:
    """A U-Net of Stable Diffusion 2's size, weights random."""
    dtype = getattr(torch, args.dtype)
    unet = networks.random_network(networks.size_of(networks.STABLE_DIFFUSION_2), device, dtype)
    prepare(unet, compiled=args.compile)

    def denoise(z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return unet(z.to(dtype), time.to(device), encoder_hidden_states=conditions["text"]).sample

    return fake_model(denoise, device), unet


def flop_of_unet(latent: tuple[int, int, int]) -> int:
    """Of an evaluation by a U-Net of Stable Diffusion 2's size."""
    shapes = networks.empty(networks.size_of(networks.STABLE_DIFFUSION_2))
    with torch.device("meta"):
        text = torch.zeros(1, 77, 1024)
        inputs = {"sample": torch.zeros(1, *latent), "timestep": torch.zeros(1), "encoder_hidden_states": text}
    return networks.flop_per_nfe(shapes, inputs)


def size(args, device: torch.device) -> None:
    model, unet = large_model(args, device)
    dtype, latent = unet.dtype, (4, args.latent, args.latent)
    flop = flop_of_unet(latent)
    peak = device_check.matrix_rate(device, dtype, 4096)

    conditions = Conditions({"text": torch.randn(10, 77, 1024, dtype=dtype, device=device)})
    images = [torch.randn(latent, device=device) for _ in range(2)]
    levels = spread_sequence(args.batch_size // 10 or 1, T)  # about two full calls
    bare(model, latent, conditions, [args.batch_size] * 2)  # warm, and compiled

    def start(among: np.ndarray):
        return halving(10, [len(levels)], [1])

    ratios, speeds = [], []
    for _ in tqdm(range(args.repeats), leave=False):
        watched, calls = counted(model)
        work = partial(search_all, watched, images, conditions, levels, start, args.batch_size, args.in_flight)
        ours = seconds(work, device)
        alone = seconds(partial(bare, model, latent, conditions, calls), device)
        ratios.append(ours / alone)
        speeds.append(sum(calls) / ours)

    ratio, speed = statistics.median(ratios), statistics.median(speeds)
    weights = networks.parameters(unet) / 1e6
    print(
        f"size: {weights:,.0f} M parameters, {args.dtype}, latent {latent}, batch {args.batch_size}: {ratio:.3f} of"
        f" the bare network's time, {speed:,.1f} NFE/s; {flop / 1e9:,.1f} GFLOP per NFE, {flop * speed / peak:.0%} of a"
        f" matmul's {peak / 1e9:,.0f} GFLOP/s"
    )


@torch.inference_mode()
def plain_loop(pipe, pixels, text, noise, to_keep, n_samples, batch_size=32) -> tuple[int, int]:
    """The published way of classifying, from the paper: a prompt after the other, batches of noise levels.

    Not an oracle but the opponent of the race; it is as fast as this plain order of work can be. The winning prompt and
    the NFE, by L2.

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
                predicted = pipe.unet(z, t, encoder_hidden_states=text[prompt].expand(len(t), -1, -1)).sample
                error = ((predicted - eps) ** 2).mean((1, 2, 3))
                errors[prompt] |= dict(zip(t.tolist(), error.tolist(), strict=True))
                nfe += len(t)
        remaining = sorted(remaining, key=lambda prompt: np.mean(list(errors[prompt].values())))[:keep]
    return remaining[0], nfe


def published(args, device: torch.device) -> None:
    from diffusers import StableDiffusionPipeline

    task = embedded(device)
    pipe = StableDiffusionPipeline.from_pretrained(read_card("digits").source, dtype=torch.float32)

    def one_by_one(chosen: list[int]) -> list[int]:
        winners = []
        for n, k in enumerate(chosen):
            noise = ImageNoise(0, n, (4, 8, 8))[range(500)]
            winner, _ = plain_loop(pipe, task.open_image(k), task.conditions["text"], noise, [5, 1], [50, 500])
            winners.append(winner)
        return winners

    def race_them(chosen: list[int]) -> list[Measured]:
        return race_all(task.model, task.latents(chosen), task.conditions, args.batch_size, args.in_flight)

    ratios, times, answers, nfe = [], [], [], []
    for turn in tqdm(range(args.repeats), leave=False):
        chosen = [(turn * args.images + k) * 7 % len(task.labels) for k in range(args.images)]
        theirs: list[int] = []
        ours: list[Measured] = []
        slow = seconds(lambda c=chosen, t=theirs: t.extend(one_by_one(c)), device)
        fast = seconds(lambda c=chosen, o=ours: o.extend(race_them(c)), device)
        ratios.append(slow / fast)
        times.append((slow / len(chosen), fast / len(chosen)))
        answers += [(a, b.winner, task.labels[k]) for a, b, k in zip(theirs, ours, chosen, strict=True)]
        nfe += [measured.nfe for measured in ours]

    slow, fast = np.median(times, 0)
    a, b, truth = np.array(answers).T
    images = count(len(truth), "image")
    print(
        f"published: {slow:.2f} s per image in the plain loop (2750 NFE), {fast:.3f} s by the race ({np.mean(nfe):,.0f}"
        f" NFE): {statistics.median(ratios):.1f} times; {images}, accuracy {np.mean(a == truth):.1%} and"
        f" {np.mean(b == truth):.1%}, the same answer for {np.mean(a == b):.1%}"
    )


def host(args, device: torch.device) -> None:
    """The network takes no time: its prediction is its condition."""
    cpu = torch.device("cpu")
    model = fake_model(lambda z, time, conditions: conditions["error"][:, :, None, None].expand(z.shape), cpu)
    conditions = Conditions({"error": torch.randn(1000, 4)})
    nested, ends = level_sequence([50, 100, 500, 1000], T)
    spread = spread_sequence(500, T)
    cases = {
        "ImageNet's schedule": (nested, lambda _: halving(1000, ends, [500, 50, 10, 1])),
        "race": (spread, lambda _: race(spread, np.ones(1000, dtype=int), 3.0)),
    }
    for side in (8, 64):
        for name, (levels, start) in cases.items():
            took, x = [], torch.zeros(4, side, side)
            for _ in range(args.repeats):
                done: list[Measured] = []
                work = partial(search_all, model, [x], conditions, levels, start, args.batch_size, args.in_flight)
                took.append(seconds(lambda w=work, d=done: d.extend(w()), cpu))
            s, nfe = statistics.median(took), done[0].nfe
            print(
                f"host: 1000 prompts, latents 4x{side}x{side}, {name}: {s:.2f} s an image of {nfe:,} NFE,"
                f" {1e6 * s / nfe:.0f} us each: {s / (nfe / 100):.2%} of the network's time at 100 NFE/s"
            )


def peak_memory(args, whole: bool, answer) -> None:
    """Puts the peak in bytes, above what Python and the libraries take, into the queue `answer`."""
    use_exact_float32()
    device = run_config.pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)

    def peak() -> int:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return peak_of_process()

    import diffusers.models.unets.unet_2d_condition  # noqa: F401  its memory is no part of the peak

    before = peak()
    model, unet = large_model(args, device)
    latent = (4, args.latent, args.latent)
    n = 1000 if whole else args.batch_size
    conditions = Conditions({"text": torch.randn(n, 77, 1024, dtype=unet.dtype, device=device)})

    def start(among: np.ndarray):
        """Two points of one class, so that a full call takes all 16 images that are in flight."""
        yield np.array([999]), 2
        return np.array([999])

    if whole:
        images = [torch.randn(latent, device=device) for _ in range(32)]
        search_all(model, images, conditions, np.array([1, 500]), start, args.batch_size, in_flight=16)
    else:
        bare(model, latent, conditions, [args.batch_size] * 2)
    answer.put(peak() - before)


def memory(args, device: torch.device) -> None:
    peaks = []
    spawn = multiprocessing.get_context("spawn")
    for whole in (False, True):  # a process each, since a peak does not go down
        answer = spawn.Queue()
        child = spawn.Process(target=peak_memory, args=(args, whole, answer))
        child.start()
        peaks.append(answer.get())
        child.join()
    alone, ours = peaks
    print(
        f"memory: {ours / 1e9:.2f} GB with 1000 prompts and 16 images in flight, {alone / 1e9:.2f} GB for one call of"
        f" the bare network ({args.dtype}, batch {args.batch_size}): {ours / alone:.2f} times"
    )


Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]  # levels, rows, signs of some points, each [P]


def ways_to_draw(usable: np.ndarray, P: int, start: float) -> dict[str, Drawn]:
    """P points spread evenly over the usable levels from `start`, a share of their step, with each kind of noise."""

    def spread(n: int) -> np.ndarray:
        return usable[((np.arange(n) + start) * len(usable) / n).astype(int)]

    place = np.arange(P)
    plain, turns = np.ones(P, dtype=int), 1 - 2 * (place % 2)
    return {
        "independent": (spread(P), place, plain),
        "pair at one level": (np.repeat(spread(P // 2), 2), place // 2, turns),
        "pair at neighbouring levels": (spread(P), place // 2, turns),
        "one draw for all levels": (spread(P), 0 * place, plain),
        "one draw, signs in turn": (spread(P), 0 * place, turns),
    }


def noise(args, device: torch.device) -> None:
    card = read_card(args.version, conditioned_on=args.condition)
    usable = usable_levels(run_config.parse_level_range(args.levels), card.n_levels)
    dataset = load_dataset(args.dataset, args.split, catalogue.DATASET_ROOT)
    if args.condition == "class":
        arms = model_arms(args.dataset, dataset, card.source, card.classes, catalogue.DATASET_ROOT, card.called)
        candidates, interpolation = list(arms), "adm"
    else:
        candidates = prompts_for(args.dataset, dataset.labels, dataset.classes, None).texts
        interpolation = "bicubic"
    if len(candidates) < 2:
        raise InputError(f"--dataset {args.dataset}", f"{len(candidates)} class, wanted two or more")
    model = load_model(card, dtype=getattr(torch, args.dtype), device=device)
    conditions = model.conditions(candidates)
    P = args.points

    def one_image(index: int):
        x = model.encode(crop(dataset.open(index), card.image_size, interpolation)[None])[0]
        image_noise, rng = ImageNoise(0, index, card.latent), np.random.default_rng(index)

        def errors(arms: np.ndarray, drawn: Drawn, first: int):
            levels, rows, signs = map(torch.from_numpy, drawn)
            found = yield Block(x, conditions, arms, levels, rows + first, image_noise, signs=signs)
            return found[..., 0].double().mean(1).numpy()  # [arms], the mean over points

        every_arm = np.arange(len(candidates))
        looked = yield from errors(every_arm, ways_to_draw(usable, P, 0.5)["independent"], 0)
        near = np.argsort(looked, kind="stable")[:4]
        means: dict[str, list] = {}
        for k in range(args.draws):
            for way, drawn in ways_to_draw(usable, P, rng.random()).items():
                of_near = yield from errors(near, drawn, (k + 1) * P)
                means.setdefault(way, []).append(of_near[1:] - of_near[0])
        return {way: np.var(each, 0, ddof=1).mean() for way, each in means.items()}

    chosen = even(min(args.images, len(dataset)), len(dataset)).tolist()
    tasks = (one_image(index) for index in chosen)
    done = together(model, tasks, batch_size=args.batch_size, in_flight=args.in_flight)
    total: dict[str, float] = {}
    data = with_split(args.dataset, args.split if dataset.has_splits else None)
    for variances in tqdm(done, total=len(chosen), leave=False):
        for way, variance in variances.items():
            total[way] = total.get(way, 0) + variance
    print(
        f"noise: {data}, by {args.version}: {count(len(chosen), 'image')}, {count(P, 'point')} at"
        f" {args.levels}, each drawn {args.draws} times; variance of the mean difference to the nearest three classes,"
        " over that of independent noise"
    )
    for way, variance in total.items():
        print(f"{way:<28} {variance / total['independent']:.2f}")


# ---- a device ----


def check_device(args, device: torch.device) -> None:
    clock = Clock(args.within)
    dtype = getattr(torch, args.dtype)
    rate = device_check.matrix_rate(device, dtype)
    results: list = []
    try:
        formats = device_check.formats(device, clock, args.images)
        for result in tqdm(formats, desc="number formats", unit=" results", leave=False):
            results.append(result)

        speeds = device_check.measure_networks(networks.SIZES, device, dtype, rate, clock, args.compile)
        for result in tqdm(speeds, desc="networks", unit=" results", leave=False):
            results.append(result)
    finally:  # also when a kernel fails: what was measured before is printed
        about = summary.describe(device)
        check = summary.summary(about, args.dtype, rate, results, clock.spent())
        if args.out:
            text = json.dumps(check, indent=1) + "\n"
            write_atomic(args.out, lambda file: file.write(text.encode()))
        print("\n".join(summary.lines(check)))


# ---- many images, many classes ----

AT = 50_000  # images that the costs of readers are extrapolated to: ImageNet's
FEW = 20  # images of the small run
MANY = 20_000  # classes


def scale(args, device: torch.device) -> None:
    """Runs of two sizes, so that the cost of each image is separate from that of a start."""
    sizes = FEW, args.images
    with tempfile.TemporaryDirectory() as name:
        small, large = (scale_of(Path(name) / f"{images}", images, args) for images in sizes)

    rows = []
    for reader in small:
        rows.append([reader, *synthetic.figures(sizes, (small[reader], large[reader]), AT)])
    measured, at = f"{args.images:,} images", f"{AT:,} images"
    header = ["script", f"CPU s, {measured}", "per 1,000 more", at, f"peak GB, {measured}", at]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=["left"] + ["right"] * 5))
    print(f"-: grew by less than 10% from {sizes[0]:,} images to {sizes[1]:,}, too little to extrapolate")

    print()
    for each in tqdm(synthetic.search_costs(MANY), total=3, leave=False):
        alone, image = (x / each.nfe for x in (each.search_seconds, each.image_seconds))
        print(
            f"search: {each.search}, {MANY:,} classes, one image of {each.nfe:,} NFE: {1e6 * alone:.2f} us per NFE in"
            f" the search, {1e6 * image:.2f} with its errors gathered: {image * 100:.2%} of the network's time at 100"
            " NFE/s"
        )


def scale_of(folder: Path, images: int, args) -> dict[str, synthetic.Cost]:
    """What each reader costs on a synthetic run, written into the folder; some read two such."""
    runs = folder / "first", folder / "second", folder / "shifted"
    nfe: list[int] = []
    for run, seed, dataset in zip(runs, (0, 1, 0), ("synthetic", "synthetic", "shifted"), strict=True):
        written = synthetic.write_run(run, images, args.classes, seed, dataset)
        nfe += tqdm(written, total=images, desc=f"writing {count(images, 'image')}", leave=False)
    size = sum(path.stat().st_size for path in runs[0].iterdir()) / images
    of = f"{count(images, 'image')} of {count(args.classes, 'class')}"
    print(f"scale: {of}, {np.mean(nfe):,.0f} NFE, {size / 1e3:,.1f} kB a record")

    commands = synthetic.readers(*runs, folder)
    env = {"LOG_DIR": str(folder / "data")}
    costs = {}
    for name in tqdm(args.readers or READERS, leave=False):
        if name == "export":
            costs |= synthetic.table_costs(runs[0], folder, env)
        else:
            costs[name] = synthetic.cost_of(commands[name], env)
    return costs


RUN = {
    "noise": noise,
    "network": network,
    "size": size,
    "published": published,
    "lora": lora,
    "host": host,
    "memory": memory,
    "device": check_device,
    "scale": scale,
}


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "repeats", "images", "latent", "batch_size", "threads", "in_flight", "classes")
    if args.points < 2 or args.points % 2:
        raise InputError(f"--points {args.points}", "wanted an even number, at least 2")
    if args.draws < 2:
        raise InputError(f"--draws {args.draws}", "must be at least 2")
    if not args.within > 0:
        raise InputError(f"--within {args.within:g}", "must be greater than 0")
    if args.out and not args.out.parent.is_dir():
        raise InputError(f"--out {args.out}", "its folder does not exist")
    if "scale" in args.parts and args.images is not None and args.images < 2 * FEW:
        raise InputError(f"--images {args.images}", f"scale compares {FEW} images with these, wanted {2 * FEW} or more")

    use_exact_float32()
    device = run_config.pick_device(args.device)
    args.dtype = run_config.pick_dtype(args.dtype, device)
    if args.compile and device.type != "cuda":
        raise InputError("--compile", f"is for CUDA, the device is {device}")
    if args.threads:
        torch.set_num_threads(args.threads)
    images = args.images
    for name in args.parts or PARTS:
        args.images = images or (1000 if name == "scale" else 16)
        RUN[name](args, device)
    return 0


if __name__ == "__main__":
    options.run(main)
