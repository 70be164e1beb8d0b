"""Train a class-conditional diffusion model on labelled images, in pixels; eval_prob_dit.py classifies with it.

    python scripts/train_classifier.py PATH/TO/FOLDER --out my-model --image_size 32 --steps 5000
    python eval_prob_dit.py --version my-model --dataset PATH/TO/FOLDER --search race --randomize_noise

Trains a U-Net of diffusers, conditioned on class ids, to predict v at even levels of a cosine schedule. The average of
its weights is saved in float16 as a pipeline's folder; OUT/samples.png shows samples of it. The same command continues
a training that was stopped; a larger --steps continues a finished one.
"""

from diffusion.data import catalogue
from diffusion.evaluate import options
from diffusion.runs import naming


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "DATASET")
    options.add(p, "dataset NAME", f"one of {', '.join(catalogue.DATASETS)}; {options.USERS_DATA}")
    options.add(p, "--out -o FOLDER", "folder to write; default my-DATASET")
    options.add(p, "--split", "which part of the data", "train", choices=catalogue.SPLITS)
    options.add_value_range(p)
    model = p.add_argument_group("model")
    options.add(model, "--image_size N", "side in pixels, a multiple of 2 for each of --channels but the first", 32)
    options.switch(model, "--grey", "one channel, for images without colour; default three")
    options.add(model, "--channels N", "channels of each level of the U-Net", [32, 64, 128], nargs="+")
    options.add(model, "--layers N", "layers of each level of the U-Net", 1)
    options.add(model, "--null SHARE", "share of each batch to train on a null class, for guided sampling", 0.0)
    training = p.add_argument_group("training")
    options.add(training, "--steps N", "steps of the optimiser", 5000)
    options.add(training, "--batch_size -b N", "images in a step", 64)
    options.add(training, "--lr LR", "learning rate at its highest", 1e-3)
    options.add(training, "--save_every N", "steps between checkpoints and samples", 500)
    options.add(training, "--mixed_precision", "of the U-Net in training", "no", choices=["no", "fp16", "bf16"])
    options.add(training, "--seed N", "seed of weights, order and noise", 0)
    return p


import copy
import json
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from torchvision.utils import save_image
from tqdm import tqdm

from diffusion import InputError
from diffusion.data.datasets import Dataset, load_dataset, to_learn
from diffusion.data.images import to_grey
from diffusion.io.wording import count
from diffusion.runs import differences

MAY_CHANGE = {"steps", "save_every", "out"}  # when a training goes on


def check(args) -> None:
    options.at_least_one(args, "image_size", "layers", "steps", "batch_size", "save_every")
    options.not_negative(args, "seed")
    if min(args.channels) < 8 or any(c % 8 for c in args.channels):
        raise InputError(f"--channels {' '.join(map(str, args.channels))}", "wanted multiples of 8, of each level")
    step = 2 ** (len(args.channels) - 1)
    if args.image_size % step:
        wanted = f"wanted a multiple of {step}, for {count(len(args.channels), 'level')}"
        raise InputError(f"--image_size {args.image_size}", wanted)
    if not 0 <= args.null < 1:
        raise InputError(f"--null {args.null:g}", "wanted a share from 0 to less than 1")
    if not args.lr > 0:
        raise InputError(f"--lr {args.lr:g}", "must be greater than 0")


def classes_of(dataset: Dataset) -> list[str]:
    """The names of all classes, by class id. InputError if there are no labels, or fewer than two classes."""
    wanted = "wanted a folder of images for each of two or more classes"
    if not dataset.labelled:
        raise InputError(f"dataset {dataset.name!r}", f"holds images without labels, {wanted}")
    found = set(dataset.labels)
    if len(found) < 2:
        raise InputError(f"dataset {dataset.name!r}", f"holds {len(found)} class, {wanted}")
    return dataset.classes or [str(k) for k in range(max(found) + 1)]


def pixels(dataset: Dataset, size: int, grey: bool) -> TensorDataset:
    """All images, cropped as eval_prob_dit.py will crop them: [n, 1 or 3, size, size] uint8, with their labels [n]."""
    x = []
    for k in tqdm(range(len(dataset)), desc="images", unit="image"):
        image = to_learn(dataset, k, size, "adm")[None]
        if grey:
            image = to_grey(image)
        x.append((image + 1).mul(127.5).round().byte())
    return TensorDataset(torch.cat(x), torch.tensor(dataset.labels))


def build(args, n_classes: int) -> tuple[UNet2DModel, DDPMScheduler]:
    """A U-Net with attention at its lowest level, and its noise schedule."""
    levels = len(args.channels)
    c = 1 if args.grey else 3
    unet = UNet2DModel(
        sample_size=args.image_size, in_channels=c, out_channels=c, block_out_channels=args.channels,
        layers_per_block=args.layers, norm_num_groups=8, resnet_time_scale_shift="scale_shift",
        down_block_types=["DownBlock2D"] * (levels - 1) + ["AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * (levels - 1),
        num_class_embeds=n_classes + (args.null > 0),
    )  # fmt: skip
    return unet, DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")


@torch.no_grad()
def sample(unet: UNet2DModel, scheduler: DDPMScheduler, classes: int, each: int = 8, steps: int = 25) -> torch.Tensor:
    """`each` images of each of the first ten classes, class by class: [n, c, h, w] in 0..1."""
    ddim = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    ddim.set_timesteps(steps)
    class_ids = torch.arange(min(classes, 10), device=unet.device).repeat_interleave(each)
    shape = len(class_ids), unet.config.in_channels, unet.config.sample_size, unet.config.sample_size
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(unet.device)
    for t in ddim.timesteps:
        prediction = unet(z, t, class_ids).sample
        z = ddim.step(prediction, t, z).prev_sample
    return (z / 2 + 0.5).clamp(0, 1)


def save(out: Path, unet: UNet2DModel, ema: EMAModel, scheduler: DDPMScheduler, classes: list[str]) -> None:
    """Write the averaged weights as a pipeline's folder, with samples drawn from them."""
    average = copy.deepcopy(unet).eval()
    ema.copy_to(average.parameters())
    save_image(sample(average, scheduler, len(classes)), out / "samples.png", nrow=8)
    pipeline = DDPMPipeline(average.half(), scheduler)
    pipeline.register_to_config(id2label=dict(enumerate(classes)))  # as DiT's pipeline names its classes
    pipeline.save_pretrained(out)


def last_checkpoint(folder: Path, chosen: dict) -> Path | None:
    """The last checkpoint of the training in a folder, None if there is none; writes the options there.

    InputError if the folder holds a training with other options.
    """
    note = folder / "options.json"
    if note.exists():
        there = {"options": json.loads(note.read_text())}
        training = {"options": chosen}
        if differences.changed(there, training):
            differs = "; ".join(differences.options_in_words(there, training, {}, {}))
            raise InputError(f"--out {folder.parent}", f"holds another training ({differs}); use another folder")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(chosen, indent=1) + "\n")
    return max(folder.glob("step-*"), default=None)


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Save the state of a training as the only checkpoint in its folder; it is complete or not there."""
    unfinished = folder / "unfinished"
    new = folder / f"step-{step:07d}"
    accelerator.save_state(unfinished)
    unfinished.rename(new)
    for old in folder.glob("step-*"):
        if old != new:
            shutil.rmtree(old)


def train(args, out: Path, data: TensorDataset, classes: list[str], chosen: dict) -> None:
    """Train to args.steps steps from the last checkpoint, which must be of the same `chosen` options."""
    last = last_checkpoint(out / "training", chosen)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    done = int(last.name.removeprefix("step-")) if last else 0
    set_seed(args.seed + done)  # a training that goes on does not repeat its first draws

    unet, scheduler = build(args, len(classes))
    size = f"{count(len(data), 'image')}, {count(len(classes), 'class')}"
    print(f"{unet.num_parameters():,} parameters, {size}")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr)
    rate = get_scheduler(
        "cosine", optimizer, num_warmup_steps=min(200, args.steps // 10), num_training_steps=args.steps
    )
    if done < args.steps:
        order = RandomSampler(data, num_samples=(args.steps - done) * args.batch_size)
        loader = DataLoader(data, args.batch_size, sampler=order)
        unet, optimizer, rate, loader = accelerator.prepare(unet, optimizer, rate, loader)
    ema = EMAModel(accelerator.unwrap_model(unet).parameters(), 0.9999, use_ema_warmup=True, power=0.75)
    accelerator.register_for_checkpointing(ema)
    if last:
        accelerator.load_state(last)
    if done >= args.steps:
        print(f"{out}: already trained for {count(done, 'step')}; a larger --steps continues")
        return

    bar = tqdm(loader, "training", initial=done, total=args.steps, unit="step", mininterval=2)
    smooth = None
    for step, (x, label) in enumerate(bar, done + 1):
        x = x / 127.5 - 1
        eps = torch.randn_like(x)
        t = torch.randint(1000, [len(x)], device=x.device)
        if args.null:
            label = label.where(torch.rand(len(x), device=x.device) >= args.null, len(classes))
        prediction = unet(scheduler.add_noise(x, eps, t), t, label).sample
        loss = F.mse_loss(prediction.float(), scheduler.get_velocity(x, eps, t))

        accelerator.backward(loss)
        accelerator.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(accelerator.unwrap_model(unet).parameters())

        smooth = loss.item() if smooth is None else smooth + 0.01 * (loss.item() - smooth)
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if step % args.save_every == 0 or step == args.steps:
            save_checkpoint(accelerator, out / "training", step)
            save(out, accelerator.unwrap_model(unet), ema, scheduler, classes)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    check(args)
    dataset = load_dataset(args.dataset, args.split, catalogue.DATASET_ROOT, value_range=args.value_range)
    classes = classes_of(dataset)
    out = args.out or Path(f"my-{naming.tag(dataset.name)}")
    chosen = vars(args) | {"dataset": dataset.name, "data": dataset.fingerprint, "classes": classes}
    for key in MAY_CHANGE:
        del chosen[key]
    if args.value_range is None:
        del chosen["value_range"]
    train(args, out, pixels(dataset, args.image_size, args.grey), classes, chosen)
    print(f"{out}: the trained model, and samples.png to look at")
    return 0


if __name__ == "__main__":
    options.run(main)
