"""JSON of the instances of series, made by columns. Belongs here: from sorted Arrow batches to one text a series.

Does not belong here: series and studies (`imaging_study`), the query (`source`).

Nothing here runs once an instance in Python: Arrow joins the columns to a text for each row, and since a column's texts
lie one after the other in memory, the text of a series is a slice of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

COLUMNS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "InstanceNumber")
_CLASS = '","sopClass":{"system":"urn:ietf:rfc:3986","code":"urn:oid:'
_UID = b"0123456789."
_LONGEST = 64
# FHIR holds a SOP Instance UID as an id, and in both columns nothing may need an escape in JSON.
_VALID = r"^[A-Za-z0-9\-.]{1,64}$"


class SeriesInstances(NamedTuple):
    """Instances of one series.

    Attributes:
        study_uid: Study of the series.
        series_uid: The series.
        n_instances: Instances, those that cannot be told included.
        n_left_out: Those without a SOP class or with a UID that FHIR cannot hold.
        body: The objects of the JSON list, separated by commas.
    """

    study_uid: str
    series_uid: str
    n_instances: int
    n_left_out: int
    body: bytes


def series_instances(batches: Iterable[pa.RecordBatch]) -> Iterator[SeriesInstances]:
    """Instances by series, from batches with `COLUMNS` sorted by study and series. A SOP Instance UID counts once."""
    for table in _whole_studies(batches):
        yield from _by_series(_without_repeats(table))


def _compute() -> Any:
    """Arrow's functions, whose stubs know too few types."""
    import pyarrow.compute

    return pyarrow.compute


def _whole_studies(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The batches cut anew, at borders between studies; holds back one study and no more."""
    import pyarrow as pa

    pc = _compute()

    held: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        studies = batch.column(0)
        last = studies[batch.num_rows - 1]
        if held and held[-1].column(0)[held[-1].num_rows - 1] != studies[0]:
            yield pa.Table.from_batches(held)
            held = []
        if studies[0] != last:
            border = pc.index(studies, last).as_py()
            yield pa.Table.from_batches([*held, batch.slice(0, border)])
            held, batch = [], batch.slice(border)  # noqa: PLW2901
        held.append(batch)
    if held:
        yield pa.Table.from_batches(held)


def _without_repeats(table: Any) -> Any:
    import pyarrow as pa

    pc = _compute()

    if len(pc.unique(table["SOPInstanceUID"])) == table.num_rows:
        return table
    numbered = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    keys = ["StudyInstanceUID", "SOPInstanceUID"]
    first = numbered.group_by(keys).aggregate([("row", "min")])["row_min"]
    return table.take(first.take(pc.sort_indices(first)))


def _by_series(table: Any) -> Iterator[SeriesInstances]:
    columns = [table[name].combine_chunks() for name in COLUMNS]
    starts = _borders(columns[0], columns[1])
    joined, left_out = _texts(*columns[2:])
    ends = memoryview(joined.buffers()[1]).cast("i")[joined.offset :]
    data = memoryview(joined.buffers()[2] or b"")
    for begin, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
        # Each text ends with a comma, the last one's is dropped.
        body = bytes(data[ends[begin] : max(ends[end] - 1, ends[begin])])
        lost = left_out.slice(begin, end - begin).true_count if left_out is not None else 0
        yield SeriesInstances(columns[0][begin].as_py(), columns[1][begin].as_py(), end - begin, lost, body)


def _borders(studies: Any, series: Any) -> list[int]:
    """Rows at which a series begins."""
    pc = _compute()

    changes = pc.or_(
        pc.not_equal(studies.slice(1), studies.slice(0, len(studies) - 1)),
        pc.not_equal(series.slice(1), series.slice(0, len(series) - 1)),
    )
    return [0, *(at + 1 for at in pc.indices_nonzero(changes).to_pylist())]


def _texts(uids: Any, classes: Any, numbers: Any) -> tuple[Any, Any]:
    """A text for each row, empty for those that are left out, and which those are (None: none)."""
    import pyarrow as pa

    pc = _compute()

    # Classes and numbers repeat: their text is made once for each that there is.
    kinds, order = classes.dictionary_encode(), numbers.dictionary_encode()
    kind = pc.binary_join_element_wise(_CLASS, kinds.dictionary, '"}', "").take(kinds.indices)
    positive = pc.if_else(pc.less(order.dictionary, 0), None, order.dictionary).cast(pa.string())
    number = pc.fill_null(pc.binary_join_element_wise(',"number":', positive, "").take(order.indices), "")
    joined = pc.binary_join_element_wise('{"uid":"', uids, kind, number, "},", "")
    if _plain(uids) and _plain(classes):
        return joined, None
    valid = pc.and_(*(pc.fill_null(pc.match_substring_regex(one, _VALID), False) for one in (uids, classes)))
    return pc.fill_null(pc.if_else(valid, joined, ""), ""), pc.invert(valid)


def _plain(column: Any) -> bool:
    """Whether every value is there and looks like a UID; one look at all bytes, instead of a regex for each value."""
    pc = _compute()

    lengths = pc.min_max(pc.binary_length(column)).as_py()
    if column.null_count or not 0 < lengths["min"] <= lengths["max"] <= _LONGEST:
        return False
    ends = memoryview(column.buffers()[1]).cast("i")[column.offset : column.offset + len(column) + 1]
    return not bytes(memoryview(column.buffers()[2])[ends[0] : ends[-1]]).translate(None, _UID)
