"""What the report page is put together from: its look, and values, lists and tables as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from colab_helpers.language import tr
from colab_helpers.machine import GIB
from colab_helpers.svg import clock_text, number

# Readable on a phone, in the dark and on paper.
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1c1c1e; --soft: #5f6368; --line: #d9d9de;
  --panel: #f5f5f7; --good: #00724f; --bad: #b3261e; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --page: #161618; --text: #ececf0; --soft: #a5a5ad;
  --line: #3a3a40; --panel: #212124; --good: #4cc79a; --bad: #ff8a80; --warn: #e8b04a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .2rem 0 .8rem; }
h2 { font-size: 1.15rem; margin: 1.8rem 0 .6rem; }
.soft, figcaption, th small { color: var(--soft); }
.badge { font-size: .9rem; font-weight: 600; padding: .15rem .6rem; border-radius: 1rem;
  border: 1.5px solid currentColor; vertical-align: middle; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.warnings { border-left: 4px solid var(--warn); background: var(--panel); padding: .6rem 1rem .6rem 2rem;
  margin: 0 0 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .5rem; margin: 0; }
.tiles div { background: var(--panel); border-radius: .5rem; padding: .5rem .7rem; }
.tiles dt { color: var(--soft); font-size: .8rem; } .tiles dd { margin: 0; font-size: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; } .facts th { width: 13rem; font-weight: 400; color: var(--soft); }
.overview th, .overview td { overflow-wrap: normal; white-space: nowrap; }
.overview td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 10rem; }
.overview .figure { text-align: right; }
a { color: inherit; }
details { border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .8rem; margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; } summary span { font-weight: 400; }
ul { margin: 0; padding-left: 1.1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .6rem; margin: .6rem 0; }
figure { margin: 0; } .pictures img { display: block; max-width: 100%; height: auto; border-radius: .3rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem; }
.charts svg { width: 100%; }
@media (max-width: 34rem) { .facts th { width: 40%; } .pictures figure { width: calc(50% - .3rem); } }
@media print { :root { color-scheme: light; --page: #fff; --text: #000; --soft: #444; --line: #bbb;
  --panel: #f2f2f2; --good: #005a3e; --bad: #9a1c15; --warn: #6e4800; }
  body { max-width: none; font-size: 11px; }
  details::details-content { content-visibility: visible; block-size: auto; }
  figure, tr, .tiles div { break-inside: avoid; } .overview { font-size: 10px; } }
""".strip()


def text(value: object) -> str:
    """A value as it may stand in text and in attributes; undecodable parts of file names become ``?``."""
    return escape(str(value).encode("utf-8", "replace").decode())


def bullets(lines: Iterable[str], *, kind: str = "") -> str:
    """A list of lines of plain text, of a CSS class; empty without lines."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    attribute = f' class="{kind}"' if kind else ""
    return f"<ul{attribute}>{items}</ul>" if items else ""


def soft(line: str) -> str:
    """A line of plain text that is less important than others."""
    return f'<p class="soft">{text(line)}</p>'


def facts_table(rows: Iterable[tuple[str, str | None]]) -> str:
    """A table of names and values, which are HTML already; rows without a value are left out."""
    lines = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows if value)
    return f'<table class="facts">{lines}</table>'


def size(count: float) -> str:
    """Bytes of a file, in steps of 1000."""
    for unit in (tr("bytes"), "kB", "MB"):
        if count < 1000:
            return f"{number(count)} {unit}"
        count /= 1000
    return f"{number(count)} GB"


def memory(count: float) -> str:
    """Bytes of memory, in steps of 1024."""
    return f"{number(count / GIB)} GiB" if abs(count) >= GIB else f"{count / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Tenths of seconds below a minute, else minutes and seconds."""
    return f"{seconds:.1f} s" if seconds < 60 else clock_text(seconds)
