"""Zero-shot classification with a text-to-image diffusion model: the prompt that predicts the noise best wins.

    python eval_prob_adaptive.py --dataset cifar10 --split test --n_trials 1 --to_keep 5 1 --n_samples 50 500 \\
        --loss l1 --prompt_path prompts/cifar10_prompts.csv

Results go to $LOG_DIR (default data), one file per image; data is read from $DATASET_ROOT (default /datasets).
"""

from diffusion.data import catalogue
from diffusion.evaluate import options
from diffusion.models import aliases
from diffusion.runs import naming


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    data = options.add_data(p, "pets", f"{', '.join(catalogue.DATASETS)}; {options.USERS_DATA}")
    options.add_prompts(data, more="[,lora][,embedding]")
    options.add(data, "--prompts TEXT", "the prompts to choose from, two or more, for images without labels", nargs="+")
    options.add_interpolation(data, "bicubic")
    model = p.add_argument_group("model")
    models = f"{aliases.VERSIONS['text']}; or a hub id, a diffusers folder or a .safetensors file"
    options.add(model, "--version MODEL", models, "2-0")
    options.add_text_model(model)
    options.add_network(model)
    search = options.add_search(p, "halving", "; default halving with --to_keep and --n_samples, else race")
    options.add(search, "--preset", "the search and loss of the paper for this data set", choices=["paper"])
    options.add_stages(search)
    options.add_noise(search, "each image, by its index, has its own", randomize=False)
    options.add_candidates(search)
    stored = options.add_store(p)
    maps = "store also where in the image the best two classes differ; see scripts/plot_maps.py"
    options.switch(stored, "--save_maps", maps, None)
    options.add_picture(stored)
    options.switch(stored, "--load_stats", "accuracy and NFE in the progress bar include the images of earlier calls")
    options.add_shards(p)
    options.add_dry_run(p)
    options.add_list(p, "text", catalogue.DATASETS)
    p.set_defaults(reads=lambda args: (args.version, "text"))
    return p


from collections.abc import Iterable

import numpy as np

from diffusion import InputError
from diffusion.core.image import Measured, map_between
from diffusion.core.losses import losses_only, with_map
from diffusion.core.schedule import Schedule, halving_schedule
from diffusion.data.prompts import DEFAULT_SOURCE, Prompts, prompts_for, read_level_weights
from diffusion.evaluate import config as run_config
from diffusion.evaluate.candidates import first_stage
from diffusion.evaluate.classifier import Arms, DatasetClassifier, Method, text_card
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.dry_run import describe, describe_unread
from diffusion.evaluate.embeddings import cache_path
from diffusion.evaluate.loop import Cost, Folder, classify_dataset
from diffusion.evaluate.points import (
    check_halving,
    most_competing,
    points_and_noise,
    race_from_options,
    usable_levels,
)
from diffusion.evaluate.presets import with_preset
from diffusion.evaluate.selection import choose_images, dataset_of
from diffusion.io.atomic import sha256
from diffusion.io.wording import ranges
from diffusion.models.lora import check_used, rename_tokens
from diffusion.paths import script
from diffusion.plots import style
from diffusion.runs import records, summary


def schedule_of(
    args, config: RunConfig, arms_per_class: np.ndarray, usable: np.ndarray, groups: np.ndarray | None, K: int | None
) -> Schedule:
    """The search and its levels, some of the usable ones.

    arms_per_class [classes] is how many prompts each class has; groups [classes], if any, race first; K classes compete
    for an image at most, by default all.
    """
    if config.search == "race":
        options.refuse(args, parser(), ["to_keep", "n_samples"], "is for --search halving, not for race")
        return race_from_options(config, usable, arms_per_class, most_competing(arms_per_class, K), groups)

    options.refuse(args, parser(), options.RACE_ONLY, "is for --search race")
    if args.to_keep is None or args.n_samples is None:
        wanted = "wanted, as in --to_keep 5 1 --n_samples 50 500; or --search race"
        raise InputError("--to_keep and --n_samples", wanted)
    check_halving(K or len(arms_per_class), args.n_samples, args.to_keep, len(usable))
    return halving_schedule(
        usable,
        args.n_samples,
        args.to_keep,
        arms_per_class,
        n_trials=config.n_trials,
        pairs=config.antithetic,
        most=K,
    )


def card_to_plan(args, config: RunConfig, loras: Iterable[tuple[str, ...]], tokens: dict[str, str]) -> tuple:
    """The model's card and ""; for --dry_run of a published model that cannot be reached, None and why."""
    try:
        return text_card(config, loras, tokens), ""
    except aliases.NoConfiguration as error:
        if not args.dry_run or config.version not in aliases.ALIASES["text"]:
            raise
        return None, error.reasons[0]


class ZeroShotClassifier(DatasetClassifier):
    """Prompts compete; a record has the class of the winner, and with maps=True where the best two differ."""

    def __init__(self, *args, maps: bool):
        super().__init__(*args)
        self.maps = maps

    def record(self, index: int, measured: Measured) -> dict:
        pred = int(self.arms.class_ids[measured.winner])
        record = measured.record(**self.dataset.record_fields(index), pred=pred)
        if self.maps:
            record |= map_between(measured, self.arms.arm_class, self.method.card.latent[1:])
        return record


def run_name(args, config: RunConfig, schedule: Schedule, first_name: str) -> str:
    """The published name of the run's folder: suffixes appear only for options that are not bicubic, l2, 512.

    `first_name` is that of the first stage, "" if there is none.
    """
    words = args.prompts or args.template
    typed = words and f"prompts-{sha256(repr(words))[:8]}"  # other words are another run
    return naming.joined(
        run_config.model_tag(config),
        typed,
        run_config.search_tag(config, schedule),
        run_config.suffixes(config, schedule, "bicubic", first_name),
        args.save_maps and "maps",
    )


def run_options(args, prompts: Prompts, table: list[tuple]) -> dict:
    """The part of run.json that other scripts do not have."""
    flags = ["config", "lora", "embeddings", "t5", "interpolation", "save_maps"]
    return {flag: getattr(args, flag) for flag in flags} | {
        "prompts": sha256(repr(table)),
        "lora of prompts": prompts.loras,
        "embedding of prompts": prompts.embeddings,
    }


def main(argv: list[str]) -> int:
    args = with_preset(parser().parse_args(argv), parser())
    style.check_picture(args.picture)
    no_schedule = args.search == "halving" and args.to_keep is None and args.n_samples is None
    config = RunConfig.from_args(args, search="race" if no_schedule else args.search)

    dataset = dataset_of(config)
    images, mine = choose_images(config, dataset.labels)
    prompts = prompts_for(
        config.dataset,
        dataset.labels,
        dataset.classes,
        args.prompt_path,
        args.prompts,
        added=True,
        templates=args.template,
    )
    texts, tokens = rename_tokens(prompts.texts, prompts.embeddings)
    card, missing = card_to_plan(args, config, prompts.loras or (), tokens)
    n_levels = card.n_levels if card else aliases.USUAL_LEVELS
    class_ids, first_arm, arm_class = np.unique(prompts.classes, return_index=True, return_inverse=True)
    groups = prompts.groups and np.array(prompts.groups)[first_arm]  # [classes]
    table = list(zip(prompts.texts, prompts.names, prompts.classes, strict=True))
    options.check_candidates(args, parser(), dataset)
    first = first_stage(config, dataset, mine, table, prompts)
    K, first_name, first_options = None, "", {}  # if all classes compete
    if first:
        K, first_name, first_options = first.K, first.name, first.options

    weights = read_level_weights(args.weights, n_levels)
    usable = usable_levels(config.level_range, n_levels)
    usable = usable[weights[usable] > 0]
    schedule = schedule_of(args, config, np.bincount(arm_class), usable, groups, K)
    folder = naming.run_folder(config.dataset, config.extra, run_name(args, config, schedule, first_name))
    exact = schedule.exact and not dataset.candidates  # some images may have more candidates than others
    cost = Cost(schedule.most_nfe, exact)
    if card is None:
        print(prompts)
        print("\n".join(describe_unread(missing, folder, len(texts), cost, len(mine), args.rate)))
        return 0
    points, noise = points_and_noise(config, schedule, weights, card.latent)

    chosen = run_config.data_options(config, dataset)
    chosen |= run_options(args, prompts, table)
    chosen |= run_config.model_options(config, card, schedule, weights, noise, read_weights=not args.dry_run)
    chosen["groups"] = prompts.groups if config.search == "race" else None
    chosen |= first_options
    check_used(card.embeddings, texts)
    details = {
        "images": len(images),
        records.N_LEVELS: card.n_levels,
        "indices": ranges(images),
        "arms": table,
        "prompts": str(prompts),
        "command": options.command_line(__file__, argv),
    }

    if args.dry_run:
        print(prompts)
        planned = Folder(folder, chosen, details)
        print("\n".join(describe(config, card, planned, len(texts), cost, mine, args.rate, dataset)))
        return 0

    method = Method(config, card, schedule, points, noise, with_map if args.save_maps else losses_only)
    embeddings = cache_path(naming.LOG_DIR / "embeddings", chosen, texts, config.device)
    arms = Arms(texts, arm_class, class_ids, prompts.loras, embeddings)
    classifier = ZeroShotClassifier(method, dataset, arms, first, maps=bool(args.save_maps))
    if no_schedule and schedule.search == "race":
        print("No --to_keep/--n_samples: using --search race")
    code = classify_dataset(
        config,
        dataset,
        mine,
        Folder(folder, chosen, details),
        classifier,
        cost,
        count_earlier=args.load_stats,
        picture=args.picture,
    )
    if dataset.path and (folder / summary.FILE).exists():
        other = "; --template makes other prompts" if prompts.source.startswith(DEFAULT_SOURCE) else ""
        print(f"Next: {folder / summary.FILE} has all figures, {script('report')} {folder} makes a page{other}")
    return code


if __name__ == "__main__":
    options.run(main)
