"""The figures of the pages: marked where they stand, measured by runs, and kept in docs/numbers.json.

A figure is a number, perhaps with its interval. In a page a comment follows each one, which a rendered page hides:

    97.99% (96.34 to 98.90)<!--digits acc-->    what the run `digits` prints after the label `acc`
    51,806<!--digits nfe#2-->                   the second figure of that line
    0.77<!--digits nfe / all-levels nfe-->      two of them, one perhaps a number, added, subtracted or divided
    0.1%<!--= the paper-->                      from no run, and why; also after `0.1 to 0.35` and `1.9, 1.8`

A line `<!-- no run: why -->` before a table or paragraph says the same of all figures in it that have no mark. A label
is a name in the table `labels` of runs.toml, or what the line begins with.
"""

import json
import operator
import re
import tomllib
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from diffusion import InputError
from diffusion.io.atomic import write_atomic

NUMBER = r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]\d+)?"
INTERVAL = rf"\((?:95% interval )?({NUMBER})%?(?:\s+to\s+|-)({NUMBER})%?\)"
FIGURE = re.compile(rf"({NUMBER})%?(?:\s*{INTERVAL})?")
MARK = re.compile(rf"{FIGURE.pattern}<!--(?!=)\s*([^>]+?)\s*-->")
NO_RUN = re.compile(
    rf"{FIGURE.pattern}(?:(?:\s+(?:to|of|and)\s+|,\s+|-){FIGURE.pattern})*<!--=\s*(?P<why>[^>]+?)\s*-->"
)
NO_RUN_BLOCK = re.compile(r"^<!-- no run: (.+?) -->\n\n?((?:.+\n)+)", re.M)
OPERATORS = {" + ": operator.add, " - ": operator.sub, " / ": operator.truediv}
OUTSIDE = "OUTSIDE"


@dataclass(frozen=True)
class Run:
    """A command, as python takes it, and what it costs."""

    name: str
    part: str
    do: str
    minutes: float = 0  # on one core of a CPU
    nfe: int = 0  # per image, of the paper's
    after: tuple[str, ...] = ()  # runs whose files it reads
    within: float = 0.05  # of a figure without interval: a measured one may differ by this share of it
    published: bool = False  # the pages print what others measured


@dataclass(frozen=True)
class Claim:
    """A marked figure of a page, and how it is read off what runs print."""

    page: str
    figure: str
    reading: str

    @property
    def runs(self) -> list[str]:
        """The names of the runs that it is read off."""
        sides, _ = _sides(self.reading)
        return [side.partition(" ")[0] for side in sides if not re.fullmatch(NUMBER, side)]


@dataclass(frozen=True)
class Ledger:
    """The runs of runs.toml, and names for what the lines that they print begin with."""

    runs: dict[str, Run]
    labels: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """InputError: no such file, or a run comes after one that is not there."""
        if not path.exists():
            raise InputError(path, "no such file; a clone has it")
        table = tomllib.loads(path.read_text())
        runs = {}
        for part, each in table["run"].items():
            for name, about in each.items():
                runs[name] = Run(name, part, **about)
        for run in runs.values():
            for name in run.after:
                if name not in runs:
                    raise InputError(path, f"{run.name} comes after {name!r}, and no run is called that")
        return cls(runs, table["labels"])

    def pattern(self, label: str) -> str:
        """The regular expression of a label."""
        if label in self.labels:
            return self.labels[label]
        return "^" + " +".join(re.escape(word) for word in label.split()) + r"(?=[\s:,]|$)"


# ---- pages ----


def read_pages(root: Path) -> dict[str, str]:
    """README.md and the pages of docs: path below the root -> text."""
    paths = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return {str(path.relative_to(root)): path.read_text() for path in paths}


def read_claims(pages: dict[str, str], ledger: Ledger) -> list[Claim]:
    """The marked figures of all pages. InputError: no run has the name that a mark gives."""
    claims = []
    for page, text in pages.items():
        claims += claims_of(page, text)
    for claim in claims:
        for name in claim.runs:
            if name not in ledger.runs:
                raise InputError(claim.page, f"{claim.figure}<!--{claim.reading}-->: no run is called {name!r}")
    return claims


def read_unmeasured(text: str) -> list[tuple[str, str]]:
    """Figures that no run gives: (figures, why), or ("all without a mark", why) for a table or paragraph."""
    found = []
    for match in NO_RUN.finditer(text):
        figures = match[0].partition("<!--")[0]
        found.append((figures, " ".join(match["why"].split())))
    for match in NO_RUN_BLOCK.finditer(text):
        found.append(("all without a mark", match[1]))
    return found


def claims_of(page: str, text: str) -> list[Claim]:
    """The marked figures of a page, without those of no run."""
    found = []
    for match in MARK.finditer(text):
        figure = text[match.start() : match.start(4)].rpartition("<!--")[0]
        found.append(Claim(page, figure, " ".join(match[4].split())))
    return found


def fill(text: str, figures: dict[str, str], ledger: Ledger) -> str:
    """A page with each marked figure as docs/numbers.json has it, to as many digits as the page prints.

    A published figure stays. InputError: a reading is not in the file, or has no interval where the page prints one.
    """

    def filled(match: re.Match) -> str:
        (claim,) = claims_of("", match[0])
        if any(ledger.runs[name].published for name in claim.runs):
            return match[0]
        if claim.reading not in figures:
            raise InputError(
                "docs/numbers.json", f"no {claim.reading!r}; measure it: reproduce.py {claim.runs[0]} --write"
            )
        return restyle(claim, figures[claim.reading]) + match[0][len(claim.figure) :]

    return MARK.sub(filled, text)


def restyle(claim: Claim, value: str) -> str:
    """A figure with new numbers in the page's format: digits, thousands, signs, % and interval stay."""
    figure = FIGURE.fullmatch(claim.figure)
    numbers = _texts(FIGURE.fullmatch(value))
    old = _texts(figure)
    if len(numbers) < len(old):
        raise InputError("docs/numbers.json", f"{claim.reading!r} is {value}, and {claim.page} prints an interval")
    digits = max(len(each.partition(".")[2]) for each in old)
    signed = " - " in claim.reading or old[0][0] in "+-"
    shown, end = "", 0
    for k, number in enumerate(old):
        shown += claim.figure[end : figure.start(k + 1)] + _as_printed(number, numbers[k], digits, signed)
        end = figure.end(k + 1)
    return shown + claim.figure[end:]


def _as_printed(old: str, new: str, digits: int, signed: bool) -> str:
    if "e" in old or "e" in new:
        return new
    digits_of_old = len(old.partition(".")[2])
    if _rounded(new, digits_of_old) == Decimal(old.replace(",", "")):
        return old
    value = _rounded(new, digits)
    if value == 0:
        return f"{abs(value)}"
    sign = "+" if signed else "-"  # "-" is Python's default: only of negative numbers
    plain_thousands = abs(Decimal(old.replace(",", ""))) >= 1000 and "," not in old
    comma = "" if plain_thousands else ","
    return format(value, f"{sign}{comma}f")


def _rounded(number: str, digits: int) -> Decimal:
    return Decimal(number.replace(",", "")).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def _texts(match: re.Match) -> list[str]:
    """The numbers of a figure as written: its value and, if there is one, its interval."""
    return [each for each in match.groups()[:3] if each]


def write_figures(path: Path, figures: dict[str, str]) -> None:
    """docs/numbers.json: reading -> figure, in alphabetical order."""
    text = json.dumps(figures, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomic(path, lambda file: file.write(f"{text}\n".encode()))


# ---- what runs print ----


def _sides(reading: str) -> tuple[list[str], list[str]]:
    """A reading, or the two that are added, subtracted or divided, one of them perhaps a number; and by what."""
    parts = re.split(f"({'|'.join(map(re.escape, OPERATORS))})", reading)
    return parts[::2], parts[1::2]


def _read_side(side: str, printed: dict[str, str], ledger: Ledger) -> list[str]:
    if re.fullmatch(NUMBER, side):
        return [side]
    run, _, label = side.partition(" ")
    label, _, place = label.partition("#")
    k = int(place or 1)
    match = re.search(ledger.pattern(label), printed[run], re.M)
    line = printed[run][match.end() :].partition("\n")[0] if match else ""
    figures = list(FIGURE.finditer(line))
    if len(figures) < k:
        raise InputError(run, f"printed no figure {k} on a line after {label!r}")
    return _texts(figures[k - 1])


def read_off(reading: str, printed: dict[str, str], ledger: Ledger) -> str:
    """A figure as docs/numbers.json keeps it, "97.99 (96.34 to 98.90)"; `printed` is what each run printed.

    InputError where a run printed no such figure.
    """
    sides, by = _sides(reading)
    values = [_read_side(side, printed, ledger) for side in sides]
    if by:
        first, second = [float(value[0].replace(",", "")) for value in values]
        return f"{OPERATORS[by[0]](first, second):.6g}"
    return as_kept(values[0])


def as_kept(numbers: list[str]) -> str:
    """A figure's numbers as docs/numbers.json has them."""
    value, *interval = [each.replace(",", "").lstrip("+") for each in numbers]
    return f"{value} ({' to '.join(interval)})" if interval else value


def verdict(figure: str, measured: str, within: float) -> str:
    """The verdict on a claimed figure that is measured again.

    "same" if they agree to the digits that the page prints; else "within ..." if one value lies in the other's interval
    or, if neither has an interval, within the share `within` of the value; else OUTSIDE.
    """
    texts = _texts(FIGURE.fullmatch(figure))
    claimed = [float(each.replace(",", "")) for each in texts]
    found = [float(each.replace(",", "")) for each in _texts(FIGURE.fullmatch(measured))]
    digits = [len(each.partition(".")[2]) for each in texts]
    if all(abs(a - b) <= 0.501 * 10.0**-d for a, b, d in zip(claimed, found, digits, strict=False)):
        return "same"
    for (value, *_), (_, *interval) in ((claimed, found), (found, claimed)):
        if interval and interval[0] <= value <= interval[1]:
            return "within the interval"
    if len(claimed) == len(found) == 1 and abs(found[0] - claimed[0]) <= within * abs(claimed[0]):
        return f"within {within:.0%}"
    return OUTSIDE
