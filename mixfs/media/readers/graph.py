"""A ComfyUI graph in its API form: nodes by id, inputs that are values or links, and bounded ways to walk it.

    {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["4", 0], …}, "_meta": {"title": …}}, …}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_NODES = 20_000
MAX_STEPS = 20_000
MAX_DEPTH = 60
MAX_TEXT = 200_000


@dataclass(frozen=True, slots=True)
class Link:
    """An input that takes output `slot` of another node."""

    id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Node:
    id: str
    kind: str
    inputs: dict[str, Any]
    title: str = ""

    def links(self) -> Iterator[tuple[str, Link]]:
        """The inputs that are links, in the order written."""
        for name, value in self.inputs.items():
            if isinstance(value, Link):
                yield name, value


class Graph:
    """Nodes by id, plus a budget of steps that all walks together may take: a cycle or a flood ends, it never hangs."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self.steps = 0

    def node(self, link: object) -> Node | None:
        """The node at the other end of an input; None for a value, a dangling link, or when the budget is spent."""
        self.steps += 1
        if not isinstance(link, Link) or self.steps > MAX_STEPS:
            return None
        return self.nodes.get(link.id)


def from_api(data: Any) -> Graph | None:
    """A graph out of parsed API JSON; None when it is none."""
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict) and "class_type" not in data:
        data = data["prompt"]
    if not isinstance(data, dict):
        return None
    nodes: dict[str, Node] = {}
    for key, item in list(data.items())[:MAX_NODES]:
        if not isinstance(item, dict) or not isinstance(item.get("class_type"), str):
            continue
        inputs = item.get("inputs")
        meta = item.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        nodes[str(key)] = Node(
            id=str(key),
            kind=item["class_type"],
            inputs={n: input_value(v) for n, v in inputs.items()} if isinstance(inputs, dict) else {},
            title=title if isinstance(title, str) else "",
        )
    return Graph(nodes) if nodes else None


def input_value(value: Any) -> Any:
    """A node's input as it is in JSON: `["4", 0]` is a link, all else a value."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int:
        return Link(str(value[0]), value[1])
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    return value
