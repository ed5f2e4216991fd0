"""Changes put into the text of a map of people, which otherwise stays byte for byte as the user has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

_Edit = tuple[int, int, str]
_Fields = dict[str, tuple[yaml.Node, yaml.Node]]


def edited(text: str, before: Mapping[str, Any], after: Mapping[str, Any], called: Mapping[str, str]) -> str:
    """Return the text with other values in it; the caller checks that it reads as it should.

    Args:
        text: A map that can be read.
        before: Its ``default``, ``record`` and ``people``, each with all fields.
        after: The same as it should be.
        called: What each of the people is called in the text, by name; those it does not name are new.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    top = _fields(root)
    edits: list[_Edit] = []
    for name in ("default", "record"):
        if after[name] != before[name] and name in top:
            edits.append(_put(top[name], after[name]))
        elif after[name] != before[name]:
            start = next(iter(top.values()))[0].start_mark.index if top else len(text)
            edits.append((start, start, f"{name}: {flow(after[name])}\n"))
    people = _fields(top["people"][1]) if "people" in top else {}
    for name, old in called.items():
        key, value = people[old]
        edits += [] if name == old else [(key.start_mark.index, key.end_mark.index, flow(name))]
        edits += _changes(text, value, before["people"][old], after["people"][name])
    gone = [nodes for old, nodes in people.items() if old not in called.values()]
    for key, value in gone:
        edits.append((text.rfind("\n", 0, key.start_mark.index) + 1, _line_end(text, _end(value)) + 1, ""))
    new = {name: person for name, person in after["people"].items() if name not in called}
    if new:
        edits.append(_added(text, new, top, [nodes for nodes in people.values() if nodes not in gone]))
    for start, stop, part in sorted(edits, reverse=True):
        text = text[:start] + part + text[stop:]
    return text


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


def entry(name: str, person: Mapping[str, Any], indent: str) -> str:
    """Return somebody's lines: a name, and below it what is not empty."""
    shown = (f"{field}: {flow(value)}" for field, value in person.items() if value)
    return f"{indent}{flow(name)}:\n" + "".join(f"{indent}  {line}\n" for line in shown)


def flow(value: object) -> str:
    """Write a value on one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("...").rstrip("\n")


def _added(
    text: str, new: Mapping[str, Any], top: _Fields, kept: Sequence[tuple[yaml.Node, yaml.Node]]
) -> _Edit:
    """Put people after the last of those who stay."""
    indent = " " * (kept[0][0].start_mark.column if kept else 2)
    lines = "".join(entry(name, person, indent) for name, person in new.items()).rstrip("\n")
    if "people" not in top:
        return len(text), len(text), f"{'' if text.endswith(chr(10)) else chr(10)}people:\n{lines}\n"
    end = _line_end(text, max(map(_end, (value for _, value in kept)), default=_end(top["people"][0])))
    return end, end, f"\n{lines}"


def _changes(
    text: str, node: yaml.Node, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[_Edit]:
    """What changes of one of the people: values are replaced, or put on lines of their own at the end."""
    fields = _fields(node)
    for name, value in after.items():
        if value == before[name]:
            continue
        if name in fields:
            yield _put(fields[name], value)
        elif isinstance(node, yaml.MappingNode) and node.flow_style:
            yield node.end_mark.index - 1, node.end_mark.index - 1, f", {name}: {flow(value)}"
        else:
            column, end = next(iter(fields.values()))[0].start_mark.column, _line_end(text, _end(node))
            yield end, end, f"\n{' ' * column}{name}: {flow(value)}"


def _put(nodes: tuple[yaml.Node, yaml.Node], value: object) -> _Edit:
    """Write another value behind a key."""
    key, node = nodes
    start, end = node.start_mark.index, _end(node)
    if isinstance(node, yaml.ScalarNode) and start < end:
        return start, end, flow(value)
    return key.end_mark.index, max(end, key.end_mark.index + 1), f": {flow(value)}"


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
