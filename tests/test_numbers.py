"""Every measured number of the pages stands in docs/numbers.toml, and what stands there can be run and is still claimed."""

import re
import shlex

import pytest
from conftest import ROOT, import_script
from test_docs import parse

reproduce = import_script("scripts/reproduce.py")
LEDGER = reproduce.read_ledger()
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
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
