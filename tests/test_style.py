"""How statements are written: one does one thing. Checked on the code that is shipped and on the studies."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    *sorted(ROOT.glob("*.py")),
    *sorted((ROOT / "diffusion").rglob("*.py")),
    *sorted((ROOT / "scripts").glob("*.py")),
    *sorted((ROOT / "studies").glob("*.py")),
]
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
MOST_PARAMETERS = 8
PUBLIC = {"classify", "score", "load_model"}  # keyword options of the Python API
NO_NAMES = {"told", "tell", "tells", "say", "says", "said", "given", "known", "own"}  # they name nothing


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def inside(node: ast.AST, kind) -> bool:
    """Whether a node of this kind lies below the node."""
    return any(isinstance(below, kind) for below in ast.walk(node) if below is not node)


def conditions(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        return [node.test]
    return node.ifs if isinstance(node, ast.comprehension) else []


def names(tree: ast.Module) -> list[tuple[str, int]]:
    """The names that a file binds, and the line of each."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append((node.id, node.lineno))
        elif isinstance(node, ast.arg):
            found.append((node.arg, node.lineno))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((node.name, node.lineno))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_statement_does_one_thing(path):
    faults = []
    for node in ast.walk(parsed(path)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, COMPREHENSIONS) and inside(node, COMPREHENSIONS):
            faults.append((line, "a comprehension in a comprehension"))
        for test in conditions(node):
            if isinstance(test, ast.NamedExpr) or inside(test, ast.NamedExpr):
                faults.append((test.lineno, "an assignment in a condition"))
        if isinstance(node, ast.IfExp | ast.JoinedStr) and inside(node, ast.IfExp):
            faults.append((line, "a conditional expression in another or in an f-string"))
    assert faults == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_have_few_parameters(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef) and node.name not in PUBLIC:
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert len(parameters) <= MOST_PARAMETERS, node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_name_something(path):
    found = [(name, line) for name, line in names(parsed(path)) if NO_NAMES & set(name.lower().split("_"))]
    assert found == []
