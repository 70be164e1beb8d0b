"""Every figure of the pages is marked with its run, or with why none gives it, and is what docs/numbers.json has."""

import json
import re
import shlex

import numpy as np
import pytest
import tiny
from helpers import ROOT, import_script, own_examples, parse, write_run
from layouts import pets, write

from diffusion import InputError
from diffusion.core.constants import usual_levels
from diffusion.data import catalogue
from diffusion.stats.metrics import wilson
from ledger import (
    MARK,
    NO_RUN,
    NO_RUN_BLOCK,
    OUTSIDE,
    Claim,
    Ledger,
    fill,
    read_claims,
    read_off,
    read_pages,
    restyle,
    verdict,
)

LEDGER = Ledger.read(ROOT / "studies" / "runs.toml")
PAGES = read_pages(ROOT)
CLAIMS = read_claims(PAGES, LEDGER)
FIGURES = json.loads((ROOT / "docs" / "numbers.json").read_text())
NUMBER = re.compile(r"(?<![\w.,/^-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w^/]|[.,-]\d)")
UNIT = r"[ -]?(?:%|(?:NFE|[kMG]B|ms|s|seconds|minutes|hours|times|points|nats|evaluations|million|billion)\b)"
MEASURED = re.compile(rf"{UNIT}| (?:to|of) \d")  # what follows a number
NAMES = re.compile(  # of models, data, licences and intervals; bounds of tests; the paper's speed; sizes of our files
    r"Stable\s+Diffusion\s+\d(\.\d)?(,\s+3\.5)?|CC\s+BY\s+4\.0|Python\s+3\.\d+|arXiv\s+[\d.]+|95%\s+intervals?|1e-5|exit\s+code\s+2"
    r"|\[-1, 1\]|(at|about)\s+100\s+NFE/s|\d\.\d\s+million|\d\.\d\s+MB|version\s+\d+\.\d+\.\d+",
    re.I,
)


def blank(match: re.Match) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def prose(text: str) -> str:
    """A page without code, headings, heads of tables, pictures and what links lead to; every character in its place."""
    code = r"(?s:^ *```.*?^ *```$)|^    .*$|`[^`\n]*`"
    heads = r"^#.*$|^\|.*\n(?=\|[ :|-]+$)|^\|[ :|-]+$"
    return re.sub(rf"{code}|{heads}|!\[[^\]]*\]|\]\([^)]*\)", blank, text, flags=re.M)


def figures(text: str) -> list[tuple[int, int]]:
    """Where the figures of a page stand.

    A figure is a number in the body of a table; and in other prose a number with a fraction, a sign or thousands, with
    a unit or %, or the first of "a to b" and "a of b".
    """
    text, found = re.sub(r"(?s)<!--.*?-->", blank, prose(text)), []
    for match in NUMBER.finditer(text):
        in_table = text[text.rfind("\n", 0, match.start()) + 1] == "|"
        if in_table or not match[0].isdigit() or MEASURED.match(text, match.end()):
            found.append(match.span())
    return found


def within(span: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    return any(first <= span[0] and span[1] <= last for first, last in spans)


def unmarked(text: str) -> list[str]:
    """The figures of a page that have neither a mark nor a name's form.

    Whole numbers beside a marked figure, in its row or its sentence, say on what it was measured.
    """
    covered = [match.span() for match in MARK.finditer(text)]
    covered += [match.span() for match in NO_RUN.finditer(text)]
    marked = list(covered)
    covered += [match.span(2) for match in NO_RUN_BLOCK.finditer(text)]
    covered += [match.span() for match in NAMES.finditer(text)]
    beside = []
    for match in re.finditer(r"^\|.*$|(?:[^|.:;]|[.:;](?!\s))+", text, re.M):
        if any(match.start() <= start < match.end() for start, _ in marked):
            beside.append(match.span())
    lacking = []
    for start, end in figures(text):
        whole = text[start:end].replace(",", "").isdigit() and text[end : end + 1] != "%"
        if not within((start, end), covered + (beside if whole else [])):
            line = text[text.rfind("\n", 0, start) + 1 : text.find("\n", end)]
            lacking.append(f"line {text.count(chr(10), 0, start) + 1}: {text[start:end]} in {line!r}")
    return lacking


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_of_a_page_is_marked(page):
    lacking = unmarked(PAGES[page])
    assert not lacking, f"{page}: which run gives these?\n" + "\n".join(lacking)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_prints_what_was_measured(page):
    """studies/reproduce.py --write would change nothing."""
    assert fill(PAGES[page], FIGURES, LEDGER) == PAGES[page]


def test_every_measured_figure_is_printed_somewhere():
    readings = set()
    for claim in CLAIMS:
        if not any(LEDGER.runs[name].published for name in claim.runs):
            readings.add(claim.reading)
    assert FIGURES.keys() == readings


def test_what_counts_as_a_figure():
    page = "# 1.5\n\n7 images, 97.5% (96 to 99), 3 s, `--z 2`, 8 of 9\n\n| a 1 | b |\n|---|---|\n| ViT-L/14 | 12 |\n"
    assert [page[start:end] for start, end in figures(page)] == ["97.5", "96", "3", "8", "12"]


def test_what_is_unmarked():
    page = "On 8 of 9 images 97.5%<!--digits acc--> in 3.5 s. Of 9 s, 1 to 2%<!--= chance-->; 7%\n\n| 4 |\n\n"
    page += "<!-- no run: a choice -->\n\n| 5 |\n| 6 |\n\n| 7 |\n"
    assert [line.split()[2] for line in unmarked(page)] == ["3.5", "7", "4", "7"]


@pytest.mark.parametrize(
    ("figure", "value", "filled"),
    [
        ("97.99% (96.34 to 98.90)", "97.5 (96.1 to 98.46)", "97.50% (96.10 to 98.46)"),
        ("97.99% (95% interval 96.34 to 98.90)", "100 (99.23 to 100)", "100.00% (95% interval 99.23 to 100.00)"),
        ("98.0%", "97.99 (96.34 to 98.90)", "98.0%"),
        ("98.0%", "97.93 (96.34 to 98.90)", "97.9%"),
        ("91.0 (83.8-95.2)", "90 (82.6 to 94.5)", "90.0 (82.6-94.5)"),
        ("97.3 (93.3 to\n99.0)", "97 (93 to 98)", "97.0 (93.0 to\n98.0)"),
        ("104", "97.6", "98"),
        ("7,618", "12043", "12,043"),
        ("996", "1003", "1,003"),
        ("1000", "1200", "1200"),
        ("+0.17 (-0.29 to +0.62)", "-0.31 (-0.5 to -0.1)", "-0.31 (-0.50 to -0.10)"),
        ("-0.50 (-1.89 to +0.89)", "0.2 (-0.1 to 0.5)", "+0.20 (-0.10 to +0.50)"),
        ("-0.4", "0.01", "0.0"),
        ("0.0002", "3.9e-05", "3.9e-05"),
        ("3.9e-05", "0.0002", "0.0002"),
        ("100 (99.23 to 100)", "99.4 (98 to 100)", "99.40 (98.00 to 100)"),
    ],
)
def test_a_figure_is_filled_in_as_its_page_prints_it(figure, value, filled):
    assert restyle(Claim("", figure, "run acc"), value) == filled


def test_a_difference_has_its_sign():
    assert restyle(Claim("", "0.0", "a acc - b acc"), "0.12") == "+0.1"
    assert restyle(Claim("", "0.5", "a acc / b acc"), "0.12") == "0.1"


def test_a_page_is_filled():
    page = "**104<!--digits nfe-->** of 2,750, 97.99%<!--digits\nacc-->, 87.3<!--paper-pets acc-->, 1<!--= chance-->"
    value = {"digits nfe": "96.4", "digits acc": "98.19 (96.59 to 99.04)"}
    filled = page.replace("104", "96").replace("97.99", "98.19")
    assert fill(page, value, LEDGER) == filled
    with pytest.raises(InputError, match="digits acc"):
        fill(page, {"digits nfe": "96.4"}, LEDGER)
    with pytest.raises(InputError, match="interval"):
        fill("9 (8 to 10)<!--digits acc-->", {"digits acc": "9"}, LEDGER)
    with pytest.raises(InputError, match="'nobody'"):
        read_claims({"page": "9<!--nobody acc-->"}, LEDGER)


# ---- what can be run ----


@pytest.mark.parametrize("part", dict.fromkeys(run.part for run in LEDGER.runs.values()))
def test_commands_parse_and_their_files_exist(part, monkeypatch):
    for run in LEDGER.runs.values():
        if run.part != part:
            continue
        words = shlex.split(run.do)
        for word in words:
            assert not re.match(r"(prompts|scripts|studies|models|docs)/", word) or (ROOT / word).exists(), run.name
        if words[0] == "-c":
            compile(words[1], run.name, "exec")
        else:
            with monkeypatch.context() as patch:
                parse(words, patch)


def test_runs_have_folders_of_their_own(monkeypatch):
    """Two that differ only in options which the name of a folder leaves out would refuse each other's results."""
    left_out = ["limit", "per_class", "subset_path", "noise_path", "seed", "reads"]  # and the split, but for DiT
    left_out = {"eval_prob_adaptive.py": [*left_out, "split"], "eval_prob_dit.py": left_out}
    found = {}
    for run in LEDGER.runs.values():
        script, *_ = words = shlex.split(run.do)
        if script in left_out:
            with monkeypatch.context() as patch:
                args = parse(words, patch)
            args.levels = args.levels or usual_levels(args.search)
            named = {option: value for option, value in vars(args).items() if option not in left_out[script]}
            found.setdefault(repr((script, named)), []).append(run.name)
    assert [names for names in found.values() if len(names) > 1] == []


def test_every_run_is_for_something():
    used = set()
    for claim in CLAIMS:
        used.update(claim.runs)
    for run in LEDGER.runs.values():
        used.update(run.after)
    assert LEDGER.runs.keys() == used


# ---- reading off, and verdicts ----

SAID = {
    "race": "z 2.5    6   -0.4\nz   2    7\n"
    "top-1 accuracy  97.99%  (95% interval 96.34 to 98.90)\nNFE 104  (in all 51,806)\n",
    "grid": "NFE 2,750\n",
}


@pytest.mark.parametrize(
    ("reading", "measured"),
    [
        ("race acc", "97.99 (96.34 to 98.90)"),
        ("race NFE", "104"),
        ("race NFE#2", "51806"),
        ("race z 2", "7"),
        ("race z 2.5#2", "-0.4"),
        ("grid NFE - race NFE", "2646"),
        ("grid NFE / race NFE", "26.4423"),
        ("grid NFE + race NFE", "2854"),
        ("1,000 / race NFE", "9.61538"),
    ],
)
def test_a_figure_is_read_off_its_line(reading, measured):
    assert read_off(reading, SAID, LEDGER) == measured


@pytest.mark.parametrize("reading", ["race ECE", "race NFE#3", "grid NFE - race acc#2", "race NF"])
def test_a_figure_that_is_not_printed_is_named(reading):
    with pytest.raises(InputError, match="printed no figure"):
        read_off(reading, SAID, LEDGER)


@pytest.mark.parametrize(
    ("figure", "measured", "found"),
    [
        ("97.99% (96.34 to 98.90)", "97.994 (96.341 to 98.899)", "same"),
        ("98.0%", "97.99 (96.34 to 98.90)", "same"),
        ("97.99% (96.34 to 98.90)", "97.99 (96.0 to 98.9)", "within the interval"),
        ("97.99% (96.34 to 98.90)", "96.5 (94 to 97.5)", "within the interval"),
        ("87.3", "84.0 (78.0 to 88.0)", "within the interval"),  # the paper's, which has none
        ("97.99% (96.34 to 98.90)", "99.2 (98.5 to 99.6)", OUTSIDE),
        ("87.3", "70.0 (62.0 to 77.0)", OUTSIDE),
        ("7,618", "7618", "same"),
        ("104", "107", "within 5%"),
        ("104", "110", OUTSIDE),
        ("-0.50", "0.5", OUTSIDE),
        ("3.9e-05", "3.9e-05", "same"),
        ("3.9e-05", "0.5", OUTSIDE),
    ],
)
def test_verdict(figure, measured, found):
    assert verdict(figure, measured, 0.05) == found


# ---- from the command line ----


def test_what_was_measured_is_written_into_the_pages(tmp_path, monkeypatch):
    """In a copy: a figure changes on each page that prints it, a published one on none."""
    module = import_script("studies/reproduce.py")
    (tmp_path / "docs").mkdir()
    for page, text in PAGES.items():
        (tmp_path / page).write_text(text)
    (tmp_path / "docs" / "numbers.json").write_text(json.dumps(FIGURES))
    monkeypatch.setattr(module, "ROOT", tmp_path)
    measured = [(Claim("README.md", "104", "digits nfe"), "96.4"), (Claim("README.md", "87.3", "paper-pets acc"), "85")]
    module.write(measured, PAGES, LEDGER)
    assert json.loads((tmp_path / "docs" / "numbers.json").read_text()) == FIGURES | {"digits nfe": "96.4"}
    changed = {page for page, text in read_pages(tmp_path).items() if text != PAGES[page]}
    assert changed == {claim.page for claim in CLAIMS if claim.reading == "digits nfe"} and len(changed) > 1
    for page, text in read_pages(tmp_path).items():
        assert text == re.sub("104(?=<!--digits nfe-->)", "96", PAGES[page])


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    """`reproduce(runs, page) -> module`: studies/reproduce.py in a clone with these runs and a README of this text."""

    def make(runs: str, page: str):
        clone = tmp_path / "clone"
        write(clone / "studies/runs.toml", f'[labels]\nacc = "^top-1 accuracy"\n{runs}')
        write(clone / "README.md", page)
        module = import_script("studies/reproduce.py")
        monkeypatch.setattr(module, "ROOT", clone)
        return module

    return make


@pytest.mark.slow
def test_a_run_is_measured_once_and_compared(run_main, tmp_path, reproduce):
    """A command on a run by hand, two of whose three images are right."""
    low, high = (100 * bound for bound in wilson(2 / 3, 3))
    claimed = f"66.67% ({low:.2f} to {high:.2f})<!--mine acc-->"
    module = reproduce('[run.ours]\nmine = {minutes = 1, do = "scripts/print_acc.py data/run"}', claimed)
    out = tmp_path / "data" / "reproduce"
    errors = np.ones((3, 3, 2))
    errors[[0, 1, 2], [0, 1, 0]] = 0.5
    write_run(out / "data" / "run", errors, [0, 1, 2])
    first = run_main(module, "ours")
    assert first.code == 0, first.out + first.err
    assert re.search(rf"claimed 66\.67% \({low:.2f} to .*measured 66\.67 \({low:.2f} to .* same", first.out)
    kept = out / "mine.txt"
    kept.write_text(re.sub(r"66\.67%.*", "5.00%  (95% interval 1 to 9)", kept.read_text()))
    again = run_main(module, "ours")
    assert again.code == 1 and "1 done before" in again.out and again.out.count(OUTSIDE) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "nothing: no part and no run of studies/runs.toml; its parts are embedded:races, "),
        (["paper"], "--hours: wanted"),
        (["paper", "--hours", 0], "--hours: wanted"),
        (["clip", "--hours", 1], "--hours: wanted"),
        (["*", "--hours", 1], "--hours: wanted"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(run_main, words, says):
    done = run_main("studies/reproduce.py", *words)
    assert done.code == 2 and says in done.err


def test_the_list_runs_nothing(run_main, tmp_path):
    done = run_main("studies/reproduce.py", "embedded", "--list")
    assert done.code == 0 and re.search(r"^embedded:races +digits +\d+ figures +\d", done.out, re.M)
    assert "paper" not in done.out.partition("no run gives")[0] and not list(tmp_path.iterdir())


def test_time_is_shared_out():
    share_out = import_script("studies/reproduce.py").share_out
    sizes, costs = (
        {"small": 60, "large": 10_000, "dear": 10_000, "few": 2},
        {"small": 1, "large": 2, "dear": 50, "few": 30},
    )
    # a quarter of 4000 s is 20 images of the dear, too few; of a third, the small and the few need 60 s
    assert share_out(4000, costs, sizes) == {"small": 60, "few": 2, "large": (4000 - 60 - 60) / 2}
    assert share_out(10, {"large": 2}, sizes) == {}


PAPER = """
[run."paper:winoground"]
paper-winoground = {published = true, nfe = 40, do = "run_winoground.py --dataset winoground --t_interval 100"}
[run."paper:pets"]
paper-pets = {published = true, nfe = 2050, do = "eval_prob_adaptive.py --dataset pets"}
[run."paper:food"]
paper-food = {published = true, nfe = 5570, do = "eval_prob_adaptive.py --dataset food"}
"""


@pytest.mark.slow
def test_the_paper_on_what_is_there(run_main, tmp_path, monkeypatch, reproduce):
    """From a speed that is measured to a verdict; what does not fit, or is not there, is named."""
    module = reproduce(PAPER, "46.1<!--paper-winoground Object#2-->, 29.2<!--paper-winoground Relation#2-->")
    tiny.save(tiny.sd, tmp_path / "model")
    pets(tmp_path / "datasets/pets", monkeypatch)
    own_examples(tmp_path / "datasets/winoground", 2, tag="Object")
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path / "datasets")
    model = ["--version", tmp_path / "model", "--batch_size", 64]
    done = run_main(module, "paper:winoground", "--hours", 24, *model)
    assert re.search(r"paper-winoground Object#2 +claimed 46\.1 +measured \d", done.out), done.out + done.err
    assert done.code == (OUTSIDE in done.out)
    assert "skipped: README.md, 29.2: paper-winoground: printed no figure" in done.out  # no example is of that kind
    more = run_main(module, "paper", "--hours", 1, "--nfe_per_second", 1, *model)
    assert "1 runs, 1 done before" in more.out, more.out + more.err
    assert "skipped: paper-pets: its share of the time is less than 2 images take, 1.1 hours" in more.out
    assert "skipped: paper-food: dataset 'food' not found" in more.out
