"""Every measured number of the pages is in docs/numbers.toml; what stands there is still claimed, and can be run."""

import re
import shlex

import pytest
import tiny
from conftest import ROOT, import_script
from test_datasets import picture, write
from test_docs import parse
from test_run_winoground import own_examples

from diffusion import InputError
from diffusion.ledger import FIGURE, OUTSIDE, Claim, Ledger, read_off, verdict
from diffusion.names import usual_levels
from diffusion.prompts import PROMPTS, prompts_file, read_prompts

LEDGER = Ledger.read(ROOT / "docs" / "numbers.toml")
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
NUMBER = re.compile(r"(?<![\w.,/^-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w^/]|[.,-]\d)")
UNIT = r"[ -]?(?:%|(?:NFE|[kMG]B|ms|s|seconds|minutes|hours|times|points|nats|evaluations|million|billion)\b)"
MEASURED = re.compile(rf"{UNIT}| (?:to|of) \d")  # what follows a number


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
    text, found = prose(text), []
    for match in NUMBER.finditer(text):
        in_table = text[text.rfind("\n", 0, match.start()) + 1] == "|"
        if in_table or not match[0].isdigit() or MEASURED.match(text, match.end()):
            found.append(match.span())
    return found


def anywhere(pattern: str) -> str:
    """A regular expression whose spaces may be line breaks."""
    return re.sub(r"(\\? )+", r"\\s+", pattern)


def stands(claim) -> tuple[tuple[int, int], tuple[int, int]]:
    """The places of a claimed figure and of its quotation, which stands in its page once."""
    before, after = claim.quotation[: claim.at], claim.quotation[claim.at + len(claim.figure) :]
    pattern = anywhere(f"{re.escape(before)}({re.escape(claim.figure)}){re.escape(after)}")
    found = list(re.finditer(pattern, PAGES[claim.page]))
    assert len(found) == 1, f"{claim.page} has {claim.quotation!r} {len(found)} times, wanted once"
    return found[0].span(1), found[0].span()


def given(page: str) -> list[tuple[int, int]]:
    """Where figures of a page are not measured, as the ledger says with a reason."""
    spans = []
    for where in (page, "every"):
        for pattern in [pattern for each in LEDGER.given.get(where, {}).values() for pattern in each]:
            found = [match.span() for match in re.finditer(anywhere(pattern), PAGES[page], re.M)]
            assert found or where == "every", f"{page}: nothing matches the given {pattern!r}"
            spans += found
    return spans


def within(span: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    return any(first <= span[0] and span[1] <= last for first, last in spans)


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_of_a_page_is_in_the_ledger(page):
    """Claimed, or given; in a quotation, whole numbers beside the claimed ones say on what was measured."""
    text, claims = PAGES[page], [stands(claim) for claim in LEDGER.claims if claim.page == page]
    claimed, quoted, known = [each for each, _ in claims], [whole for _, whole in claims], given(page)
    lacking = []
    for start, end in figures(text):
        plain = text[start:end].replace(",", "").isdigit() and text[end] != "%"
        if not within((start, end), claimed + known + (quoted if plain else [])):
            line = text[text.rfind("\n", 0, start) + 1 : text.find("\n", end)]
            lacking.append(f"line {text.count(chr(10), 0, start) + 1}: {text[start:end]} in {line!r}")
    assert not lacking, f"{page} has figures that docs/numbers.toml lacks:\n" + "\n".join(lacking)


def test_what_counts_as_a_figure():
    page = "# 1.5\n\n7 images, 97.5% (96 to 99), 3 s, `--z 2`, 8 of 9\n\n| a 1 | b |\n|---|---|\n| ViT-L/14 | 12 |\n"
    assert [page[start:end] for start, end in figures(page)] == ["97.5", "96", "3", "8", "12"]


# ---- what can be run ----


@pytest.mark.parametrize("run", LEDGER.runs.values(), ids=lambda run: run.name)
def test_a_command_parses_and_its_files_exist(run, monkeypatch):
    words = shlex.split(run.do)
    for word in words:
        assert not re.match(r"(prompts|scripts|models|docs)/", word) or (ROOT / word).exists()
    if words[0] == "-c":
        compile(words[1], run.name, "exec")
    else:
        parse(words, monkeypatch)


def test_runs_have_folders_of_their_own(monkeypatch):
    """Two that differ only in options which the name of a folder leaves out would refuse each other's results."""
    left_out = ["limit", "per_class", "subset_path", "noise_path", "seed", "reads"]  # and the split, but for DiT
    left_out = {"eval_prob_adaptive.py": [*left_out, "split"], "eval_prob_dit.py": left_out}
    found = {}
    for run in LEDGER.runs.values():
        script, *_ = words = shlex.split(run.do)
        if script in left_out:
            args = parse(words, monkeypatch)
            args.levels = args.levels or usual_levels(args.search)
            named = {option: value for option, value in vars(args).items() if option not in left_out[script]}
            found.setdefault(repr((script, named)), []).append(run.name)
    assert [names for names in found.values() if len(names) > 1] == []


def test_every_run_is_for_something():
    used = {name for claim in LEDGER.claims for name in claim.runs}
    used |= {name for run in LEDGER.runs.values() for name in run.after}
    assert LEDGER.runs.keys() == used


@pytest.mark.parametrize("claim", LEDGER.claims, ids=lambda claim: f"{claim.page}: {claim.figure}")
def test_a_claim_can_be_compared(claim):
    assert FIGURE.fullmatch(claim.figure)
    assert claim.runs or len(claim.reading) > len("= why")


# ---- reading off, and verdicts ----

SAID = {
    "race": "top-1 accuracy  97.99%  (95% interval 96.34 to 98.90)\nNFE 104  (in all 51,806)\n",
    "grid": "NFE 2,750\n",
}


@pytest.mark.parametrize(
    ("reading", "measured"),
    [
        ("race acc", [97.99, 96.34, 98.90]),
        ("race ^NFE", [104]),
        ("race ^NFE#2", [51806]),
        ("grid ^NFE - race ^NFE", [2646]),
        ("grid ^NFE / race ^NFE", [2750 / 104]),
        ("grid ^NFE + race ^NFE", [2854]),
        ("1,000 / race ^NFE", [1000 / 104]),
    ],
)
def test_a_figure_is_read_off_its_line(reading, measured):
    assert read_off(Claim("", "", "", 0, reading), SAID, LEDGER.labels) == measured


@pytest.mark.parametrize("reading", ["race ^ECE", "race ^NFE#3", "grid ^NFE - race acc#2"])
def test_a_figure_that_is_not_printed_is_named(reading):
    with pytest.raises(InputError, match="printed no figure"):
        read_off(Claim("", "", "", 0, reading), SAID, LEDGER.labels)


@pytest.mark.parametrize(
    ("figure", "measured", "found"),
    [
        ("97.99% (96.34 to 98.90)", [97.994, 96.341, 98.899], "same"),
        ("98.0%", [97.99, 96.34, 98.90], "same"),
        ("97.99% (96.34 to 98.90)", [97.99, 96.0, 98.9], "within the interval"),
        ("97.99% (96.34 to 98.90)", [96.5, 94, 97.5], "within the interval"),
        ("87.3", [84.0, 78.0, 88.0], "within the interval"),  # the paper's, which has none
        ("97.99% (96.34 to 98.90)", [99.2, 98.5, 99.6], OUTSIDE),
        ("87.3", [70.0, 62.0, 77.0], OUTSIDE),
        ("7,618", [7618], "same"),
        ("104", [107], "within 5%"),
        ("104", [110], OUTSIDE),
        ("-0.50", [0.5], OUTSIDE),
        ("3.9e-05", [3.9e-05], "same"),
        ("3.9e-05", [0.5], OUTSIDE),
    ],
)
def test_verdict(figure, measured, found):
    assert verdict(figure, measured, 0.05) == found


# ---- from the command line ----


def test_a_run_is_measured_once_and_compared(run_script, tmp_path):
    first = run_script("scripts/reproduce.py", "clip")
    assert first.code == 0, first.out + first.err
    assert len(re.findall(r"97\.59% \(95\.83 to 98\.61\) *measured 97\.59 \(95\.83 to 98\.61\) *same", first.out)) == 2
    kept = tmp_path / "data" / "reproduce" / "clip.txt"
    kept.write_text(
        kept.read_text().replace("97.59%  (95% interval 95.83 to 98.61)", "50.00%  (95% interval 45 to 55)")
    )
    again = run_script("scripts/reproduce.py", "clip")
    assert again.code == 1 and "1 done before" in again.out and again.out.count(OUTSIDE) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "nothing: no part and no run of docs/numbers.toml; its parts are embedded:races, "),
        (["paper"], "--hours: wanted"),
        (["paper", "--hours", 0], "--hours: wanted"),
        (["clip", "--hours", 1], "--hours: wanted"),
        (["*", "--hours", 1], "--hours: wanted"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(run_main, words, says):
    done = run_main("scripts/reproduce.py", *words)
    assert done.code == 2 and says in done.err


def test_the_list_runs_nothing(run_main, tmp_path):
    done = run_main("scripts/reproduce.py", "embedded", "--list")
    assert done.code == 0 and re.search(r"^embedded:races +digits +\d+ figures +\d", done.out, re.M)
    assert "paper" not in done.out.partition("no command gives")[0] and not list(tmp_path.iterdir())


def test_time_is_shared_out():
    share_out = import_script("scripts/reproduce.py").share_out
    sizes, costs = (
        {"small": 60, "large": 10_000, "dear": 10_000, "few": 2},
        {"small": 1, "large": 2, "dear": 50, "few": 30},
    )
    # a quarter of 4000 s is 20 images of the dear, too few; of a third, the small and the few need 60 s
    assert share_out(4000, costs, sizes) == {"small": 60, "few": 2, "large": (4000 - 60 - 60) / 2}
    assert share_out(10, {"large": 2}, sizes) == {}


@pytest.fixture
def there(tmp_path) -> dict[str, str]:
    """A tiny pipeline, and where two of the paper's data sets lie: a picture of each pet, two examples."""
    tiny.save(tiny.sd, tmp_path / "model")
    at = tmp_path / "datasets" / "pets" / "oxford-iiit-pet"
    breeds = [name.replace(" ", "_") for name in read_prompts(PROMPTS / prompts_file("pets")).names]
    for k, breed in enumerate(breeds):
        picture(at / f"images/{breed}_1.jpg", (7 * k, 100, 100))
    write(at / "annotations/test.txt", "".join(f"{breed}_1 {k} 1 1\n" for k, breed in enumerate(breeds, 1)))
    own_examples(tmp_path / "datasets" / "winoground", 2, tag="Object")
    return {"DATASET_ROOT": str(tmp_path / "datasets")}


def test_the_paper_on_what_is_there(run_script, tmp_path, there):
    """From a speed that is measured to a verdict; what does not fit, or is not there, is named."""
    given = ["--version", tmp_path / "model", "--batch_size", 64]
    done = run_script("scripts/reproduce.py", "paper:winoground", "--hours", 24, *given, env=there)
    assert re.search(r"paper-winoground \^Object#2 +claimed 46\.1 +measured \d", done.out), done.out + done.err
    assert done.code == (OUTSIDE in done.out)
    assert "skipped: README.md, 29.2: paper-winoground printed no figure" in done.out  # no example is of that kind
    more = run_script("scripts/reproduce.py", "paper", "--hours", 1, "--nfe_per_second", 10, *given, env=there)
    assert "1 runs, 1 done before" in more.out, more.out + more.err
    assert "skipped: paper-pets: its share of the time is less than 37 images take, 2.1 hours" in more.out
    assert "skipped: paper-food: dataset 'food' not found" in more.out


@pytest.mark.slow
def test_the_paper_on_a_picture_of_each_pet(run_script, tmp_path, there):
    given = ["--version", tmp_path / "model", "--batch_size", 64]
    done = run_script("scripts/reproduce.py", "paper:pets", "--hours", 24, *given, env=there)
    assert re.search(r"paper-pets acc +claimed 87\.3 +measured \d", done.out), done.out + done.err
    assert "1 done before" in run_script("scripts/reproduce.py", "paper:pets", "--hours", 24, *given, env=there).out
