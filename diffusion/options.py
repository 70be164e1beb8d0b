"""What the command lines share: their options, in groups, and bad input as one line and exit code 2. No torch."""

import argparse
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from diffusion import InputError, InputWarning, cluster, names, one_line

Parser = argparse.ArgumentParser
OWN = "or a folder of class folders, a csv of path,label, or hf:NAME"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that ends in the default, where an option has one that it does not explain itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        value = action.default
        if value is None or value is False or value == argparse.SUPPRESS or "default" in action.help:
            return action.help
        values = value if isinstance(value, list) else [value]
        words = [f"{each:g}" if isinstance(each, float) else str(each) for each in values]
        return f"{action.help}; default {' '.join(words).replace('%', '%%')}"


def parser(description: str, words: str = "") -> Parser:
    """A parser whose usage is one line: options are explained below it, `words` are what stands after them."""
    return Parser(description=description, formatter_class=_Help, usage=f"%(prog)s [options] {words}".rstrip())


def answer(name: str, parser) -> None:
    """In a script that is run: --help and wrong options are answered here, before what takes seconds is imported."""
    if name == "__main__":
        parser().parse_args()


def run(main) -> None:
    """Run a script's `main(argv) -> exit code`: InputError is one line and exit code 2, a bug keeps its traceback."""
    program = Path(sys.argv[0]).name
    warnings.simplefilter("ignore")  # what the libraries say to their programmers
    warnings.simplefilter("always", InputWarning)
    warnings.showwarning = lambda message, *_: print(f"{program}: warning: {one_line(message, None)}", file=sys.stderr)
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"{program}: {one_line(error, None)}", file=sys.stderr)  # names may hold line breaks
        sys.exit(2)
    except cluster.Stopped as by:
        saved = "what is measured is saved, the same command goes on from there"
        print(f"{program}: ended by {by}; {saved}", file=sys.stderr)
        sys.exit(cluster.STOPPED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        smaller = "try a smaller --batch_size, --dtype float16 or bfloat16, or --offload; what is measured is saved"
        print(f"{program}: out of memory, {smaller}: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(0)


# ---- options ----


def add_data_options(parser: Parser, default: str, known: str, *, classes: bool = True):
    """Which images; the group, for what else a script asks of them. `classes`: they have labels and splits."""
    g = parser.add_argument_group("data")
    g.add_argument("--dataset", default=default, metavar="NAME", help=known)
    if classes:
        g.add_argument("--split", choices=names.SPLITS, default="test", help="which part of it")
    g.add_argument("--subset_path", type=Path, metavar="NPY", help="only the images whose indices this file lists")
    if classes:
        few = "only N images of each class, spread evenly over those it has"
        g.add_argument("--per_class", type=int, metavar="N", help=few)
    spread = "only N images in all, spread evenly over the classes" if classes else "only N examples, spread over tags"
    g.add_argument("--limit", type=int, metavar="N", help=spread)
    return g


def add_prompt_option(group, why: str = "") -> None:
    csv = f"{why}csv of prompt,classname,classidx[,group]; default prompts/DATASET_prompts.csv"
    group.add_argument("--prompt_path", type=Path, metavar="CSV", help=csv)


def add_interpolation(group, default: str) -> None:
    text = "how an image is resized"
    group.add_argument("--interpolation", choices=names.INTERPOLATIONS, default=default, help=text)


def add_device_options(group, dtype: str | None = None) -> None:
    usual = "" if dtype else "; default float16 on CUDA, else float32"
    group.add_argument("--dtype", choices=names.DTYPES, default=dtype, help=f"of the network{usual}")
    group.add_argument("--device", metavar="NAME", help="cuda, cuda:1, mps, cpu; default the best there is")


def add_model_options(group, dtype: str | None = None) -> None:
    add_device_options(group, dtype)
    group.add_argument("--batch_size", "-b", type=int, default=32, metavar="N", help="evaluations in one network call")
    most = "images at work at a time, at most; default as many as fill the batch"
    group.add_argument("--in_flight", type=int, metavar="N", help=most)
    group.add_argument("--offload", action="store_true", help="text encoders and VAE on the device only while at work")
    group.add_argument("--compile", action="store_true", help="compile the network (CUDA); the first call takes long")


def add_text_options(group) -> None:
    """What else a text-to-image model may be loaded with."""
    group.add_argument("--img_size", type=int, metavar="PIXELS", help="of the images; default the model's own")
    kind = "of a single file: hub id or folder of a model of its kind; default a guess"
    group.add_argument("--config", metavar="MODEL", help=kind)
    lora = "a LoRA to add to the weights: hub id, folder or .safetensors file"
    group.add_argument("--lora", metavar="LORA", help=lora)
    t5 = "Stable Diffusion 3: load its T5 too (float16: 9.5 GB)"
    group.add_argument("--t5", action="store_true", default=None, help=t5)


def add_search_options(parser: Parser, default: str):
    """--search: `default`, or race with its options; the group."""
    g = parser.add_argument_group("search")
    g.add_argument("--search", choices=[default, "race"], default=default, help="who is measured next, and how long")
    worse = "race: standard errors that a class must lose by"
    g.add_argument("--z", type=float, default=3.0, metavar="Z", help=worse)
    looks = "race: noise levels, if need be; default 500, or all there are"
    g.add_argument("--max_samples", type=int, metavar="N", help=looks)
    budget = "race: NFE per image, at most; then the leader is taken, undecided"
    g.add_argument("--budget", type=int, metavar="NFE", help=budget)
    middle = f"only noise levels between these shares of the schedule; default {names.usual_levels('race')} for a race"
    g.add_argument("--levels", metavar="A-B", help=f"{middle}, else 0-1, all")
    weights = "csv of level,weight: what errors count there; between its levels, linearly interpolated"
    g.add_argument("--weights", type=Path, metavar="CSV", help=weights)
    g.add_argument("--loss", choices=names.LOSSES, default="l2", help="the one that decides; all are stored")
    return g


def add_noise_options(group, seed: str, randomize: bool) -> None:
    group.add_argument("--n_trials", type=int, default=1, metavar="N", help="noise draws per level")
    if randomize:
        new = "new noise for every level, not one for all"
        group.add_argument("--randomize_noise", action="store_true", help=new)
    bank = "bank of noise [n, c, h, w] for all images; see save_noise.py"
    group.add_argument("--noise_path", type=Path, metavar="PT", help=bank)
    group.add_argument("--seed", type=int, default=0, metavar="N", help=f"of the noise without a bank{seed}")


def add_stage_options(group, to_keep: str = "", n_samples: str = "") -> None:
    kept = f"halving: classes kept by each stage; the last is 1{to_keep}"
    group.add_argument("--to_keep", type=int, nargs="+", metavar="N", help=kept)
    measured = f"halving: noise levels measured by each stage{n_samples}"
    group.add_argument("--n_samples", type=int, nargs="+", metavar="N", help=measured)


def add_candidate_options(group) -> None:
    kept = "search only the K classes of each image that --candidates_from likes best"
    group.add_argument("--candidates", type=int, metavar="K", help=kept)
    free = "clip:ViT-L/14, or another CLIP (its evaluation is no NFE); a npy file of scores [images, classes]"
    run = "the folder of a finished run on the same images"
    group.add_argument("--candidates_from", metavar="FROM", help=f"{free}; or {run}")
    group.add_argument("--pretrained", metavar="TAG", help="of that CLIP: open_clip's tag of the weights, or a file")


def add_store_options(parser: Parser):
    """Where results go; the group, for what is stored."""
    g = parser.add_argument_group("what is stored")
    g.add_argument("--extra", metavar="NAME", help="a suffix for the data set's folder")
    return g


def add_shard_options(parser: Parser) -> None:
    g = parser.add_argument_group("sharding")
    here = "default what Slurm's job array or torchrun says, else"
    split = "split the images over this many workers"
    g.add_argument("--n_workers", type=int, metavar="N", help=f"{split}; {here} 1")
    mine = "which of them this is: it takes images[w::n]"
    g.add_argument("--worker_idx", type=int, metavar="W", help=f"{mine}; {here} 0")
    grace = "to finish images in after SIGTERM or SIGUSR1"
    g.add_argument("--grace", type=float, default=20, metavar="SECONDS", help=grace)


def add_loss_option(parser: Parser, why: str = "decide by this loss; default the run's") -> None:
    """Of a script that reads a run."""
    parser.add_argument("--loss", choices=names.LOSSES, help=why)


def add_drawing_options(parser: Parser, most: int) -> None:
    """Of a script that draws the images of a run."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a run")
    parser.add_argument("out", type=Path, metavar="OUT.png", help="the picture to draw")
    spread = "at most so many, spread evenly over those that are done"
    parser.add_argument("--images", type=int, default=most, metavar="N", help=spread)


def add_picture_option(parser: Parser, what: str, name: str = "--out") -> None:
    parser.add_argument(name, type=Path, metavar="PNG", help=f"draw {what}")


def add_fit_options(parser: Parser, share: float) -> None:
    """Which images of a run are fitted on."""
    parser.add_argument("--fit", type=float, default=share, metavar="SHARE", help="of the images, to fit on")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the split")


# ---- checks ----

MOST = {"n_trials": 10_000}  # draws are listed, at every level, before the first is made


def at_least_one(args, *flags: str) -> None:
    for flag in flags:
        value, most = getattr(args, flag), MOST.get(flag, float("inf"))
        if value is not None and not 1 <= value <= most:
            limit = f" and at most {most}" if flag in MOST else ""
            raise InputError(f"--{flag} {value}: must be at least 1{limit}")


def not_negative(args, *flags: str) -> None:
    for flag in flags:
        if getattr(args, flag) < 0:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be at least 0")


def check_fit(args) -> None:
    not_negative(args, "seed")
    if not 0 < args.fit < 1:
        raise InputError(f"--fit {args.fit:g}: must be between 0 and 1")


def refuse(args, parser: Parser, flags: Iterable[str], why: str) -> None:
    """Raises InputError when one of these options was given."""
    for flag in flags:
        if getattr(args, flag) != parser.get_default(flag):
            raise InputError(f"--{flag}: {why}")
