"""A run of run_winoground.py, read: its items, their scores, the table."""

from dataclasses import dataclass

import numpy as np

from diffusion import InputError
from diffusion.matching.items import Item, Items, Shown
from diffusion.runs import records, show
from diffusion.runs.results import Run
from diffusion.stats import metrics


@dataclass(frozen=True)
class Done:
    """An item all of whose images were measured."""

    index: int
    item: Item
    text: float  # margins (see metrics.text_margin), nan: not asked
    means: np.ndarray  # [captions (and, at last, the empty one), images] mean errors, each over its own points
    nfe: int

    def scores(self, normalized: bool) -> np.ndarray:
        """Mean errors with a minus, [captions, images]; normalized: above that of the empty caption."""
        k = len(self.item.captions)
        return self.means[k] - self.means[:k] if normalized else -self.means[:k]

    def image(self, normalized: bool) -> float:
        """Margin of the image score, nan: not asked."""
        return metrics.image_margin(-self.scores(normalized), self.item.table)

    def margin(self, normalized: bool, raced: bool = False) -> float:
        """Of all that the item asks, the worst; of a race, of its text score."""
        margins = np.array([self.text] if raced else [self.text, self.image(normalized)])
        return float(np.nanmin(margins, initial=np.inf))


# ---- items in run.json, and in records ----


def about(items: Items, chosen: list[int]) -> dict:
    """What run.json tells of a benchmark and of those of its items that are chosen."""
    return {
        "images": sum(len(items[k].images) for k in chosen),
        "arms": [(f"caption {c}", f"caption {c}", c) for c in range(max(len(i.captions) for i in items.items))],
        "examples": {
            k: {"id": i.id, "captions": i.captions, "tag": i.tags[0] if i.tags else ""}
            for k, i in enumerate(items.items)
        },
        "items": {
            k: {
                "images": [[shown.file, shown.box] for shown in i.images],
                "right": sorted(i.right),
                "tags": i.tags,
                "groups": i.groups,
            }
            for k, i in enumerate(items.items)
        },
        "chosen": len(chosen),
        "lacking": {k: items.lacking[k] for k in chosen if k in items.lacking},
    }


def told(run: Run) -> dict[int, Item]:
    """The items of a run's benchmark by index. InputError where it is no run of items, or run.json is damaged."""
    if "examples" not in run.about:
        raise InputError(run.folder, "is no run of run_winoground.py")
    if missing := sorted({"items", "chosen", "lacking"} - run.about.keys()):
        raise InputError(f"{run.folder / 'run.json'}", f"no {' and no '.join(missing)} there")
    more = run.about["items"]
    items = {}
    for e, example in run.about["examples"].items():
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
        raise InputError(f"{run.folder / 'run.json'}", f"tells of {len(items)} examples, not of each from 0 on")
    return dict(sorted(items.items()))


def numbers(items: list[Item]) -> np.ndarray:
    """The number of each item's first image, and of one more: images are counted through, item by item. [items + 1]"""
    return np.cumsum([0, *(len(item.images) for item in items)])


def read(run: Run) -> tuple[list[Done], list[str]]:
    """The complete items of a run, and what is wrong with others."""
    items = told(run)
    first = numbers(list(items.values()))
    found, problems = {}, []
    for number, path in run.done.items():
        e = int(np.searchsorted(first, number, "right")) - 1
        if e not in items:
            raise InputError(f"{run.folder / 'run.json'}", f"example {e} is None, wanted its id, tag and captions")
        try:
            record = records.load_record(path, run.wanted)
            errors = metrics.arm_errors(record, run.loss)
            if len(errors) not in (k := len(items[e].captions), k + 1):
                raise InputError(path, f"{len(errors)} captions, example {e} has {k}")
        except FileNotFoundError:
            problems.append(f"{path}: is gone")
            continue
        except InputError as error:
            problems.append(str(error))
            continue
        found.setdefault(e, {})[number - first[e]] = (errors, int(record["nfe"]))
    done = []
    for e, measured in sorted(found.items()):
        if len(measured) == len(items[e].images):
            of_images = [measured[i][0] for i in range(len(measured))]
            asked = zip(of_images, items[e].table.T, strict=True)
            texts = [metrics.text_margin(each[: len(right)], right) for each, right in asked]
            text = min((margin for margin in texts if not np.isnan(margin)), default=np.nan)
            most = max(map(len, of_images))
            means = np.array([[arm.mean() for arm in each] + [np.nan] * (most - len(each)) for each in of_images]).T
            done.append(Done(e, items[e], text, means, sum(nfe for _, nfe in measured.values())))
    return done, problems


def raced(run: Run) -> bool:
    """Then two images may have been measured at different points, and only captions of one can be compared."""
    return run.options.get("search") == "race"


def normalized(done: list[Done]) -> bool:
    """Whether the empty caption was measured everywhere."""
    return bool(done) and all(len(d.means) > len(d.item.captions) and not np.isnan(d.means).any() for d in done)


# ---- the table ----


@dataclass(frozen=True)
class Column:
    """A score: of items, or of groups of them."""

    hits: np.ndarray  # [n] bool
    tags: list[frozenset[str]]  # [n]
    keys: list[list]  # [n] what others may share: images and groups

    def cell(self, tag: str | None, rows: int) -> str:
        """The share that is right with its interval, of all or of a tag; how many, where the line says otherwise."""
        chosen = np.array([tag is None or tag in tags for tags in self.tags], dtype=bool)
        if not chosen.any() and rows:
            return "-"
        cluster = metrics.clusters(self.keys)[chosen]
        p, (low, high) = metrics.share_of_clusters(self.hits[chosen], cluster)
        of = f" of {chosen.sum()}" if chosen.sum() != rows else ""
        return f"{100 * p:.1f}% ({100 * low:.1f} to {100 * high:.1f}){of}"


def keys_of(d: Done) -> list:
    """What an item may share with others."""
    return [*(shown.file for shown in d.item.images), *d.item.groups.items()]


def columns(done: list[Done], items: dict[int, Item], *, race: bool, normal: bool) -> dict[str, Column]:
    """text, image, group and, where items have groups, those kinds: a group is right if all that its items ask is.

    Of a race, without images. A group counts once all its items are done.
    """
    margins = {"text": np.array([d.text for d in done])}
    if not race:
        margins["image"] = np.array([d.image(normal) for d in done])
        margins["group"] = np.minimum(*margins.values())  # nan unless both are asked
    found = {}
    keys = [keys_of(d) for d in done]
    tags = [frozenset(d.item.tags) for d in done]
    for name, margin in margins.items():
        asked = np.flatnonzero(~np.isnan(margin))
        if len(asked) or (not done and name == "text"):
            found[name] = Column(margin[asked] > 0, [tags[k] for k in asked], [keys[k] for k in asked])
    right = np.array([d.margin(normal, race) > 0 for d in done], dtype=bool)
    for kind in dict.fromkeys(kind for item in items.values() for kind in item.groups):
        members = {}
        for e, item in items.items():
            members.setdefault(item.groups.get(kind), set()).add(e)
        at = {d.index: k for k, d in enumerate(done)}
        whole = [[at[e] for e in each] for name, each in members.items() if name is not None and each <= at.keys()]
        if any(len(each) > 1 for each in whole):
            found[kind] = Column(
                metrics.all_right(right, whole),
                [frozenset.intersection(*(tags[k] for k in each)) for each in whole],
                [[key for k in each for key in keys[k]] for each in whole],
            )
    return found


def print_scores(run: Run) -> int:
    """Print the scores that the items allow (of a race, without those of images), of all and by tag. The exit code.

    Where the empty caption was measured, also with its error subtracted from its image's.
    """
    items, (done, problems) = told(run), read(run)
    lacking = run.about["lacking"]
    chosen = max(run.about["chosen"], len(done))
    print(f"{'examples':<16}{len(done)} of {chosen}" + (f" in the file, {len(lacking)} lack an image" * bool(lacking)))
    race, plain = raced(run), all(len(i.images) == len(i.captions) == 2 for i in items.values())
    if done and (race or not plain):
        print(f"{'NFE per example':<16}{np.mean([d.nfe for d in done]):,.1f}  (in all {sum(d.nfe for d in done):,})")
    tables = {"": columns(done, items, race=race, normal=False)}
    if not race and normalized(done):
        tables[", normalized"] = columns(done, items, race=race, normal=True)
    cluster = metrics.clusters([keys_of(d) for d in done])
    if (n := len(np.unique(cluster))) < len(done):
        print(f"{'clusters':<16}{n}, of examples that share an image or a group; the intervals allow for that")
    tags = list(dict.fromkeys(tag for d in done for tag in d.item.tags))
    for how, scores in tables.items():
        rows = {"all": None} | {tag: tag for tag in tags}
        counts = {tag: sum(tag is None or tag in d.item.tags for d in done) for tag in rows.values()}
        cells = {name: [column.cell(tag, counts[tag]) for column in scores.values()] for name, tag in rows.items()}
        width = max([24, *(len(cell) + 2 for row in cells.values() for cell in row)])
        first = max([20, *(len(name) + 1 for name in rows)])
        print(f"\n{'score' + how:<{first}}{'n':>6}" + "".join(f"{name:>{width}}" for name in scores))
        for name, row in cells.items():
            print(f"{name:<{first}}{counts[rows[name]]:>6}" + "".join(f"{cell:>{width}}" for cell in row))
    problems += [f"example {e}: {why}" for e, why in lacking.items()]
    return show.report(problems)
