"""Which folders of an archive become import jobs as they lie, and how the rest is packed into jobs by copies.

Belongs here: the choice, as a pure function of folders in order. Does not belong here: keys, files and the catalog
(`ahi.archive.plan`).

An import job takes everything below one prefix. A whole folder that fits a job's limits can be imported where it lies,
which costs no copy, but a job start however little is in it. What is copied fills jobs to the brim. Starts are limited,
one a second in a data store, and so are copies in a run. A folder with n objects, a share s of what a job holds, is
packed when the part of a start that this saves takes longer than its copies:

    (1 - s) / starts a second  >  n / copies a second

and so is a folder with a smaller share than keeps the number of shards within what a person can look through.
Folders come in the order of their names, in which everything below a folder stands together. So one pass with a stack
as deep as the tree finds the largest folders that fit; memory holds what may still become one job.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

MOST_FOLDERS = 10_000
"""Nested folders in one import job ("Endpoints and quotas", HealthImaging developer guide)."""


@dataclass(frozen=True)
class Limits:
    """What a job holds, and what a start and a copy cost in time."""

    max_files: int
    max_bytes: int
    starts_per_second: float
    copies_per_second: float
    smallest_share: float = 0.0
    """Of what a job holds: a folder with less is packed, or there would be more shards than can be looked through."""

    def within(self, most_shards: int, n_objects: int, n_bytes: int) -> Limits:
        """The same limits for an archive of this size that should not become more shards than some."""
        fewest = max(n_objects / self.max_files, n_bytes / self.max_bytes)
        return replace(self, smallest_share=min(1.0, fewest / most_shards))

    def hold(self, n_objects: int, n_bytes: int) -> bool:
        """Whether one job may hold so much."""
        return n_objects <= self.max_files and n_bytes <= self.max_bytes

    def better_packed(self, n_objects: int, n_bytes: int) -> bool:
        """Whether copying a folder saves more time at the starts than the copies take."""
        share = max(n_objects / self.max_files, n_bytes / self.max_bytes)
        saves = (1 - share) / self.starts_per_second > n_objects / self.copies_per_second
        return saves or share < self.smallest_share


@dataclass(frozen=True)
class Folder:
    """Objects that lie directly in one folder."""

    path: str
    """With its last slash; empty: the top of the bucket."""
    n_objects: int
    """To be imported."""
    n_bytes: int
    n_others: int
    """In a shard already or set aside: a job on the folder would take them along."""
    is_plain: bool = True
    """Every key is one that HealthImaging surely takes as it is."""


@dataclass(frozen=True)
class Piece:
    """Objects of one folder, or some of them, that belong to a shard."""

    path: str
    n_objects: int
    n_bytes: int
    first: str | None = None
    """First key; None: all of the folder."""
    last: str | None = None


@dataclass
class Shard:
    """One import job's worth of pieces."""

    pieces: list[Piece]
    prefix: str | None = None
    """Folder that is used in place; None: packed by copies."""

    @property
    def n_objects(self) -> int:
        """Objects in it."""
        return sum(piece.n_objects for piece in self.pieces)

    @property
    def n_bytes(self) -> int:
        """Bytes in it."""
        return sum(piece.n_bytes for piece in self.pieces)


@dataclass
class _Node:
    """A folder of which more may come below, and what stands below it so far."""

    path: str
    is_whole: bool = True
    n_objects: int = 0
    n_bytes: int = 0
    n_others: int = 0
    n_folders: int = 0
    units: list[tuple[str | None, list[Piece]]] = field(default_factory=list)
    """What cannot be one with this folder any more, or may yet: whole folders below it, and loose pieces."""


class Packer:
    """Takes folders in order and gives shards, each as soon as nothing can be added to it.

    Args:
        limits: What a job holds.
        cut: Splits one folder that no job holds, by its path, into pieces that each fit.
        root: No folder above this one is used in place.
        watched: Folders of planned shards, by path, with the number of their objects.
    """

    def __init__(
        self,
        limits: Limits,
        cut: Callable[[Folder], Iterable[Piece]],
        *,
        root: str = "",
        watched: Mapping[str, int] | None = None,
    ) -> None:
        self._limits, self._cut, self._root, self._watched = limits, cut, root, watched or {}
        self._stack: list[_Node] = []
        self._open = Shard([])
        self._open_objects = self._open_bytes = 0
        self.grown: set[str] = set()
        """Of the watched folders, those that hold something else than their shard does."""
        self._seen: set[str] = set()

    def pack(self, folders: Iterable[Folder]) -> Iterator[Shard]:
        """The shards of folders that come ordered by path."""
        for folder in folders:
            while self._stack and not folder.path.startswith(self._stack[-1].path):
                yield from self._close()
            self._descend(folder.path)
            yield from self._take(folder)
        while self._stack:
            yield from self._close()
        if self._open.pieces:
            yield self._open
        self.grown |= set(self._watched) - self._seen

    def _descend(self, path: str) -> None:
        """Open every folder on the way to one: the ones between hold objects only below them."""
        at = len(self._stack[-1].path) if self._stack else 0
        if not self._stack:
            self._stack.append(_Node(""))
        while at < len(path):
            at = path.index("/", at) + 1
            self._stack.append(_Node(path[:at], n_folders=1))

    def _take(self, folder: Folder) -> Iterator[Shard]:
        node = self._stack[-1]
        node.n_objects += folder.n_objects
        node.n_bytes += folder.n_bytes
        node.n_others += folder.n_others
        if folder.n_others or not folder.is_plain:
            node.is_whole = False
        if not folder.n_objects:
            return
        if self._limits.hold(folder.n_objects, folder.n_bytes):
            node.units.append((None, [Piece(folder.path, folder.n_objects, folder.n_bytes)]))
        else:
            node.is_whole = False
            node.units += [(None, [piece]) for piece in self._cut(folder)]
        yield from self._flush(node)

    def _flush(self, node: _Node) -> Iterator[Shard]:
        """Give away what can no longer become one job with its folder, so that memory stays bounded."""
        if node.is_whole and self._limits.hold(node.n_objects, node.n_bytes) and node.n_folders <= MOST_FOLDERS:
            return
        node.is_whole = False
        units, node.units = node.units, []
        for prefix, pieces in units:
            yield from self._place(prefix, pieces)

    def _close(self) -> Iterator[Shard]:
        """Nothing more comes below the last folder: it is one candidate, or its units go their own ways."""
        node = self._stack.pop()
        yield from self._flush(node)
        if node.path in self._watched:
            self._seen.add(node.path)
            # Something new in it, an overwritten object included, or something less.
            if node.n_objects or node.n_others != self._watched[node.path]:
                self.grown.add(node.path)
        may = node.is_whole and node.path != "" and node.path.startswith(self._root)
        pieces = [piece for _, some in node.units for piece in some]
        units = [(node.path, pieces)] if may and pieces else node.units
        if not self._stack:
            for prefix, some in units:
                yield from self._place(prefix, some)
            return
        parent = self._stack[-1]
        parent.n_objects += node.n_objects
        parent.n_bytes += node.n_bytes
        parent.n_others += node.n_others
        parent.n_folders += node.n_folders
        parent.is_whole = parent.is_whole and node.is_whole
        parent.units += units
        yield from self._flush(parent)

    def _place(self, prefix: str | None, pieces: list[Piece]) -> Iterator[Shard]:
        """Make a folder a shard of its own, or put pieces into the shard that is being filled."""
        n_objects, n_bytes = sum(p.n_objects for p in pieces), sum(p.n_bytes for p in pieces)
        if prefix is not None and not self._limits.better_packed(n_objects, n_bytes):
            yield Shard(pieces, prefix)
            return
        # A folder stays in one job where it can: a series in two jobs becomes two versions of its image set.
        if not self._limits.hold(self._open_objects + n_objects, self._open_bytes + n_bytes):
            yield self._open
            self._open, self._open_objects, self._open_bytes = Shard([]), 0, 0
        self._open.pieces += pieces
        self._open_objects += n_objects
        self._open_bytes += n_bytes
