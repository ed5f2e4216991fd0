"""Print how large the code is, room by room: ``python docs/sizes.py``.

Lines count whole files, blank lines and docstrings included; a function's length is from ``def`` to its end.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE, MAX_FUNCTION = 350, 50


def lengths_of_functions(path: Path) -> list[tuple[int, str]]:
    """Lines and name of every function of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [((node.end_lineno or node.lineno) - node.lineno + 1, node.name) for node in found]


def main() -> None:
    """Print the table."""
    for package in ("colab_helpers", "tests", "benchmarks"):
        lines = {path: len(path.read_text().splitlines()) for path in (ROOT / package).rglob("*.py")}
        functions = [(*item, path) for path in lines for item in lengths_of_functions(path)]
        rooms: Counter[str] = Counter()
        for path, count in lines.items():
            parts = path.relative_to(ROOT / package).parts
            rooms[parts[0] if len(parts) > 1 else "(files)"] += count
        print(f"{package}: {sum(lines.values())} lines, functions' median {median(n for n, *_ in functions)}")
        print("  " + ", ".join(f"{room} {count}" for room, count in rooms.most_common()))
        for path, count in sorted(lines.items(), key=lambda item: -item[1]):
            if count > MAX_FILE:
                print(f"  file over {MAX_FILE}: {path.relative_to(ROOT)} {count}")
        for length, name, path in sorted(functions, key=lambda item: -item[0]):
            if length > MAX_FUNCTION:
                print(f"  function over {MAX_FUNCTION}: {path.relative_to(ROOT)} {name} {length}")


if __name__ == "__main__":
    main()
