"""Lines of NDJSON out of chunks of bytes. Belongs here: keeping memory bounded whatever a sender calls a line.

Does not belong here: what is in a line (`ahi.fhir.validate`).
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST = 64 * 2**20
"""Bytes of the longest line that is read. A study of 34,000 instances has 5 MB, which is what FHIR REST takes."""


def split_lines(chunks: Iterable[bytes], too_long: IO[bytes], *, longest: int = LONGEST) -> Iterator[bytes | None]:
    """Lines without their line feed. One that is too long to be held is written to a file, and None stands for it.

    Args:
        chunks: The bytes.
        too_long: Takes lines that are too long, each with a line feed, before None is given.
        longest: Bytes that a line may have.
    """
    held, size = list[bytes](), 0
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for piece in ends:
            size += len(piece)
            held.append(piece)
            if size > longest:
                too_long.writelines([*held, b"\n"])
                yield None
            else:
                yield b"".join(held)
            held, size = [], 0
        held.append(rest)
        size += len(rest)
        if size > longest:
            too_long.writelines(held)
            held = []
    if size > longest:
        too_long.writelines([*held, b"\n"])
        yield None
    elif size:
        yield b"".join(held)
