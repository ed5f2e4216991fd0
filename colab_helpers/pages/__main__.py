"""Write the HTML report of a run: ``python -m colab_helpers.pages FOLDER``.

Runs as a separate process, so that a decoder that crashes on a picture costs the page and not the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from colab_helpers.startup import begin_startup, exit_immediately, finish_startup

if __name__ == "__main__":
    begin_startup()

from colab_helpers.errors import ColabHelpersError
from colab_helpers.files import absolute
from colab_helpers.language import LANGUAGE_CHOICES, printable, tr, use_language
from colab_helpers.pages.report import write_page


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``report.html`` beside ``report.json``; return the exit code: 1 if that failed."""
    parser = argparse.ArgumentParser(prog="python -m colab_helpers.pages", description=__doc__)
    parser.add_argument("folder", type=Path, help="output folder of a batch")
    parser.add_argument("--report", type=Path, help="report to render (default: report.json in the folder)")
    parser.add_argument("--language", choices=LANGUAGE_CHOICES, default="auto", help="language of the page")
    options = parser.parse_args(argv)
    with use_language(options.language):
        try:
            page = write_page(absolute(options.folder), options.report and absolute(options.report))
        except ColabHelpersError as error:
            print(tr("error: {error}", error=error), file=sys.stderr)
            return 1
    print(printable(str(page)))
    return 0


if __name__ == "__main__":
    finish_startup()
    exit_immediately(main())
