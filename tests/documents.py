"""The commands that the documents print, and the table of data sets of commands.md."""

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


def stated() -> dict[str, tuple[int, int]]:
    """The first table of commands.md, which ends in words: data set -> classes, NFE."""
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) \| ([\d,]+) \| (?![\d,]+ )", (ROOT / "commands.md").read_text(), re.M)
    return {name: (int(classes), int(nfe.replace(",", ""))) for name, classes, nfe in rows}
