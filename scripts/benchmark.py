"""Measure what an evaluation costs beside the network, and what an image costs compared with the published search.

    python scripts/benchmark.py                    # all parts, on the CPU in some 15 minutes; or name some
    python scripts/benchmark.py network size --device cuda --dtype float16 --latent 64    # at 512 px, on a GPU
    python scripts/benchmark.py noise --version 2-0 --dataset pets --images 20    # whether antithetic noise pays

Each part but noise runs the two sides of a ratio in turns in one process and prints the median of the ratios. Parts:

    network    per NFE, ours against the bare network at the same batch; how full the batches are
    size       the same with a U-Net of Stable Diffusion 2's size and random weights; FLOP per NFE, share of the peak
    published  per image, the published schedule in a plain loop against the race, embedded model
    lora       per NFE, ten prompts by a LoRA of rank 4 each, on all attention, against the model alone; full calls
    host       per image, all but the network, 1000 prompts by ImageNet's schedule and by the race
    memory     peak with 1000 prompts and 16 images in flight, against one bare network call
    noise      variance of the difference to the nearest three classes, by how the noise of the points is drawn
"""

from diffusion.core import constants
from diffusion.data import catalogue
from diffusion.evaluate import options

PARTS = ["network", "size", "published", "lora", "host", "memory", "noise"]


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "[PART ...]")
    parts = f"{', '.join(PARTS)}; default all"
    p.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=parts)
    options.add(p, "--repeats N", "measure N ratios, print their median", 5)
    options.add(p, "--images N", "embedded images in each measurement", 16)
    options.add(p, "--latent N", "side of the latent in the part size; 64 is 512 px", 8)
    options.add(p, "--threads N", "threads of torch; default its own choice")
    options.add_network(p)
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


import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from diffusion import InputError
from diffusion.core.batching import Block, together
from diffusion.core.conditions import Conditions
from diffusion.core.constants import MIDDLE
from diffusion.core.image import Measured, Question, search_image
from diffusion.core.noise import ImageNoise
from diffusion.core.process import Process
from diffusion.core.schedule import Points
from diffusion.core.search import band, even, halving, level_sequence, noise_rows, race, spread_sequence
from diffusion.data.datasets import load_dataset, model_arms
from diffusion.data.images import centre_crop, crop
from diffusion.data.prompts import PROMPTS, prompts_file, prompts_for, read_prompts
from diffusion.evaluate import config as run_config
from diffusion.evaluate.points import usable_levels
from diffusion.models.aliases import EMBEDDED
from diffusion.models.loading import Model, checkpoint, load_model, prepare, read_card
from diffusion.settings import use_exact_float32

T = 1000


def seconds(work: Callable, device: torch.device) -> float:
    """Wall-clock time of `work()`, the device's part included."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    started = now()
    work()
    return now() - started


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


def search_all(
    model: Model, images: list[Tensor], conditions: Conditions, levels, start: Callable, args
) -> list[Measured]:
    """A search, `start(classes)`, on each encoded image [c, h, w]; each condition is a class. In their order."""
    points = Points(levels, noise_rows(levels, 1, True), None, np.ones(len(levels)))
    arm_class = np.arange(len(conditions))

    def one_image(k: int, x: Tensor):
        question = Question(x, conditions, arm_class, start, ImageNoise(0, k, tuple(x.shape)))
        return k, (yield from search_image(question, points, loss="l2"))

    tasks = (one_image(k, x) for k, x in enumerate(images))
    done = dict(together(model, tasks, batch_size=args.batch_size, in_flight=args.in_flight))
    return [done[k] for k in range(len(images))]


def race_all(model: Model, images: list[Tensor], conditions: Conditions, args) -> list[Measured]:
    usable = band(*MIDDLE, T)
    levels = usable[spread_sequence(500, len(usable))]
    arms = np.ones(len(conditions), dtype=int)
    return search_all(model, images, conditions, levels, lambda _: race(levels, arms, 3.0), args)


def embedded(device: torch.device):
    """The embedded model, its ten prompts as conditions, the labels, and what opens an image."""
    card, dataset = read_card("digits"), load_dataset("digits")
    model = load_model(card, dtype=torch.float32, device=device)
    conditions = model.conditions(read_prompts(PROMPTS / prompts_file("digits")).texts)
    return model, conditions, dataset.labels, lambda k: centre_crop(dataset.open(k), card.image_size, "bicubic")


def lora(args, device: torch.device) -> None:
    model, _, labels, open_image = embedded(device)
    texts = read_prompts(PROMPTS / prompts_file("digits")).texts
    images = [model.encode(open_image(k)[None])[0] for k in even(args.images, len(labels))]
    unet = checkpoint.read([EMBEDDED / "digits-sd/unet/diffusion_pytorch_model.safetensors"])
    layers = [key for key, value in unet.items() if ".attn" in key and value.ndim == 2]
    rng = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{k}.safetensors" for k in range(len(texts))]
        for file in files:
            lora = {}
            for key in layers:
                out, into = unet[key].shape
                for half, shape in ("lora_A", (4, into)), ("lora_B", (out, 4)):
                    lora[f"unet.{key}".replace("weight", f"{half}.weight")] = torch.randn(shape, generator=rng) / 8
            save_file(lora, file)
        adapted = load_model(replace(read_card("digits"), own_lora=tuple(files)), device=device)
    loras, levels = [(file,) for file in files], even(8, T)
    took = {}
    for _ in tqdm(range(args.repeats), leave=False):
        for each, own in (model, None), (adapted, loras):
            told = each.conditions(texts, own)
            work = partial(search_all, each, images, told, levels, lambda _: halving(10, [8], [1]), args)
            took.setdefault(own is None, []).append(seconds(work, device))
    ratio = statistics.median(ours / alone for ours, alone in zip(took[False], took[True], strict=True))
    print(f"lora: ten prompts by a LoRA each, batch {args.batch_size}: {ratio:.2f} of the model's time per NFE without")


def network(args, device: torch.device) -> None:
    model, conditions, labels, open_image = embedded(device)
    images = [model.encode(open_image(k)[None])[0] for k in range(0, len(labels), 8)]
    bare(model, images[0].shape, conditions, [args.batch_size] * 3)  # warm
    ratios, fills, speeds = [], [], []
    for _ in tqdm(range(args.repeats), leave=False):
        watched, calls = counted(model)
        done: list[Measured] = []
        ours = seconds(lambda m=watched, d=done: d.extend(race_all(m, images, conditions, args)), device)
        alone = seconds(lambda c=calls: bare(model, images[0].shape, conditions, c), device)
        nfe = sum(measured.nfe for measured in done)
        ratios.append((ours / nfe) / (alone / sum(calls)))
        fills.append(nfe / (args.batch_size * len(calls)))
        speeds.append(nfe / ours)
    ratio, fill, speed = (statistics.median(x) for x in (ratios, fills, speeds))
    print(
        f"network: race over {len(images)} embedded images, batch {args.batch_size}: {ratio:.3f} of the bare network's"
        f" time per NFE, batches {fill:.1%} full, {speed:,.0f} NFE/s"
    )


def fake_model(denoise: Callable, device: torch.device) -> Model:
    """Stable Diffusion's schedule around any network; nothing to encode."""
    from diffusers import DDPMScheduler

    process = Process.from_scheduler(DDPMScheduler(T, 0.00085, 0.012, "scaled_linear"))
    return Model(process, device, 0, lambda images: images, lambda prompts: prompts, denoise)


def large_model(args, device: torch.device) -> tuple[Model, torch.nn.Module]:
    """A U-Net of Stable Diffusion 2's size, weights random."""
    from diffusers import UNet2DConditionModel
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it advises another way to cast
    dtype = getattr(torch, args.dtype)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
        )
    prepare(unet.to(dtype), compiled=args.compile)

    def denoise(z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        return unet(z.to(dtype), time.to(device), encoder_hidden_states=conditions["text"]).sample

    return fake_model(denoise, device), unet


def size(args, device: torch.device) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, unet = large_model(args, device)
    dtype, latent = unet.dtype, (4, args.latent, args.latent)
    conditions = Conditions({"text": torch.randn(10, 77, 1024, dtype=dtype, device=device)})
    with FlopCounterMode(display=False) as counter:
        bare(model, latent, conditions, [1])
    flop = counter.get_total_flops()
    square = torch.randn(4096, 4096, dtype=dtype, device=device)
    peak = 2 * 4096**3 / min(seconds(lambda: square @ square, device) for _ in range(3))
    images = [torch.randn(latent, device=device) for _ in range(2)]
    levels = spread_sequence(args.batch_size // 10 or 1, T)  # about two full calls
    bare(model, latent, conditions, [args.batch_size] * 2)  # warm, and compiled
    start = lambda _: halving(10, [len(levels)], [1])  # noqa: E731
    ratios, speeds = [], []
    for _ in tqdm(range(args.repeats), leave=False):
        watched, calls = counted(model)
        ours = seconds(lambda m=watched: search_all(m, images, conditions, levels, start, args), device)
        alone = seconds(lambda c=calls: bare(model, latent, conditions, c), device)
        ratios.append(ours / alone)
        speeds.append(sum(calls) / ours)
    ratio, speed = statistics.median(ratios), statistics.median(speeds)
    weights = sum(p.numel() for p in unet.parameters()) / 1e6
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
                said = pipe.unet(z, t, encoder_hidden_states=text[prompt].expand(len(t), -1, -1)).sample
                error = ((said - eps) ** 2).mean((1, 2, 3))
                errors[prompt] |= dict(zip(t.tolist(), error.tolist(), strict=True))
                nfe += len(t)
        remaining = sorted(remaining, key=lambda prompt: np.mean(list(errors[prompt].values())))[:keep]
    return remaining[0], nfe


def published(args, device: torch.device) -> None:
    from diffusers import StableDiffusionPipeline

    model, conditions, labels, open_image = embedded(device)
    pipe = StableDiffusionPipeline.from_pretrained(read_card("digits").source, dtype=torch.float32)
    ratios, times, answers, nfe = [], [], [], []
    for turn in tqdm(range(args.repeats), leave=False):
        chosen = [(turn * args.images + k) * 7 % len(labels) for k in range(args.images)]
        theirs: list[int] = []
        ours: list[Measured] = []

        def one_by_one(chosen=chosen, theirs=theirs):
            for n, k in enumerate(chosen):
                noise = ImageNoise(0, n, (4, 8, 8))[range(500)]
                theirs.append(plain_loop(pipe, open_image(k), conditions, noise, [5, 1], [50, 500])[0])

        def race_them(chosen=chosen, ours=ours):
            images = [model.encode(open_image(k)[None])[0] for k in chosen]
            ours += race_all(model, images, conditions, args)

        slow, fast = seconds(one_by_one, device), seconds(race_them, device)
        ratios.append(slow / fast)
        times.append((slow / len(chosen), fast / len(chosen)))
        answers += [(a, b.winner, labels[k]) for a, b, k in zip(theirs, ours, chosen, strict=True)]
        nfe += [measured.nfe for measured in ours]
    slow, fast = np.median(times, 0)
    a, b, truth = np.array(answers).T
    print(
        f"published: {slow:.2f} s per image in the plain loop (2750 NFE), {fast:.3f} s by the race ({np.mean(nfe):,.0f}"
        f" NFE): {statistics.median(ratios):.1f} times; {len(truth)} images, accuracy {np.mean(a == truth):.1%} and"
        f" {np.mean(b == truth):.1%}, the same answer for {np.mean(a == b):.1%}"
    )


def host(args, device: torch.device) -> None:
    """A network that answers at once; what it is told is the error of its answer."""
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
                work = partial(search_all, model, [x], conditions, levels, start, args)
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
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB

    import diffusers.models.unets.unet_2d_condition  # noqa: F401  what it takes is no part of the peak

    before = peak()
    model, unet = large_model(args, device)
    latent = (4, args.latent, args.latent)
    n = 1000 if whole else args.batch_size
    conditions = Conditions({"text": torch.randn(n, 77, 1024, dtype=unet.dtype, device=device)})
    if whole:  # 16 images in flight: each wants two points of one class, so that a full call takes all of them

        def start(_):
            yield np.array([999]), 2
            return np.array([999])

        args.in_flight = 16
        search_all(model, [torch.randn(latent, device=device) for _ in range(32)], conditions, [1, 500], start, args)
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
    card = read_card(args.version, told=args.condition)
    args.levels = run_config.parse_levels(args.levels)
    usable = usable_levels(args.levels, card.levels)
    dataset = load_dataset(args.dataset, args.split, catalogue.DATASET_ROOT)
    if args.condition == "class":
        arms = model_arms(args.dataset, dataset, card.source, card.classes, catalogue.DATASET_ROOT, card.called)
        told, interpolation = list(arms), "adm"
    else:
        told, interpolation = prompts_for(args.dataset, dataset.labels, dataset.classes, None).texts, "bicubic"
    if len(told) < 2:
        raise InputError(f"--dataset {args.dataset}", f"{len(told)} class, wanted two or more")
    model = load_model(card, dtype=getattr(torch, args.dtype), device=device)
    conditions = model.conditions(told)
    P = args.points

    def one_image(index: int):
        x = model.encode(crop(dataset.open(index), card.image_size, interpolation)[None])[0]
        own, rng = ImageNoise(0, index, card.latent), np.random.default_rng(index)

        def errors(arms: np.ndarray, drawn: Drawn, first: int):
            levels, rows, signs = map(torch.from_numpy, drawn)
            found = yield Block(x, conditions, arms, levels, rows + first, own, signs=signs)
            return found[..., 0].double().mean(1).numpy()  # [arms], the mean over points

        looked = yield from errors(np.arange(len(told)), ways_to_draw(usable, P, 0.5)["independent"], 0)
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
    variances = list(tqdm(done, total=len(chosen), leave=False))
    total = {way: sum(each[way] for each in variances) for way in variances[0]}
    print(
        f"noise: {args.dataset}, {args.split} split, by {args.version}: {len(chosen)} images, {P} points at"
        f" {args.levels}, each drawn {args.draws} times; variance of the mean difference to the nearest three classes,"
        " over that of independent noise"
    )
    for way, variance in total.items():
        print(f"{way:<28} {variance / total['independent']:.2f}")


RUN = {
    "noise": noise,
    "network": network,
    "size": size,
    "published": published,
    "lora": lora,
    "host": host,
    "memory": memory,
}


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "repeats", "images", "latent", "batch_size", "threads", "in_flight")
    if args.points < 2 or args.points % 2:
        raise InputError(f"--points {args.points}", "wanted an even number, at least 2")
    if args.draws < 2:
        raise InputError(f"--draws {args.draws}", "must be at least 2")
    use_exact_float32()
    device = run_config.pick_device(args.device)
    args.dtype = run_config.pick_dtype(args.dtype, device)
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in args.parts or PARTS:
        RUN[name](args, device)
    return 0


if __name__ == "__main__":
    options.run(main)
