"""Render people with exact ground truth: ``python -m tests.people DIR``.

Writes ``source/`` (portraits), ``targets/`` (clips), ``models/`` (the stand-in networks) and ``truth/``
(boxes, landmarks and the true result of every swap) into DIR. With ``--ship`` it writes the demo shipped
with the product instead.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from tests.people.clip import make_demo
from tests.people.ship import ship_demo


def _size(text: str) -> tuple[int, int]:
    width, height = (int(part) for part in text.lower().split("x"))
    return width, height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--size", type=_size, default=(640, 360), metavar="WxH")
    parser.add_argument("--fps", type=Fraction, default=Fraction(25), metavar="30000/1001")
    parser.add_argument("--people", type=int, default=2, help="maximum number at once; 0 for none")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--cast", type=lambda text: text.split(","), help="comma-separated names")
    parser.add_argument("--ship", action="store_true", help="write the shipped demo; ignores other options")
    options = vars(parser.parse_args())
    if options.pop("ship"):
        ship_demo(options["directory"])
        return
    make_demo(options.pop("directory"), **options)


if __name__ == "__main__":
    main()
