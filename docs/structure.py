"""Print the rooms of the package, how large they are, and what they import of each other.

A room is a module or a folder of the package's top, as in ``tests/unit/test_imports.py``.

    python docs/structure.py [CHECKOUT]
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import grimp

PACKAGE = "admin_init"
Graph = dict[str, set[str]]


def imports(checkout: Path) -> Graph:
    """Return what every module imports of the package, in functions and for types alike."""
    sys.path.insert(0, str(checkout))
    found = grimp.build_graph(PACKAGE, cache_dir=None)
    return {module: found.find_modules_directly_imported_by(module) for module in found.modules}


def between_rooms(graph: Graph) -> Graph:
    """Return what every room imports of others; the package's top has none, which all import."""
    rooms: Graph = defaultdict(set)
    for module, others in graph.items():
        for other in others:
            if PACKAGE not in (module, other) and room(module) != room(other):
                rooms[room(module)].add(room(other))
    return rooms


def room(module: str) -> str:
    return module.split(".")[1]


def circles(graph: Graph) -> list[set[str]]:
    """Return the sets of nodes of which each can be reached from every other."""
    reached = {node: _reach(graph, node) for node in graph}
    found = {
        frozenset(other for other in reached[node] if node in reached.get(other, ()))
        for node in graph
        if node in reached[node]
    }
    return [set(circle) for circle in found]


def _reach(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for other in graph.get(todo.pop(), set()) - seen:
            seen.add(other)
            todo.append(other)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[1])
    root = parser.parse_args().checkout.resolve() / PACKAGE
    graph = imports(root.parent)
    rooms = between_rooms(graph)
    lines = {
        path.relative_to(root): len(path.read_text("utf-8").splitlines())
        for path in root.rglob("*.py")
    }
    print("| room | files | lines | imports of |\n| --- | --- | --- | --- |")
    sizes: dict[str, list[int]] = defaultdict(list)
    for path, count in lines.items():
        sizes[path.parts[0].removesuffix(".py")].append(count)
    for name, counts in sorted(sizes.items()):
        print(f"| {name} | {len(counts)} | {sum(counts)} | {', '.join(sorted(rooms[name]))} |")
    by_size = sorted(lines.items(), key=lambda item: -item[1])
    large = [f"{path} ({count})" for path, count in by_size if count > 300]
    print(
        f"\n{len(lines)} files, {sum(lines.values())} lines; over 300: {', '.join(large) or 'none'}"
    )
    print(f"{sum(map(len, graph.values()))} imports between {len(graph)} modules")
    print(f"{sum(map(len, rooms.values()))} arrows between {len(rooms)} rooms")
    for name, circular in (("modules", circles(graph)), ("rooms", circles(rooms))):
        print(f"circles of {name}: {'; '.join(', '.join(sorted(c)) for c in circular) or 'none'}")


if __name__ == "__main__":
    main()
