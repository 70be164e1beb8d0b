"""The commands that the documents print, and tables of theirs."""

import itertools
import re
import shlex

from helpers import ROOT


def commands(text: str) -> list[list[str]]:
    """The simple commands in the ```bash blocks of a document, as words, without assignments before them.

    A loop counts as one turn, with the first value of its variable.
    """
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
        for variable, value in re.findall(r"^for (\w+) in (\w+)", block, re.M):
            block = re.sub(rf"\$({variable}\b|{{{variable}}})", value, block)
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set(";&|"):
                    found += [words] if words else []
                    words = []
                elif words or not re.fullmatch(r"do|\w+=.*", word):
                    words.append(word)
    return found


FOLDERS = (ROOT, ROOT / "docs", ROOT / "findings", ROOT / "studies")
DOCUMENTS = {
    str(path.relative_to(ROOT)): commands(path.read_text()) for folder in FOLDERS for path in folder.glob("*.md")
}


def named(words: list[str]) -> str | None:
    """The data set of a command."""
    return words[words.index("--dataset") + 1] if "--dataset" in words else None


def table(page: str, *heads: str) -> list[list[str]]:
    """The rows of a page's table whose columns begin with `heads`, each as its cells."""
    lines = (ROOT / page).read_text().splitlines()
    (start,) = [k for k, line in enumerate(lines) if cells(line)[: len(heads)] == list(heads)]
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [cells(line) for line in rows]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def presets() -> dict[str, tuple[list[str], int, list[str]]]:
    """Data set -> the words of its command with a preset, NFE, and what else its row in commands.md says."""
    found = {}
    for name, command, nfe, *more in table("commands.md", "data set", "command"):
        found[name.strip("`")] = (shlex.split(command.strip("`")), int(nfe.replace(",", "")), more)
    return found


def stated() -> dict[str, tuple[int, int]]:
    """Data set -> classes, NFE, from the tables of commands.md."""
    rows = table("commands.md", "data set", "classes", "images")
    return {name.strip("`"): (int(classes), presets()[name.strip("`")][1]) for name, classes, *_ in rows}
