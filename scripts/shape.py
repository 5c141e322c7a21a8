"""The shape of the package: files, lines, functions, imports, and the arrows between its rooms. Prints a table.

`scripts/shape.py [ROOT ...]` sets several checkouts beside each other, such as `git worktree add /tmp/before COMMIT`.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

PACKAGE = "cxrbatch"


def python_files(root: Path) -> dict[str, Path]:
    """Return the modules of the package by dotted name."""
    files = sorted(path for path in (root / PACKAGE).rglob("*.py") if "templates" not in path.parts)
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports of the package, each name also as the module that it may be."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def lines_of(tree: ast.AST, *kinds: type[ast.stmt]) -> list[int]:
    """Return how many lines each statement of these kinds takes."""
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, kinds) and isinstance(node, ast.stmt)
    ]


def room_of(module: str, modules: dict[str, Path]) -> str:
    """Return the folder that a module lies in, as a dotted name."""
    return module if modules[module].name == "__init__.py" else module.rpartition(".")[0]


def measure(root: Path) -> dict[str, str]:
    """Return the figures of one checkout, by name."""
    modules = python_files(root)
    trees = {name: ast.parse(path.read_text()) for name, path in modules.items()}
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules.items()}
    importers: defaultdict[str, set[str]] = defaultdict(set)
    for name, tree in trees.items():
        for target in set(imported(tree)) & modules.keys():
            importers[target].add(name)
    arrows = {(room_of(by, modules), room_of(of, modules)) for of, all_by in importers.items() for by in all_by}
    functions = [n for tree in trees.values() for n in lines_of(tree, ast.FunctionDef, ast.AsyncFunctionDef)]
    imports = sum(n for tree in trees.values() for n in lines_of(tree, ast.Import, ast.ImportFrom))
    folders = Counter(room_of(name, modules) for name in modules if modules[name].name != "__init__.py")
    largest, in_largest = folders.most_common(1)[0]
    written = [lengths[name] for name in modules if modules[name].name != "__init__.py"]
    return {
        "files": f"{len(modules)}",
        "lines": f"{sum(lengths.values()):,}",
        "files at the top": f"{sum(path.parent == root / PACKAGE for path in modules.values())}",
        "rooms (folders)": f"{len(folders)}",
        "largest room": f"{largest.removeprefix(PACKAGE + '.')}, {in_largest} files",
        "arrows between rooms": f"{sum(by != of for by, of in arrows)}",
        "median file, lines": f"{median(written):g}",
        "files over 300 lines": f"{sum(n > 300 for n in written)}",
        "modules with one importer": f"{sum(len(importers[name]) == 1 for name in modules)}",
        "import lines, %": f"{100 * imports / sum(lengths.values()):.1f}",
        "function, median / longest": f"{median(functions):g} / {max(functions)}",
        "README.md, lines": f"{len((root / 'README.md').read_text().splitlines())}",
    }


def main() -> None:
    """Print the figures of each checkout, a column each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roots", nargs="*", type=Path, default=[Path(__file__).parents[1]], metavar="ROOT")
    roots: list[Path] = parser.parse_args().roots
    columns = [measure(root.resolve()) for root in roots]
    print("| | " + " | ".join(root.resolve().name for root in roots) + " |")
    print("| --- " * (len(roots) + 1) + "|")
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


if __name__ == "__main__":
    main()
