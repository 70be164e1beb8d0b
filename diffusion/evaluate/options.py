"""What the command lines share: their options, in groups, and bad input as one line and exit code 2. No torch."""

import argparse
import contextlib
import difflib
import os
import runpy
import shlex
import signal
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from diffusion import InputError, InputWarning, one_line, paths, printable
from diffusion.core import constants
from diffusion.data import catalogue
from diffusion.evaluate import listing, sharding
from diffusion.io.wording import count
from diffusion.models import aliases

USERS_DATA = "or a folder of class folders, a csv of path,label, or hf:NAME"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that ends in the default, where an option has one that it does not explain itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        value = action.default
        if value is None or value is False or value == argparse.SUPPRESS or "default" in action.help:
            return action.help
        values = value if isinstance(value, list) else [value]
        words = [f"{each:g}" if isinstance(each, float) else str(each) for each in values]
        return f"{action.help}; default {' '.join(words).replace('%', '%%')}"


class Parser(argparse.ArgumentParser):
    """Options are written in full; an unknown one is refused with the option that is meant, if one is near."""

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ")
        if words != message:
            unknown = [word.split("=")[0] for word in words.split() if word.startswith("-")]
            message += self._hint(unknown[0]) if unknown else ""
        super().error(paths.called(one_line(message, None)))

    def format_help(self) -> str:
        return paths.called(super().format_help())

    def _hint(self, unknown: str) -> str:
        """Suffix of the error for an unknown option."""
        names = []
        for action in self._actions:
            names += action.option_strings or [action.dest]
        for name, sentence in MEANT.get(SPELT.get(unknown, unknown), {}).items():
            if name in names:
                return f"; {sentence}"
        return _near_option(unknown, [name for name in names if name.startswith("--")])


SPELT = {  # other spellings of the unknown options in MEANT
    **dict.fromkeys(["-o", "--output", "--output_dir", "--output-dir", "--out_dir", "--outdir", "--save_dir"], "--out"),
    **dict.fromkeys(["-m", "--model_id", "--model_name", "--model_path", "--model-name", "--checkpoint"], "--model"),
}
FOLDER = "results go to $LOG_DIR/DATASET; --extra NAME makes it DATASET_NAME"
PRINTED = "the result is printed"
OF_RUN = "the run's folder says which model it was"
MEANT = {  # unknown option -> option or positional that a script has -> the hint there; the first that it has counts
    "--out": {
        "--out": "--out is meant, which names what is written",
        "--picture": f"{FOLDER}; --picture is a file to draw",
        "--gallery": "--gallery is meant, the file to draw",
        "--extra": FOLDER,
        "--confusion": "the table is printed; --confusion is a file to draw",
        "out": "the picture to draw stands after the folder, without a flag",
        "name": "the data set goes to $DATASET_ROOT/NAME",
        "folder": PRINTED,
        "folders": PRINTED,
    },
    "--model": {
        "--model": "--model is meant",
        "--version": "--version is meant: an alias, a hub id, a folder or a file",
        "folder": OF_RUN,
        "folders": OF_RUN,
    },
    "--version": {"--model": "--model is meant", "folder": OF_RUN, "folders": OF_RUN},
    "--picture": {
        "--confusion": "--confusion is a file to draw",
        "--gallery": "--gallery is meant, the file to draw",
        "--splits": "--out is meant, the file to draw",
        "out": "the picture to draw stands after the folder, without a flag",
        "folder": "scripts/plot_errors.py draws a run",
        "folders": "scripts/plot_errors.py draws a run, scripts/compare.py images that two answer differently",
    },
    "--names": {"folders": "scripts/compare.py and report.py take names of runs"},
}


def _near_option(unknown: str, flags: Iterable[str]) -> str:
    """Suffix that names the option that is nearly `unknown`, or that begins with it, if there is one.

    The dashes do not count: they alone make --model and --help 62% alike.
    """
    names = {flag.lstrip("-").replace("-", "_"): flag for flag in flags}
    name = unknown.lstrip("-").replace("-", "_")
    begun = [flag for other, flag in names.items() if len(name) > 2 and other.startswith(name)]
    near = [names[other] for other in difflib.get_close_matches(name, names, 1, cutoff=0.8)]
    found = near or begun
    return f"; did you mean {found[0]}?" if found else ""


def parser(description: str, words: str = "") -> Parser:
    """A parser whose usage is one line: options are explained below it, `words` are what stands after them."""
    usage = f"%(prog)s [options] {words}".rstrip()
    return Parser(description=description, formatter_class=_Help, usage=usage, allow_abbrev=False)


def answered_early(parser):
    """Decorates a script's parser(): run from the shell, it answers before slow imports what it can.

    That is --help, wrong options, and names that stand for no model: the parser's default `reads` maps options to the
    model's name and what it is conditioned on. With --dry_run the script itself looks for the model. These imports end
    at a Ctrl-C with one line, as `run` does later on.
    """
    if parser.__module__ == "__main__":
        _print_anything()
        signal.signal(signal.SIGINT, _interrupted)
        args = parser().parse_args()
        model = args.reads(args) if "reads" in args else None
        if model and not getattr(args, "dry_run", False):
            try:
                aliases.check_name(*model)
            except InputError as error:
                _exit_with(error)
    return parser


class _Printed:
    """A stream to a terminal that class names and file names do not command (see printable)."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def _print_anything() -> None:
    """Let characters that a terminal's encoding lacks be printed as escapes; on stderr Python does so itself."""
    with contextlib.suppress(AttributeError):  # a stream of texts, which has no encoding
        sys.stdout.reconfigure(errors="backslashreplace")


def _exit_with(error: InputError) -> NoReturn:
    _end(paths.called(one_line(error, None)))  # names may hold line breaks


def _end(problem: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {problem}", file=sys.stderr)
    sys.exit(2)


def _interrupted(*_) -> None:
    """End at once: nothing is begun yet, and an exception would come out of the midst of some library."""
    sys.stderr.write(f"\n{Path(sys.argv[0]).name}: ended by Ctrl-C before anything was measured\n")
    sys.stderr.flush()
    os._exit(130)


def command() -> None:
    """What the installed commands do: eval-prob-adaptive runs the script eval_prob_adaptive.py, and so on."""
    runpy.run_module(Path(sys.argv[0]).stem.replace("-", "_"), run_name="__main__")


def run_script() -> None:
    """Run the script that the command line names, with the words after it: a file of one's own may add things before.

    `python mine.py scripts/report.py FOLDER` runs that script of a clone, or the one that pip has installed.
    """
    example = "eval_prob_adaptive.py --dataset NAME, or scripts/report.py FOLDER"
    if len(sys.argv) < 2:
        _end(f"no script: wanted one with its options, such as {example}")
    path = paths.program(sys.argv[1])
    if not path.is_file():
        _end(f"{one_line(sys.argv[1])}: is no script here; wanted {example}")
    sys.argv[:] = [str(path), *sys.argv[2:]]
    runpy.run_path(str(path), run_name="__main__")


def run(main) -> None:
    """Run a script's `main(argv) -> exit code`: InputError is one line and exit code 2, a bug keeps its traceback."""
    program = Path(sys.argv[0]).name
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _print_anything()
    warnings.simplefilter("ignore")  # meant for the programmers of the libraries
    warnings.simplefilter("always", InputWarning)

    def show_warning(message, *_) -> None:
        print(f"{program}: warning: {paths.called(one_line(message, None))}", file=sys.stderr)

    warnings.showwarning = show_warning
    try:
        with contextlib.redirect_stdout(_Printed(sys.stdout)):
            sys.exit(main(sys.argv[1:]))
    except InputError as error:
        _exit_with(error)
    except sharding.Stopped as by:
        saved = "what is measured is saved, the same command goes on from there"
        print(f"{program}: ended by {by}; {saved}", file=sys.stderr)
        sys.exit(sharding.STOPPED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        smaller = "try a smaller --batch_size, --dtype float16 or bfloat16, or --offload; what is measured is saved"
        print(f"{program}: out of memory, {smaller}: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            f"\n{program}: ended by Ctrl-C; what is measured is saved, the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(0)


# ---- options ----

TYPES = {  # what a value is called -> its type; else it is text
    **dict.fromkeys(["N", "K", "W", "NFE", "PIXELS"], int),
    **dict.fromkeys(["Z", "S", "R", "SHARE", "SECONDS", "HOURS", "RATE", "LR"], float),
    **dict.fromkeys(["FOLDER", "CSV", "NPY", "PT", "PNG", "HTML", "FILE"], paths.expanded),
}


def add(group, words: str, text: str, default=None, **more) -> None:
    """An option; words are its names and what its value is called, "--limit N" or "folder FOLDER"; not for choices."""
    *flags, value = words.split()
    if "choices" in more:
        group.add_argument(*flags, value, default=default, help=text, **more)
    else:
        group.add_argument(*flags, metavar=value, type=TYPES.get(value, str), default=default, help=text, **more)


def switch(group, flag: str, text: str, default: bool | None = False) -> None:
    group.add_argument(flag, action="store_true", default=default, help=text)


def add_data(p: Parser, default: str, datasets: str, *, classes: bool = True):
    """Which images; the group, for what else a script asks of them. `classes`: they have labels and splits."""
    g = p.add_argument_group("data")
    add(g, "--dataset NAME", datasets, default)
    add(g, "--subset_path NPY", "use only the images whose indices this npy file lists; default all")
    add_value_range(g)
    if classes:
        add(g, "--split", "which part of the data", "test", choices=catalogue.SPLITS)
        add(g, "--image_column NAME", "column of hf:NAME with the images; default the only one, else image")
        add(g, "--label_column NAME", "column of hf:NAME with the classes; default the only one, else label")
        add(g, "--per_class N", "use only N images of each class, spread over them; more N add images; default all")
    what, over = ("images", "classes") if classes else ("examples", "tags")
    add(g, "--limit N", f"use only N {what} in all, spread over their {over}; more N add {what}; default all")
    return g


def add_value_range(group) -> None:
    span = "values that are black and white, in own images of more than 8 bits; default what the files say"
    group.add_argument("--value_range", metavar=("LOW", "HIGH"), type=float, nargs=2, help=span)


def add_prompts(group, why: str = "", more: str = "") -> None:
    csv = f"csv of prompt,classname[,classidx][,group]{more}; default prompts/DATASET_prompts.csv"
    add(group, "--prompt_path CSV", why + csv)
    templates = "prompts with {} for the name of the class and a(n) for a or an, as in 'a photo of a(n) {}.'"
    sets = "or openai-imagenet, simple-imagenet: those published for CLIP; several make several prompts of each class"
    add(group, "--template TEXT", f"{why}{templates}; {sets}", nargs="+")


def add_interpolation(group, default: str) -> None:
    add(group, "--interpolation", "how an image is resized", default, choices=catalogue.INTERPOLATIONS)


def add_device(group, dtype: str | None = None) -> None:
    usual = "" if dtype else "; default float16 on CUDA, else float32"
    add(group, "--dtype", f"number format of the network{usual}", dtype, choices=constants.DTYPES)
    add(group, "--device NAME", "cuda, cuda:1, mps or cpu; default the best available")


def add_network(group, dtype: str | None = None) -> None:
    add_device(group, dtype)
    add(group, "--batch_size -b N", "network evaluations in one call", 32)
    add(group, "--in_flight N", "measure at most N images at the same time; default as many as fill a batch")
    switch(group, "--offload", "keep the VAE in host memory, except while it encodes, as text encoders always are")
    switch(group, "--compile", "compile the network (CUDA); the first call takes long")


def add_text_model(group) -> None:
    """What else a text-to-image model may be loaded with."""
    add(group, "--img_size PIXELS", "side of the images in pixels; default the model's own")
    alike = "if --version is a single file: alias, hub id or folder with its configuration; default recognised from it"
    add(group, "--config MODEL", alike)
    loras = "LoRAs to add to the weights: hub ids, folders or files, each with an optional weight as in A:0.7"
    add(group, "--lora LORA", loras, nargs="+")
    words = "textual inversion: files or hub ids of tokens that prompts may use"
    add(group, "--embeddings TOKENS", words, nargs="+")
    switch(group, "--t5", "Stable Diffusion 3: load its T5 too (float16: 9.5 GB)", None)


def add_search(p: Parser, default: str, when: str = ""):
    """--search: `default` (`when` says where), or race with its options; the group."""
    g = p.add_argument_group("search")
    how = {"halving": "halving: keep the best classes in stages", "grid": "grid: every caption at every level"}[default]
    add(g, "--search", f"{how}; race: drop a class once it is clearly worse{when}", default, choices=[default, "race"])
    add(g, "--z Z", "race: drop a class once it is behind the leader by Z standard errors", 3.0)
    add(g, "--max_samples N", "race: at most N noise levels; default 500, or all there are")
    most = "race: at most NFE network evaluations per image; then the leader wins, marked undecided; default no limit"
    add(g, "--budget NFE", most)
    middle = f"default {constants.usual_levels('race')} for a race, else 0-1"
    add(g, "--levels A-B", f"only noise levels between these shares of the schedule, 0 clean, 1 noise; {middle}")
    counts = "csv of level,weight: factors of the errors, interpolated linearly between its levels; default 1"
    add(g, "--weights CSV", counts)
    add(g, "--loss", "loss that decides; all are stored", "l2", choices=constants.LOSSES)
    return g


def add_stages(group, to_keep: str = "", n_samples: str = "") -> None:
    add(group, "--to_keep N", f"halving: classes kept after each stage; the last is 1{to_keep}", nargs="+")
    add(group, "--n_samples N", f"halving: noise levels of each stage{n_samples}", nargs="+")


def add_noise(group, seed: str, *, randomize: bool) -> None:
    pairs = "antithetic: two points at neighbouring levels share a sample, one has its negative"
    usual = f"default {constants.usual_noise('race', None)} for a race without --noise_path, else independent"
    add(group, "--noise", f"{pairs}; {usual}", choices=constants.NOISES)
    add(group, "--n_trials N", "noise samples per level", 1)
    if randomize:
        switch(group, "--randomize_noise", "new noise for every level; default the same for all levels")
    add(group, "--noise_path PT", "file of noise for all images, by scripts/save_noise.py or adapt.py; default none")
    add(group, "--seed N", f"seed of the noise, if there is no --noise_path; {seed}", 0)


def add_candidates(group) -> None:
    best = "search only the K classes of each image that --candidates_from ranks highest; default all"
    add(group, "--candidates K", best)
    free = "clip:ViT-L/14, or another CLIP (not counted in NFE); a npy file of scores [images, classes]"
    add(group, "--candidates_from FROM", f"{free}; or the folder of a finished run on the same images")
    add(group, "--pretrained TAG", "weights of the CLIP in --candidates_from: open_clip's tag, a file, or TAG=FILE")


def add_store(p: Parser):
    """Where results go; the group, for what is stored."""
    g = p.add_argument_group("what is stored")
    add(g, "--extra NAME", "store in the folder DATASET_NAME; default DATASET")
    return g


def add_picture(group) -> None:
    add(group, "--picture PNG", "draw the answers, as scripts/plot_errors.py does; at most 50 images")


def add_shards(p: Parser) -> None:
    g = p.add_argument_group("sharding")
    shared = "share the images among the tasks of a Slurm job array; scripts/slurm_array.sh sets this"
    add(g, "--shard", shared, os.environ.get("DIFFUSION_SHARD"), choices=["array"])
    here = "default from --shard or torchrun, else"
    add(g, "--n_workers N", f"share the images among N workers; {here} 1")
    add(g, "--worker_idx W", f"which worker this is, from 0: it takes images W, W + N, ...; {here} 0")
    add(g, "--grace SECONDS", "time to finish images after SIGTERM or SIGUSR1", 20.0)


def add_dry_run(p: Parser) -> None:
    g = p.add_argument_group("before a run")
    switch(g, "--dry_run", "print what the run would measure and cost, and end before weights are read")
    add(g, "--rate RATE", "--dry_run: network evaluations per second of the machine, as a run's bar shows", 100.0)


class _List(argparse.Action):
    """Prints the models and data sets that a script takes by name, and ends it, as --help does."""

    def __init__(self, option_strings, dest, *, conditioned_on: str, datasets: Iterable[str], **more):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **more)
        self.conditioned_on = conditioned_on
        self.datasets = datasets

    def __call__(self, parser, *_) -> NoReturn:
        print(listing.models(self.conditioned_on))
        print()
        print(listing.datasets(self.datasets))
        parser.exit()


def add_list(p: Parser, conditioned_on: str, datasets: Iterable[str]) -> None:
    """--list: the models that are conditioned on "text" or "class", and these data sets."""
    text = "print the models and data sets that have a name here, where each is to be had, and end"
    p.add_argument("--list", action=_List, conditioned_on=conditioned_on, datasets=datasets, help=text)


OF_A_WORKER = ("--shard", "--n_workers", "--worker_idx", "--grace", "--batch_size", "-b", "--in_flight")


def command_line(program: str, argv: list[str]) -> str:
    """A script's command line as one text, for run.json.

    It is the same for all workers of a run: without the options that share the work and fill batches.
    """
    words, skip = [], False
    for word in map(str, argv):
        if skip:
            skip = False
        elif word in OF_A_WORKER:
            skip = True
        elif word.partition("=")[0] not in OF_A_WORKER:
            words.append(word)
    return shlex.join([Path(program).name, *words])


def reader(description: str, folder: str, loss: str | None = "decide by this loss; default the run's") -> Parser:
    """The parser of a script that reads a run."""
    p = parser(description, "FOLDER")
    add(p, "folder FOLDER", folder)
    if loss:
        add(p, "--loss", loss, choices=constants.LOSSES)
    return p


def drawer(description: str, most: int) -> Parser:
    """The parser of a script that draws the images of a run."""
    p = parser(description, "FOLDER OUT.png")
    add(p, "folder FOLDER", "folder of a run")
    add(p, "out PNG", "the picture to draw")
    add(p, "--images N", "draw at most N images, spread evenly over those that are done", most)
    return p


def add_fit(p: Parser, share: float) -> None:
    """Which images of a run are fitted on."""
    add(p, "--fit SHARE", "share of the images to fit on", share)
    add(p, "--seed N", "seed of the split into images to fit on and others", 0)


# ---- checks ----

RACE_ONLY = ["z", "max_samples", "budget"]

MOST = {"n_trials": 10_000}  # draws are listed, at every level, before the first is made


def at_least_one(args, *flags: str) -> None:
    for flag in flags:
        value, most = getattr(args, flag), MOST.get(flag, float("inf"))
        if value is None or 1 <= value <= most:
            continue
        wanted = "must be at least 1"
        if flag in MOST:
            wanted += f" and at most {most}"
        raise InputError(f"--{flag} {value}", wanted)


def not_negative(args, *flags: str) -> None:
    for flag in flags:
        if getattr(args, flag) < 0:
            raise InputError(f"--{flag} {getattr(args, flag)}", "must be at least 0")


def check_fit(args) -> None:
    not_negative(args, "seed")
    if not 0 < args.fit < 1:
        raise InputError(f"--fit {args.fit:g}", "must be between 0 and 1")


def check_held_out(fit, share: float, least: int = 1) -> None:
    """Raises InputError unless so many images are fitted on, and so many are left: fit [n] bool, `share` of --fit."""
    n_fit = int(fit.sum())
    left = len(fit) - n_fit
    if min(n_fit, left) < least:
        raise InputError(f"--fit {share:g}", f"of {count(len(fit), 'image')}, {n_fit} to fit on leave {left}")


def refuse(args, parser: Parser, flags: Iterable[str], why: str) -> None:
    """Raises InputError when one of these options was given."""
    for flag in flags:
        if getattr(args, flag) != parser.get_default(flag):
            raise InputError(f"--{flag}", why)


def check_candidates(args, parser: Parser, dataset) -> None:
    """InputError: options of --candidates without it, or beside a column of the data that names the candidates."""
    if dataset.candidates:
        why = f"the column candidates of {dataset.name} says which classes compete"
        refuse(args, parser, ["candidates", "candidates_from", "pretrained"], why)
    elif args.candidates is None:
        refuse(args, parser, ["candidates_from", "pretrained"], "is for --candidates K")
