"""A config of several files: what `include` names, read and merged into one tree whose values know their file.

Rules:
- The order is fixed: a file, then what it includes, in the order of its list; of a folder or a pattern the files whose
  names end in `.yaml` or `.yml`, sorted by name. Other files are ignored, and each file is read once, however it is
  named.
- Maps are merged. A backend, model or key is described in one file only. A scalar may be repeated, not changed; `null`
  yields to anything. Lists at the top of the file are joined in the order of the files, others are like scalars.
- Each clash is a problem at the later place, which names the earlier one. No problem shows a value.
- A folder or pattern that gives no file is a problem: a folder that is just being filled must not look like a config.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from backends.facts.launching import looked_in
from gateway.config.disk import SUFFIXES, Files
from gateway.config.problems import ConfigError, Problem, quote
from gateway.config.substitution import Substitution, reason
from gateway.config.yaml_source import Node, Place, Source, parse

FILE_BYTES = 4 * 2**20
"""The largest config file."""
MOST_FILES = 1000
"""The most files that one config is made of."""
INCLUDE = "include"
_ENDS = " or ".join(SUFFIXES)


@dataclass(frozen=True, slots=True)
class Gathered:
    """One tree of all files of a config, their names in the order in which they were read, and their contents."""

    source: Source
    names: tuple[str, ...]
    contents: tuple[bytes, ...]


def gather(path: str, environ: Mapping[str, str], files: Files, named: Collection[str]) -> Gathered:
    """Read a config file and all that it includes, and fill in their substitutions.

    `named` are the sections whose entries the user names. Raises ConfigError where a file cannot be read or is no
    YAML map.
    """
    reader = _Reader(environ, files)
    reader.add(path, None)
    if reader.fatal:
        raise ConfigError([*reader.fatal, *reader.problems])
    merge = _Merge(named)
    root = merge.all([source.root for source in reader.sources])
    place = root.place
    if root.content is None:
        raise ConfigError([Problem(place.file, place.line, place.column, "the file is empty")])
    problems = [*reader.problems, *merge.problems]
    return Gathered(Source(path, root, problems), tuple(reader.names), tuple(reader.contents))


class _Reader:
    """A reader of one file after the other, each once."""

    def __init__(self, environ: Mapping[str, str], files: Files) -> None:
        self._files = files
        self._substitution = Substitution(environ, files)
        self._known: set[str] = set()
        self.sources: list[Source] = []
        self.names: list[str] = []
        self.contents: list[bytes] = []
        self.problems: list[Problem] = []
        self.fatal: list[Problem] = []
        """Why what is there cannot be taken for the config."""

    def add(self, path: str, named_at: Place | None, name: str = "") -> None:
        """Read a file and what it includes.

        `named_at` is where it was included, by `name`; None for the file that is to be read at all.
        """
        found = self._content(path, named_at, name)
        if found is None:
            return
        try:
            source = parse(found, path, "a config file", self._substitution)
        except ConfigError as error:
            self.fatal += error.problems
            return
        self.names.append(path)
        self.contents.append(found)
        root = source.root
        if root.content is not None and not isinstance(root.content, dict):
            self._fail(root.place, "expected a map with keys such as 'backends'")
            return
        self.sources.append(source)
        self.problems += source.problems
        include = root.child(INCLUDE)
        for item in include.content if include and isinstance(include.content, list) else ():
            if isinstance(item.content, str) and item.content and not item.broken:
                self._include(os.path.join(os.path.dirname(path), item.content), item)

    def _content(self, path: str, named_at: Place | None, name: str) -> bytes | None:
        """Return a file's content; None where it was read before or cannot be read."""
        at = named_at or Place(1, 1, path)
        of = f" {quote(name)}" if named_at else ""
        try:
            identity = self._files.identity(path)
            if identity in self._known:
                return None
            self._known.add(identity)
            data = self._files.content(path, FILE_BYTES)
        except (OSError, ValueError) as error:
            self._fail(at, f"cannot read the file{of}{looked_in(path)}: {reason(error)}")
            return None
        if len(data) > FILE_BYTES:
            self._fail(at, f"the file{of} is larger than {FILE_BYTES >> 20} MiB")
            return None
        if len(self._known) > MOST_FILES:
            self._fail(at, f"the config has more than {MOST_FILES} files")
            return None
        return data

    def _include(self, path: str, item: Node) -> None:
        """Add the file, the files of a folder, or those that fit a pattern."""
        if len(self._known) > MOST_FILES:
            return
        folder, pattern = os.path.split(path)
        if "*" in folder or "?" in folder:
            self._fail(item.place, "only the last part of a path may be a pattern")
        elif "*" in pattern or "?" in pattern:
            self._add_all(folder or ".", folder, pattern, item)
        elif self._files.is_folder(path):
            self._add_all(path, path, "*", item)
        else:
            self.add(path, item.place, item.written)

    def _add_all(self, folder: str, shown: str, pattern: str, item: Node) -> None:
        try:
            names = [name for name in self._files.names(folder) if fnmatchcase(name, pattern)]
        except (OSError, ValueError) as error:
            self._fail(item.place, f"cannot read the folder of {quote(item.written)}: {reason(error)}")
            return
        if not names:
            self._fail(item.place, f"{quote(item.written)} gives no file whose name ends in {_ENDS}")
        for name in names:
            self.add(os.path.join(shown, name), item.place, name)

    def _fail(self, place: Place, message: str) -> None:
        self.fatal.append(Problem(place.file, place.line, place.column, message))


class _Merge:
    """A merger of trees, which collects where they clash."""

    def __init__(self, named: Collection[str]) -> None:
        self._named = named
        self.problems: list[Problem] = []

    def all(self, roots: list[Node]) -> Node:
        """Return the first tree with the others merged into it."""
        first, *others = roots
        for other in others:
            first = self._both(first, first.place, other, other.place, ())
        return first

    def _both(self, a: Node, a_key: Place, b: Node, b_key: Place, where: tuple[str, ...]) -> Node:
        """Return two values as one. `a_key` and `b_key` are the places of their keys."""
        if a.empty or b.empty:
            return b if a.empty else a
        if a is b or a.broken or b.broken:
            return a
        name = quote(where[-1]) if where else "the file"
        if _kind(a) != _kind(b):
            self._clash(b_key, f"{name} is {_kind(b)} here and {_kind(a)} at {_at(a_key)}")
        elif len(where) == 2 and where[0] in self._named:
            self._clash(b_key, f"{name} is at {_at(a_key)} already; one file describes it")
        elif isinstance(a.content, dict) and isinstance(b.content, dict):
            return self._maps(a, b, where)
        elif isinstance(a.content, list) and isinstance(b.content, list) and len(where) == 1:
            return Node(a.place, [*a.content, *b.content], weight=a.weight + b.weight)
        elif json.dumps(a.plain()) != json.dumps(b.plain()):
            what = "other items" if isinstance(a.content, list) else "another value"
            self._clash(b_key, f"{name} has {what} here than at {_at(a_key)}")
        return a

    def _maps(self, a: Node, b: Node, where: tuple[str, ...]) -> Node:
        assert isinstance(a.content, dict) and isinstance(b.content, dict)
        content, keys = dict(a.content), dict(a.keys)
        for name, node in b.content.items():
            if name not in content:
                content[name], keys[name] = node, b.keys[name]
                continue
            merged = self._both(content[name], keys[name], node, b.keys[name], (*where, name))
            if merged is node:
                keys[name] = b.keys[name]
            content[name] = merged
        return Node(a.place, content, keys, broken=a.broken or b.broken, weight=a.weight + b.weight)

    def _clash(self, place: Place, message: str) -> None:
        self.problems.append(Problem(place.file, place.line, place.column, message))


def _kind(node: Node) -> str:
    if isinstance(node.content, dict):
        return "a map"
    return "a list" if isinstance(node.content, list) else "a single value"


def _at(place: Place) -> str:
    return f"{place.file}:{place.line}:{place.column}"
