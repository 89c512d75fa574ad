"""Packing: every object in exactly one job within the limits, whole folders in place where that is quicker."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahi.archive.packing import Folder, Limits, Packer, Piece, Shard

LIMITS = Limits(max_files=10, max_bytes=1_000, starts_per_second=1, copies_per_second=6)


def cut(folder: Folder, limits: Limits = LIMITS) -> list[Piece]:
    """Pieces of one object and a share of the bytes each, as many as fit a job."""
    size = -(-folder.n_bytes // folder.n_objects)
    most = max(1, min(limits.max_files, limits.max_bytes // max(1, size)))
    counts = [min(most, folder.n_objects - start) for start in range(0, folder.n_objects, most)]
    return [Piece(folder.path, n, min(n * size, limits.max_bytes), str(at), str(at)) for at, n in enumerate(counts)]


def packed(folders: Sequence[Folder], *, root: str = "", watched: dict[str, int] | None = None):
    packer = Packer(LIMITS, cut, root=root, watched=watched)
    return list(packer.pack(folders)), packer


def folder(path: str, n: int, *, size: int = 10, others: int = 0, plain: bool = True) -> Folder:
    return Folder(path, n, n * size, others, plain)


def shapes(shards: Sequence[Shard]) -> list[tuple[str | None, list[str]]]:
    return [(shard.prefix, [piece.path for piece in shard.pieces]) for shard in shards]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        pytest.param([folder("a/x/", 4), folder("a/y/", 5)], [("a/", ["a/x/", "a/y/"])], id="the largest that fits"),
        pytest.param([folder("a/", 1), folder("b/", 2)], [(None, ["a/", "b/"])], id="small ones are packed"),
        pytest.param(
            [folder("a/x/", 8), folder("a/y/", 8)],
            [("a/x/", ["a/x/"]), ("a/y/", ["a/y/"])],
            id="children of a large one",
        ),
        pytest.param([folder("a/", 8, others=1)], [(None, ["a/"])], id="what is in it already would come along"),
        pytest.param([folder("a/", 8, plain=False)], [(None, ["a/"])], id="odd keys are copied to ours"),
        pytest.param(
            [folder("a/", 1), folder("a/b/", 8), folder("a/c/", 8)],
            [("a/b/", ["a/b/"]), ("a/c/", ["a/c/"]), (None, ["a/"])],
            id="loose objects beside folders",
        ),
        pytest.param([folder("", 8)], [(None, [""])], id="never the whole bucket"),
        pytest.param([folder("a/", 25)], [(None, ["a/"])] * 3, id="a folder no job holds"),
        pytest.param([folder("a/", 1, size=1_000)], [("a/", ["a/"])], id="full of bytes"),
        pytest.param([folder("a//", 8), folder("a//b/", 1)], [("a/", ["a//", "a//b/"])], id="empty names"),
    ],
)
def test_shapes(folders: list[Folder], expected: list[tuple[str | None, list[str]]]) -> None:
    assert shapes(packed(folders)[0]) == expected


def test_a_huge_archive_is_packed_further_so_that_its_shards_can_be_counted() -> None:
    limits = Limits(5_000, 10**10, 1, 200)
    assert not limits.better_packed(400, 400)
    assert not limits.within(40_000, 1_000_000, 10**9).better_packed(400, 400)
    # 100 M objects are 20,000 jobs at least: a folder in place is half of one, or there would be 250,000 of them.
    huge = limits.within(40_000, 100_000_000, 10**9)
    assert huge.better_packed(400, 400)
    assert not huge.better_packed(2_500, 2_500)


def test_no_folder_above_the_root_is_used() -> None:
    assert shapes(packed([folder("old/pacs/a/", 4), folder("old/pacs/b/", 5)], root="old/pacs/")[0]) == [
        ("old/pacs/", ["old/pacs/a/", "old/pacs/b/"])
    ]


def test_watched_folders_that_changed_are_named() -> None:
    folders = [folder("a/", 0, others=8), folder("b/", 0, others=9), folder("c/x/", 1, others=7), folder("e/", 3)]
    _, packer = packed(folders, watched={"a/": 8, "b/": 8, "c/": 8, "d/": 8})
    assert packer.grown == {"b/", "c/", "d/"}


NAMES = st.lists(st.sampled_from(["a", "b", "b0", "c!"]), min_size=0, max_size=3)
SIZES = st.tuples(st.integers(0, 25), st.integers(1, 400), st.integers(0, 1), st.booleans())


@given(st.dictionaries(NAMES.map(lambda parts: "".join(f"{part}/" for part in parts)), SIZES, max_size=12))
def test_each_object_is_in_one_job_and_a_folder_in_place_holds_all_below_it(sizes) -> None:
    folders = [
        Folder(path, n, min(n * size, 1_000 * n), others, plain)
        for path, (n, size, others, plain) in sorted(sizes.items())
    ]
    shards, _ = packed(folders)
    for one in folders:
        mine = [piece for shard in shards for piece in shard.pieces if piece.path == one.path]
        assert sum(piece.n_objects for piece in mine) == one.n_objects
    for shard in shards:
        assert shard.pieces
        assert LIMITS.hold(shard.n_objects, shard.n_bytes)
        if shard.prefix is not None:
            below = [one for one in folders if one.path.startswith(shard.prefix)]
            assert sum(one.n_objects for one in below) == shard.n_objects
            assert all(one.is_plain and not one.n_others for one in below)
