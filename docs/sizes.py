"""Print the size of the code by subpackage: ``python docs/sizes.py``.

Line counts include blank lines and docstrings; a function is counted from ``def`` to its last line.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE, MAX_FUNCTION = 350, 50


def function_lengths(path: Path) -> list[tuple[int, str]]:
    """Return the number of lines and the name of every function of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [((node.end_lineno or node.lineno) - node.lineno + 1, node.name) for node in functions]


def main() -> None:
    """Print the table."""
    for package in ("colab_helpers", "tests", "benchmarks"):
        lines = {path: len(path.read_text().splitlines()) for path in (ROOT / package).rglob("*.py")}
        functions = [(*item, path) for path in lines for item in function_lengths(path)]
        subpackages: Counter[str] = Counter()
        for path, count in lines.items():
            parts = path.relative_to(ROOT / package).parts
            subpackages[parts[0] if len(parts) > 1 else "(top level)"] += count
        middle = median(length for length, *_ in functions)
        print(f"{package}: {sum(lines.values())} lines, median function length {middle}")
        print("  " + ", ".join(f"{name} {count}" for name, count in subpackages.most_common()))
        for path, count in sorted(lines.items(), key=lambda item: -item[1]):
            if count > MAX_FILE:
                print(f"  file over {MAX_FILE}: {path.relative_to(ROOT)} {count}")
        for length, name, path in sorted(functions, key=lambda item: -item[0]):
            if length > MAX_FUNCTION:
                print(f"  function over {MAX_FUNCTION}: {path.relative_to(ROOT)} {name} {length}")


if __name__ == "__main__":
    main()
