"""Lines out of chunks: the same lines however the bytes come, and no more of them in memory than a line may have."""

from __future__ import annotations

import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahi.healthlake.lines import split_lines


@given(st.binary(max_size=40).map(lambda b: b.replace(b"\x00", b"\n")), st.integers(1, 9), st.integers(0, 12))
def test_lines_are_the_same_in_chunks_of_any_size(body, size, longest):
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    kept = io.BytesIO()
    found = list(split_lines(chunks, kept, longest=longest))
    lines = body.removesuffix(b"\n").split(b"\n") if body else []
    assert found == [line if len(line) <= longest else None for line in lines]
    assert kept.getvalue() == b"".join(line + b"\n" for line in lines if len(line) > longest)


@pytest.mark.parametrize("longest", [2**20, 2**30])
def test_a_huge_line_is_copied_once_or_not_held(longest):
    class Counts(io.RawIOBase):
        n = 0

        def write(self, piece):
            self.n += len(piece)
            return len(piece)

    kept, chunk, times = Counts(), b"x" * 2**16, 1_000
    tracemalloc.start()
    [line] = split_lines((bytes(bytearray(chunk)) for _ in range(times)), kept, longest=longest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if longest < len(chunk) * times:
        assert (line, kept.n) == (None, len(chunk) * times + 1)
        assert peak < 3 * longest
    else:
        assert line == chunk * times
        assert peak < 3 * len(line)
