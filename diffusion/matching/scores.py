"""A run of run_winoground.py read back: its items, their scores, the table."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.matching.items import Item, Items, Shown
from diffusion.runs import pack, records, show, summary
from diffusion.runs.results import Run
from diffusion.stats import metrics
from diffusion.stats.intervals import Measure


@dataclass(frozen=True)
class Done:
    """An item all of whose images were measured."""

    index: int
    item: Item
    text: float  # margin of the text score (see metrics.text_margin); nan if the item has none
    means: np.ndarray  # [captions (the empty one last, if it was measured), images] mean errors over the points of each
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
    most = max(len(item.captions) for item in items.items)
    examples = {}
    others = {}
    for k, item in enumerate(items.items):
        examples[k] = {"id": item.id, "captions": item.captions, "tag": item.tags[0] if item.tags else ""}
        images = [[shown.file, shown.box] for shown in item.images]
        others[k] = {"images": images, "right": sorted(item.right), "tags": item.tags, "groups": item.groups}
    return {
        "images": sum(len(items[k].images) for k in chosen),
        "arms": [(f"caption {c}", f"caption {c}", c) for c in range(most)],
        "examples": examples,
        "items": others,
        "chosen": len(chosen),
        "lacking": {k: items.lacking[k] for k in chosen if k in items.lacking},
    }


def items_of_run(run: Run) -> dict[int, Item]:
    """The items of a run's benchmark by index. InputError if it is no run of items, or run.json is damaged."""
    if "examples" not in run.description:
        raise InputError(run.folder, "is no run of run_winoground.py")
    missing = sorted({"items", "chosen", "lacking"} - run.description.keys())
    if missing:
        raise InputError(f"{run.folder / 'run.json'}", f"no {' and no '.join(missing)} there")
    more = run.description["items"]
    items = {}
    for e, example in run.description["examples"].items():
        try:
            if not isinstance(example["tag"], str) or not isinstance(example["id"], str):
                raise TypeError
            images = tuple(Shown(file, box and tuple(box)) for file, box in more[e]["images"])
            right = frozenset((c, i) for c, i in more[e]["right"])
            tags, groups = tuple(more[e]["tags"]), dict(more[e]["groups"])
            items[int(e)] = Item(example["id"], images, tuple(example["captions"]), right, tags, groups)
        except (KeyError, ValueError, TypeError):
            wanted = "wanted its id, tag and captions, its images and what is right"
            raise InputError(f"{run.folder / 'run.json'}", f"example {e} is {example!r:.60}, {wanted}") from None
    if sorted(items) != list(range(len(items))):
        raise InputError(f"{run.folder / 'run.json'}", f"has {len(items)} examples, wanted each from 0 on")
    return dict(sorted(items.items()))


def numbers(items: list[Item]) -> np.ndarray:
    """The number of each item's first image, then the number of images; they are counted item by item. [items + 1]"""
    return np.cumsum([0, *(len(item.images) for item in items)])


def read_done(run: Run) -> tuple[list[Done], list[str]]:
    """The complete items of a run, and problems with others."""
    items = items_of_run(run)
    first = numbers(list(items.values()))
    found: dict[int, dict[int, tuple[list, int]]] = {}  # item -> image of it -> errors of its captions, NFE
    problems = []
    for number, path in run.done.items():
        e = int(np.searchsorted(first, number, "right")) - 1
        if e not in items:
            raise InputError(f"{run.folder / 'run.json'}", f"example {e} is None, wanted its id, tag and captions")
        try:
            record = records.load_record(path, run.wanted)
            errors = metrics.arm_errors(record, run.loss)
            captions = len(items[e].captions)
            if len(errors) not in (captions, captions + 1):
                raise InputError(path, f"{len(errors)} captions, example {e} has {captions}")
        except FileNotFoundError:
            problems.append(f"{path}: is gone")
            continue
        except pack.Damaged:
            raise
        except InputError as error:
            problems.append(str(error))
            continue
        found.setdefault(e, {})[number - first[e]] = (errors, int(record["nfe"]))

    complete = [e for e in sorted(found) if len(found[e]) == len(items[e].images)]
    return [_done(e, items[e], found[e]) for e in complete], problems


def _done(e: int, item: Item, measured: dict[int, tuple[list, int]]) -> Done:
    """Item e, of whose images the errors of each caption and the NFE are `measured`."""
    of_images = [measured[i][0] for i in range(len(measured))]
    margins = []
    for errors, right in zip(of_images, item.table.T, strict=True):
        margin = metrics.text_margin(errors[: len(right)], right)
        if not np.isnan(margin):
            margins.append(margin)

    means = np.full((max(map(len, of_images)), len(of_images)), np.nan)
    for i, errors in enumerate(of_images):
        means[: len(errors), i] = [arm.mean() for arm in errors]
    return Done(e, item, min(margins, default=np.nan), means, sum(nfe for _, nfe in measured.values()))


def raced(run: Run) -> bool:
    """Whether it is a race: then only captions of one image were measured at the same points."""
    return run.options.get("search") == "race"


def normalized(done: list[Done]) -> bool:
    """Whether the empty caption was measured everywhere."""
    return bool(done) and all(len(d.means) > len(d.item.captions) and not np.isnan(d.means).any() for d in done)


# ---- the table ----


@dataclass(frozen=True)
class Column:
    """A score of items, or of groups of them."""

    hits: np.ndarray  # [n] bool
    tags: list[frozenset[str]]  # [n]
    keys: list[list]  # [n] what others may share: images and groups

    def cell(self, tag: str | None, rows: int) -> str:
        """The share that is right with its interval, for all or a tag; their number, if it is not that of the line."""
        chosen = np.array([tag is None or tag in tags for tags in self.tags], dtype=bool)
        if not chosen.any() and rows:
            return "-"
        cluster = metrics.clusters(self.keys)[chosen]
        p, (low, high) = metrics.share_of_clusters(self.hits[chosen], cluster)
        of = f" of {chosen.sum()}" if chosen.sum() != rows else ""
        return f"{100 * p:.1f}% ({100 * low:.1f} to {100 * high:.1f}){of}"


def keys_of(d: Done) -> list:
    """The images and groups of an item, which others may share."""
    return [*(shown.file for shown in d.item.images), *d.item.groups.items()]


def columns(done: list[Done], items: dict[int, Item], *, race: bool, normal: bool) -> dict[str, Column]:
    """Scores by name: text, image, group; then the kinds of groups that items have.

    A group is right if all scores of its items are; it counts once all its items are done. A race has no scores of
    images, since two images may have been measured at different points.
    """
    margins = {"text": np.array([d.text for d in done])}
    if not race:
        margins["image"] = np.array([d.image(normal) for d in done])
        margins["group"] = np.minimum(*margins.values())  # nan unless the item has both
    found = {}
    keys = [keys_of(d) for d in done]
    tags = [frozenset(d.item.tags) for d in done]
    for name, margin in margins.items():
        asked = np.flatnonzero(~np.isnan(margin))
        if len(asked) or (not done and name == "text"):
            found[name] = Column(margin[asked] > 0, [tags[k] for k in asked], [keys[k] for k in asked])

    right = np.array([d.margin(normal, race) > 0 for d in done], dtype=bool)
    for kind in dict.fromkeys(kind for item in items.values() for kind in item.groups):
        whole = _whole_groups(kind, items, done)
        if any(len(each) > 1 for each in whole):
            tags_of_all = []
            keys_of_any = []
            for each in whole:
                tags_of_all.append(frozenset.intersection(*(tags[k] for k in each)))
                keys_of_any.append(list(itertools.chain.from_iterable(keys[k] for k in each)))
            found[kind] = Column(metrics.all_right(right, whole), tags_of_all, keys_of_any)
    return found


def _whole_groups(kind: str, items: dict[int, Item], done: list[Done]) -> list[list[int]]:
    """The groups of one kind all of whose items are done: places of the items in `done`."""
    members: dict[str, list[int]] = {}
    for e, item in items.items():
        if kind in item.groups:
            members.setdefault(item.groups[kind], []).append(e)
    place = {d.index: k for k, d in enumerate(done)}
    whole = []
    for each in members.values():
        if all(e in place for e in each):
            whole.append([place[e] for e in each])
    return whole


def print_scores(run: Run) -> int:
    """Print the scores that the items have, over all items and by tag. The exit code.

    A race has none of images. If the empty caption was measured, scores are also printed with its error subtracted.
    """
    items = items_of_run(run)
    done, problems = read_done(run)
    lacking = run.description["lacking"]
    race = raced(run)
    _print_counts(run, items, done)

    tables = {"score": columns(done, items, race=race, normal=False)}
    if not race and normalized(done):
        tables["score, normalized"] = columns(done, items, race=race, normal=True)
    tags = dict.fromkeys(tag for d in done for tag in d.item.tags)
    rows = {"all": None} | {tag: tag for tag in tags}
    for title, scores in tables.items():
        _print_table(title, rows, done, scores)
    problems += [f"example {e}: {why}" for e, why in lacking.items()]
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
    clusters = len(np.unique(metrics.clusters([keys_of(d) for d in done])))
    if clusters < len(done):
        print(f"{'clusters':<16}{clusters}, of examples that share an image or a group; the intervals allow for that")


def _print_table(title: str, rows: dict[str, str | None], done: list[Done], scores: dict[str, Column]) -> None:
    """Print a line for each row: its name, the number of items with its tag (None: all), a cell for each score."""
    counts = {}
    cells = {}
    for name, tag in rows.items():
        counts[name] = len(done) if tag is None else sum(tag in d.item.tags for d in done)
        cells[name] = [column.cell(tag, counts[name]) for column in scores.values()]
    width = max([24, *(len(cell) + 2 for row in cells.values() for cell in row)])
    first = max([20, *(len(name) + 1 for name in rows)])
    print(f"\n{title:<{first}}{'n':>6}" + "".join(f"{name:>{width}}" for name in scores))
    for name, row in cells.items():
        print(f"{name:<{first}}{counts[name]:>6}" + "".join(f"{cell:>{width}}" for cell in row))


def measures(run: Run) -> list[Measure]:
    """The scores of a run over all its items, as figures."""
    done, _ = read_done(run)
    found = []
    for name, column in columns(done, items_of_run(run), race=raced(run), normal=False).items():
        share = metrics.share_of_clusters(column.hits, metrics.clusters(column.keys))
        found.append(Measure(f"{name}_score", f"{name} score", *share, len(column.hits), "Wilson, by cluster"))
    return found


def write_results(run: Run) -> Path | None:
    """Write results.json into the run's folder once all chosen items are done; None if it is not written."""
    done, _ = read_done(run)
    if len(done) < run.description["chosen"]:
        summary.remove_results(run.folder)
        return None
    return summary.write_figures(run, measures(run), np.array([d.nfe for d in done]))
