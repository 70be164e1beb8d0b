"""The numbers that the pages claim, as docs/numbers.toml lists them, and the same read off what a run prints."""

import operator
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from diffusion import InputError

NUMBER = r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]\d+)?"
FIGURE = re.compile(rf"({NUMBER})%?(?:\s*\((?:95% interval )?({NUMBER})%?(?: to |-)({NUMBER})%?\))?")
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


@dataclass(frozen=True)
class Claim:
    """A figure that a page claims, where it stands, and how it is read off what runs print ("= why": it is not)."""

    page: str
    figure: str
    quotation: str
    at: int  # of the figure, in the quotation
    reading: str

    @property
    def runs(self) -> list[str]:
        """The names of the runs that it is read off."""
        if self.reading.startswith("="):
            return []
        return [side.split(" ")[0] for side in _sides(self.reading)[0] if not re.fullmatch(NUMBER, side)]


@dataclass(frozen=True)
class Ledger:
    """The file: claims, the runs that they are read off, labels that are short for others, figures that are given."""

    runs: dict[str, Run]
    claims: list[Claim]
    labels: dict[str, str]
    given: dict[str, dict[str, list[str]]]  # page -> why -> regular expressions

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """InputError: no such file, figures and readings do not go together, or no run has a reading's name."""
        if not path.exists():
            raise InputError(f"{path}: no such file; a clone has it")
        told = tomllib.loads(path.read_text())
        runs = [Run(name, part, **about) for part, each in told["run"].items() for name, about in each.items()]
        claims = []
        for page, quotations in told["page"].items():
            for quoted, readings in quotations.items():
                pieces = re.split("[{}]", quoted)  # figures stand in braces: at odd places
                if len(pieces) != 2 * len(readings) + 1:
                    raise InputError(f"{path}: {quoted!r} has {len(pieces) // 2} figures, {len(readings)} readings")
                for k, reading in enumerate(readings):
                    at = len("".join(pieces[: 2 * k + 1]))
                    claims.append(Claim(page, pieces[2 * k + 1], "".join(pieces), at, reading))
        found = cls({run.name: run for run in runs}, claims, told["labels"], told["given"])
        for name in [name for claim in claims for name in claim.runs] + [name for run in runs for name in run.after]:
            if name not in found.runs:
                raise InputError(f"{path}: no run is called {name!r}")
        return found


def _sides(reading: str) -> tuple[list[str], list[str]]:
    """A reading, or the two that are added, subtracted or divided, one of them perhaps a number; and by what."""
    parts = re.split(f"({'|'.join(map(re.escape, OPERATORS))})", reading)
    return parts[::2], parts[1::2]


def _numbers(groups: tuple) -> list[float]:
    return [float(each.replace(",", "")) for each in groups if each]


def _read_side(side: str, said: dict[str, str], labels: dict[str, str]) -> list[float]:
    if re.fullmatch(NUMBER, side):
        return _numbers([side])
    run, _, label = side.partition(" ")
    label, _, k = label.partition("#")
    match = re.search(labels.get(label, label), said[run], re.M)
    figures = FIGURE.findall(said[run][match.end() :].partition("\n")[0]) if match else []
    if len(figures) < int(k or 1):
        raise InputError(f"{run} printed no figure {k or 1} on a line after {labels.get(label, label)!r}")
    return _numbers(figures[int(k or 1) - 1])


def read_off(claim: Claim, said: dict[str, str], labels: dict[str, str]) -> list[float]:
    """The value of a claim and, if printed, the ends of its interval; `said` is what each run printed.

    InputError where a run printed no such figure.
    """
    sides, by = _sides(claim.reading)
    values = [_read_side(side, said, labels) for side in sides]
    return [OPERATORS[by[0]](*(each[0] for each in values))] if by else values[0]


def verdict(figure: str, measured: list[float], within: float) -> str:
    """Of a claimed figure and of the same measured again, [value] or [value, low, high], in the figure's unit.

    The same, to the digits that the page prints; else within one of the intervals, or, where neither has one, within a
    share of the value; else OUTSIDE.
    """
    texts = [each for each in FIGURE.fullmatch(figure).groups() if each]
    claimed = _numbers(texts)
    digits = [len(each.partition(".")[2]) for each in texts]
    if all(abs(a - b) <= 0.501 * 10.0**-d for a, b, d in zip(claimed, measured, digits, strict=False)):
        return "same"
    for (value, *_), (_, *interval) in ((claimed, measured), (measured, claimed)):
        if interval and interval[0] <= value <= interval[1]:
            return "within the interval"
    if len(claimed) == len(measured) == 1 and abs(measured[0] - claimed[0]) <= within * abs(claimed[0]):
        return f"within {within:.0%}"
    return OUTSIDE
