"""A run of run_winoground.py read back: its items, their scores, the table."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.io import wording
from diffusion.matching.items import Item, Items, Shown
from diffusion.runs import pack, records, show, summary
from diffusion.runs.results import Run
from diffusion.stats import metrics
from diffusion.stats.intervals import Measure


@dataclass(frozen=True)
class Done:
    """An item that was measured completely: each of its images under each of its captions."""

    index: int
    item: Item
    text: float  # margin of the text score (see metrics.text_margin); nan if the item has none
    means: np.ndarray  # [captions + 1, images] mean errors over points; the last row is of the empty caption, or nan
    nfe: int

    def scores(self, normalized: bool) -> np.ndarray:
        """Negative mean errors, [captions, images]; normalized: relative to that of the empty caption."""
        k = len(self.item.captions)
        return self.means[k] - self.means[:k] if normalized else -self.means[:k]

    def image(self, normalized: bool) -> float:
        """Margin of the image score; nan if the item has none."""
        return metrics.image_margin(-self.scores(normalized), self.item.table)

    def margin(self, normalized: bool, raced: bool = False) -> float:
        """The smallest margin of the item's scores; in a race, the margin of its text score."""
        margins = np.array([self.text] if raced else [self.text, self.image(normalized)])
        return float(np.nanmin(margins, initial=np.inf))


# ---- items in run.json, and in records ----


def details(items: Items, chosen: list[int]) -> dict:
    """The part of run.json on a benchmark and on its items that are chosen."""
    examples = {}
    others = {}
    most_captions = 0
    for k, item in enumerate(items.items):
        examples[k] = {"id": item.id, "captions": item.captions, "tag": item.tag}
        others[k] = {"images": item.shown, "right": sorted(item.right), "tags": item.tags, "groups": item.groups}
        most_captions = max(most_captions, len(item.captions))

    n_images = 0
    lacking = {}
    for k in chosen:
        n_images += len(items[k].images)
        if k in items.lacking:
            lacking[k] = items.lacking[k]
    return {
        "images": n_images,
        "arms": [(f"caption {c}", f"caption {c}", c) for c in range(most_captions)],
        "examples": examples,
        "items": others,
        "chosen": len(chosen),
        "lacking": lacking,
    }


def items_of_run(run: Run) -> dict[int, Item]:
    """The items of a run's benchmark by index. InputError if it is no run of items, or run.json is damaged."""
    if "examples" not in run.description:
        raise InputError(run.folder, "is no run of run_winoground.py")
    where = str(run.folder / "run.json")
    missing = sorted({"items", "chosen", "lacking"} - run.description.keys())
    if missing:
        raise InputError(where, f"no {' and no '.join(missing)} there")
    items = {}
    for k, example in run.description["examples"].items():
        try:
            items[int(k)] = _item_of(example, run.description["items"][k])
        except (KeyError, ValueError, TypeError):
            wanted = "wanted its id, tag and captions, its images and what is right"
            raise InputError(where, f"example {k} is {example!r:.60}, {wanted}") from None
    if sorted(items) != list(range(len(items))):
        raise InputError(where, f"has {wording.count(len(items), 'example')}, wanted each from 0 on")
    return dict(sorted(items.items()))


def _item_of(example: dict, other: dict) -> Item:
    """An item from its entries in run.json. KeyError, ValueError or TypeError if they do not make one."""
    if not isinstance(example["tag"], str) or not isinstance(example["id"], str):
        raise TypeError
    images = []
    for file, box in other["images"]:
        images.append(Shown(file, box and tuple(box)))
    right = set()
    for caption, image in other["right"]:
        right.add((caption, image))
    captions, tags, groups = tuple(example["captions"]), tuple(other["tags"]), dict(other["groups"])
    return Item(example["id"], tuple(images), captions, frozenset(right), tags, groups)


def first_images(items: list[Item]) -> np.ndarray:
    """The number of each item's first image, then the number of images; they are counted item by item. [items + 1]"""
    counts = [len(item.images) for item in items]
    return np.cumsum([0, *counts])


def read_done(run: Run) -> tuple[list[Done], list[str]]:
    """The complete items of a run, and problems with others."""
    items = items_of_run(run)
    first = first_images(list(items.values()))
    found: dict[int, dict[int, tuple[list, int]]] = {}  # item -> image of it -> errors of its captions, NFE
    problems = []
    for number, path in run.done.items():
        k = int(np.searchsorted(first, number, "right")) - 1
        if k not in items:
            raise InputError(f"{run.folder / 'run.json'}", f"example {k} is None, wanted its id, tag and captions")
        try:
            record = records.load_record(path, run.wanted)
            errors = metrics.arm_errors(record, run.loss)
            n_captions = len(items[k].captions)
            if len(errors) not in (n_captions, n_captions + 1):
                raise InputError(path, f"{wording.count(len(errors), 'caption')}, example {k} has {n_captions}")
        except FileNotFoundError:
            problems.append(f"{path}: is gone")
            continue
        except pack.Damaged:
            raise
        except InputError as error:
            problems.append(str(error))
            continue
        found.setdefault(k, {})[number - first[k]] = (errors, int(record["nfe"]))

    done = []
    for k in sorted(found):
        if len(found[k]) == len(items[k].images):
            done.append(_done(k, items[k], found[k]))
    return done, problems


def _done(index: int, item: Item, measured: dict[int, tuple[list, int]]) -> Done:
    """An item from image of it -> errors of its captions, each [its points], and the NFE of the image."""
    n_captions = len(item.captions)
    means = np.full((n_captions + 1, len(item.images)), np.nan)
    margins = []
    total = 0
    for i, right in enumerate(item.table.T):
        errors, nfe = measured[i]
        for c, of_caption in enumerate(errors):
            means[c, i] = of_caption.mean()
        margins.append(metrics.text_margin(errors[:n_captions], right))
        total += nfe
    return Done(index, item, float(np.fmin.reduce(margins)), means, total)  # nan only if all margins are


def raced(run: Run) -> bool:
    """Whether it is a race: then only captions of one image were measured at the same points."""
    return run.options.get("search") == "race"


def normalized(done: list[Done]) -> bool:
    """Whether the empty caption was measured everywhere."""
    return bool(done) and not any(np.isnan(d.means).any() for d in done)


# ---- the table ----


@dataclass(frozen=True)
class Column:
    """A score of items, or of groups of them."""

    hits: np.ndarray  # [n] bool
    tags: list[frozenset[str]]  # [n]
    cluster: np.ndarray  # [n] the same for those that share an image or a group, see metrics.clusters

    def cell(self, tag: str | None, rows: int) -> str:
        """The share that is right with its interval, for all or a tag; their number, if it is not that of the line."""
        chosen = np.array([tag is None or tag in tags for tags in self.tags], dtype=bool)
        if not chosen.any() and rows:
            return "-"
        p, (low, high) = metrics.share_of_clusters(self.hits[chosen], self.cluster[chosen])
        share = f"{100 * p:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
        n = chosen.sum()
        return share if n == rows else f"{share} of {n}"


def keys_of(done: list[Done]) -> list:
    """The images and groups of some items, which others may share."""
    keys: list = []
    for d in done:
        keys += [shown.file for shown in d.item.images]
        keys += d.item.groups.items()
    return keys


def column(hits: np.ndarray, groups: list[list[Done]]) -> Column:
    """The score of groups of items, hits [groups]; a group has the tags that its items share."""
    tags = []
    keys = []
    for group in groups:
        tags.append(frozenset.intersection(*(frozenset(d.item.tags) for d in group)))
        keys.append(keys_of(group))
    return Column(hits, tags, metrics.clusters(keys))


def columns(done: list[Done], items: dict[int, Item], *, race: bool, normal: bool) -> dict[str, Column]:
    """Scores by name: text, image, group; then the kinds of groups that items have.

    A group is right if all scores of its items are; it counts once all its items are done. A race has no scores of
    images, since two images may have been measured at different points.
    """
    text = np.array([d.text for d in done])
    image = np.array([d.image(normal) for d in done])
    margins = {"text": text}
    if not race:
        margins |= {"image": image, "group": np.minimum(text, image)}  # nan unless the item has both
    found = {}
    for name, margin in margins.items():
        asked = np.flatnonzero(~np.isnan(margin))
        if len(asked) or (not done and name == "text"):
            found[name] = column(margin[asked] > 0, [[done[k]] for k in asked])

    kinds: dict[str, None] = {}
    for item in items.values():
        kinds |= dict.fromkeys(item.groups)
    for kind in kinds:
        groups = _complete_groups(kind, items, done)
        if max(map(len, groups), default=0) > 1:
            worst = []
            for group in groups:
                worst.append(min(d.margin(normal, race) for d in group))
            found[kind] = column(np.array(worst) > 0, groups)
    return found


def _complete_groups(kind: str, items: dict[int, Item], done: list[Done]) -> list[list[Done]]:
    """The groups of one kind all of whose items are done."""
    sizes = Counter(item.groups.get(kind) for item in items.values())
    members: dict[str, list[Done]] = {}
    for d in done:
        if kind in d.item.groups:
            members.setdefault(d.item.groups[kind], []).append(d)
    return [group for name, group in members.items() if len(group) == sizes[name]]


def print_scores(run: Run) -> int:
    """Print the scores that the items have, over all items and by tag. The exit code.

    A race has none of images. If the empty caption was measured, scores are also printed with its error subtracted.
    """
    items = items_of_run(run)
    done, problems = read_done(run)
    race = raced(run)
    _print_counts(run, items, done)

    _print_table("score", done, columns(done, items, race=race, normal=False))
    if not race and normalized(done):
        _print_table("score, normalized", done, columns(done, items, race=race, normal=True))
    for k, why in run.description["lacking"].items():
        problems.append(f"example {k}: {why}")
    return show.report(problems)


def _print_counts(run: Run, items: dict[int, Item], done: list[Done]) -> None:
    """Print how many examples are done, their NFE unless all are plain pairs on a grid, and clusters if there are."""
    lacking = len(run.description["lacking"])
    chosen = max(run.description["chosen"], len(done))
    more = f" in the file, {lacking} lack an image" if lacking else ""
    print(f"{'examples':<16}{len(done)} of {chosen}{more}")

    is_plain = all(len(item.images) == len(item.captions) == 2 for item in items.values())
    if done and (raced(run) or not is_plain):
        nfe = [d.nfe for d in done]
        print(f"{'NFE per example':<16}{np.mean(nfe):,.1f}  (in all {sum(nfe):,})")
    clusters = len(np.unique(metrics.clusters([keys_of([d]) for d in done])))
    if clusters < len(done):
        print(f"{'clusters':<16}{clusters}, of examples that share an image or a group; the intervals allow for that")


def _print_table(title: str, done: list[Done], scores: dict[str, Column]) -> None:
    """Print a line for all items and one for each tag: how many items, and a cell for each score."""
    counts: dict[str, int] = {}
    for d in done:
        for tag in dict.fromkeys(d.item.tags):
            counts[tag] = counts.get(tag, 0) + 1

    rows = [[title, "n", *scores]]
    for tag, n in [(None, len(done)), *counts.items()]:
        cells = [score.cell(tag, n) for score in scores.values()]
        rows.append(["all" if tag is None else tag, str(n), *cells])

    longest = np.char.str_len(rows).max(0)
    widths = [max(20, longest[0] + 1), 6, *np.maximum(24, longest[2:] + 2)]
    print()
    for name, *cells in rows:
        line = name.ljust(widths[0])
        for cell, width in zip(cells, widths[1:], strict=True):
            line += cell.rjust(width)
        print(line)


def measures(run: Run) -> list[Measure]:
    """The scores of a run over all its items, as figures."""
    done, _ = read_done(run)
    found = []
    for name, score in columns(done, items_of_run(run), race=raced(run), normal=False).items():
        share = metrics.share_of_clusters(score.hits, score.cluster)
        found.append(Measure(f"{name}_score", f"{name} score", *share, len(score.hits), "Wilson, by cluster"))
    return found


def write_results(run: Run) -> Path | None:
    """Write results.json into the run's folder once all chosen items are done; None if it is not written."""
    done, _ = read_done(run)
    if len(done) < run.description["chosen"]:
        summary.remove_results(run.folder)
        return None
    return summary.write_figures(run, measures(run), np.array([d.nfe for d in done]))
