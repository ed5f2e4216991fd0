"""Changes put into the text of a map of people, which otherwise stays byte for byte as the user has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

_Edit = tuple[int, int, str]
_Fields = dict[str, tuple[yaml.Node, yaml.Node]]
DEPTH = 2
"""Mappings that have a line for each of their names: the map and its people; what is inside is one value."""


def edited(text: str, before: Mapping[str, Any], after: Mapping[str, Any], called: Mapping[str, str]) -> str:
    """Return the text with other values in it; the caller checks that it reads as it should.

    Args:
        text: A map that can be read.
        before: Its ``default``, ``record`` and ``people``, each with all fields.
        after: The same as it should be.
        called: What each of the people is called in the text, by name; those it does not name are new.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    # Sorted by place alone: what is added behind the last of the people goes before what is added to the map.
    edits = sorted(_edits(text, root, before, after, called, DEPTH), key=lambda edit: edit[0])
    for start, stop, part in reversed(edits):
        text = text[:start] + part + text[stop:]
    return text


def _edits(
    text: str,
    node: yaml.Node | None,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    called: Mapping[str, str],
    depth: int,
) -> Iterator[_Edit]:
    """What makes another mapping of one: what changes, what goes, and new lines after the last that stays."""
    fields = _fields(node)
    own = called if depth == DEPTH - 1 else {name: name for name in after}
    new: dict[str, Any] = {}
    for name, value in after.items():
        old = own.get(name, "")
        if old not in fields:
            new |= {name: value} if value != before.get(old) else {}
            continue
        key, inside = fields[old]
        if old != name:
            yield key.start_mark.index, key.end_mark.index, flow(name)
        if depth and isinstance(value, Mapping) and value:
            yield from _edits(text, inside, before[old], value, called, depth - 1)
        elif value != before[old]:
            yield key.end_mark.index, _end(inside), f": {flow(value)}"
    gone = {name for name in before if name in fields} - {*own.values()}
    for key, inside in (fields[name] for name in gone):
        yield text.rfind("\n", 0, key.start_mark.index) + 1, _line_end(text, _end(inside)) + 1, ""
    if new and isinstance(node, yaml.MappingNode) and node.flow_style:
        end = node.end_mark.index - 1
        yield end, end, "".join(f", {flow(name)}: {flow(value)}" for name, value in new.items())
    elif new:
        kept = [nodes for name, nodes in fields.items() if name not in gone]
        indent = " " * (kept[0][0].start_mark.column if kept else 2 * (DEPTH - depth))
        end = _line_end(text, _end(kept[-1][1]) if kept else _end(node) if node else len(text))
        yield end, end, "".join(f"\n{line}" for name in new for line in lines(name, new[name], indent, depth))


def lines(name: str, value: object, indent: str = "", depth: int = DEPTH) -> Iterator[str]:
    """Write a name and its value: a mapping with what is not empty in it on lines of their own."""
    if depth and isinstance(value, Mapping):
        yield f"{indent}{flow(name)}:"
        for inner, part in value.items():
            if part:
                yield from lines(inner, part, f"{indent}  ", depth - 1)
    else:
        yield f"{indent}{flow(name)}: {flow(value)}"


def read(text: str) -> tuple[yaml.Node | None, Any]:
    """Parse a map; what is not in ``settings`` are words, whatever else YAML takes them for.

    YAMLError where it is none.
    """
    loader = yaml.SafeLoader(text)
    try:
        root: yaml.Node | None = loader.get_single_node()
        top = _fields(root)
        words = [top[name][1] for name in ("record", "default") if name in top]
        for key, value in _fields(top["people"][1]).values() if "people" in top else ():
            words += [
                key,
                *(part for _, part in _fields(value).values()),
            ]  # settings are a mapping: they stay
        for word in words:
            for node in word.value if isinstance(word, yaml.SequenceNode) else [word]:
                if isinstance(node, yaml.ScalarNode) and node.value and node.tag != "tag:yaml.org,2002:merge":
                    node.tag = "tag:yaml.org,2002:str"
        return root, None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def flow(value: object) -> str:
    """Write a value on one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("...").rstrip("\n")


def _fields(node: yaml.Node | None) -> _Fields:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: (key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _end(node: yaml.Node) -> int:
    """Where the last word of something ends; what stands behind it, such as a comment, does not count."""
    inside = node.value if isinstance(node, yaml.CollectionNode) and not node.flow_style else ()
    if not inside:
        return int(node.end_mark.index)
    last = inside[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _line_end(text: str, index: int) -> int:
    end = text.find("\n", index)
    return len(text) if end < 0 else end


def line_of(node: yaml.Node | None, place: Sequence[int | str]) -> int | None:
    """Line, from 0, of what stands at a place of a text, or of the innermost thing around it.

    None of the text as a whole.
    """
    if not place or node is None:
        return None
    at = found = node
    for step in place:
        if isinstance(found, yaml.MappingNode):
            keys = {key.value: (key, value) for key, value in found.value}
            if step not in keys:
                break
            at, found = keys[step]
        elif isinstance(found, yaml.SequenceNode) and isinstance(step, int):
            at = found = found.value[step]
    return int(at.start_mark.line)


def double_key(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """Return the first key that stands twice in one mapping, of which YAML would drop one."""
    if not isinstance(node, yaml.MappingNode):
        return None
    known: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in known:
            return key
        known.add(key.value)
        if (inside := double_key(value)) is not None:
            return inside
    return None
