"""Searches for studies, series and instances (QIDO-RS).

Belongs here: from a query to data sets. Does not belong here: reading the query (`query.py`), matching a key
(`matching.py`), keeping attributes at hand (`index.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_aws.dicomweb import attributes
from local_aws.dicomweb.elements import Element, Vrs, elements, merged
from local_aws.dicomweb.index import texts
from local_aws.dicomweb.json_model import Written, bulk_url, data_set, write, written
from local_aws.dicomweb.matching import Matcher, matcher
from local_aws.healthimaging.values import is_creator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from local_aws.dicomweb.documents import Documents
    from local_aws.dicomweb.index import Index, InstanceRow, Series
    from local_aws.dicomweb.query import Query, Tree

UTF8 = write({"vr": "CS", "Value": ["ISO_IR 192"]})
MANY = 200
SOP_CLASSES = 0x00080062
# Keys that no single series decides.
ELSEWHERE = frozenset({"ModalitiesInStudy", *attributes.INSTANCE_KEYS})
ONLINE = write({"vr": "CS", "Value": ["ONLINE"]})


class Study:
    """A study: the series of its image sets.

    Attributes:
        series: The series.
        head: The one whose patient and study attributes stand for the study: the latest changed.
        updated: When one of its image sets changed last.
    """

    def __init__(self, series: list[Series]) -> None:
        self.series = series
        self.head = series[0] if len(series) == 1 else max(series, key=lambda s: (s.updated, s.series_uid))
        self.updated = self.head.updated

    @property
    def modalities(self) -> list[str]:
        """Every modality in it."""
        return sorted({m for s in self.series for m in s.values.get("Modality", ())})

    @property
    def count(self) -> int:
        """Number of instances."""
        return sum(s.count for s in self.series)


class Search:
    """Answers queries over one index."""

    def __init__(self, index: Index, documents: Documents) -> None:
        self._index = index
        self._documents = documents

    def find(self, level: str, datastore_id: str, path: dict[str, str], query: Query, base: str) -> list[Written]:
        """Results of a search, in the documented order.

        Args:
            level: `study`, `series` or `instance`.
            datastore_id: The data store.
            path: `StudyInstanceUID` and `SeriesInstanceUID` as far as the URL has them.
            query: What is wanted of them.
            base: URL of the data store, for Retrieve URLs.

        Raises:
            DicomWebError: A key's value is wrong.
        """
        matchers = {k: m for k, v in query.matches if (m := matcher(k, v, fuzzy=query.fuzzy))}
        studies = self._studies(datastore_id, path, query, matchers, deep=level != "study")
        if level == "study":
            studies.sort(key=lambda s: (-s.updated, s.head.study_uid))
            page = studies[query.offset : query.offset + query.limit]
            return [self._study(datastore_id, s, query, base) for s in page]
        if level == "series":
            found = [(s, study) for study in studies for s in study.series if _matches(s, matchers)]
            found.sort(key=lambda pair: (*_number(pair[0]), pair[0].series_uid))
            page_ = found[query.offset : query.offset + query.limit]
            return [self._series(datastore_id, s, study, path, query, base) for s, study in page_]
        return self._instances(datastore_id, studies, path, query, matchers, base)

    def _studies(
        self, datastore_id: str, path: dict[str, str], query: Query, matchers: dict[str, Matcher], *, deep: bool
    ) -> list[Study]:
        by_uid: dict[str, list[Series]] = {}
        wanted = path.get("StudyInstanceUID")
        for entry in self._index.series(datastore_id, query.image_set_id):
            if wanted is None or entry.study_uid == wanted:
                by_uid.setdefault(entry.study_uid, []).append(entry)
        modality = matchers.get("ModalitiesInStudy")
        out = []
        for series in by_uid.values():
            study = Study(series)
            if modality and not modality(study.modalities):
                continue
            # At a lower level each series speaks for itself: primary image sets of one study may differ in a name.
            if deep or _matches(study.head, matchers):
                out.append(study)
        return out

    # -- data sets ------------------------------------------------------------------------------------------------

    def _study(self, datastore_id: str, study: Study, query: Query, base: str) -> Written:
        out = self._more("study", datastore_id, study.head, None, query, base)
        out |= _study_part(study) | {"00081190": _url(f"{base}/studies/{study.head.study_uid}")}
        if query.everything or SOP_CLASSES in query.include:
            classes = sorted({c for s in study.series for c in s.sop_classes})
            out["00080062"] = write({"vr": "UI", "Value": classes})
        return out

    def _series(
        self, datastore_id: str, series: Series, study: Study, path: dict[str, str], query: Query, base: str
    ) -> Written:
        out = self._more("series", datastore_id, series, None, query, base)
        if "StudyInstanceUID" not in path or query.everything:
            out |= _study_part(study) | series.study
        url = f"{base}/studies/{series.study_uid}/series/{series.series_uid}"
        out |= series.series | {
            "00080005": UTF8,
            "00080056": ONLINE,
            "00081190": _url(url),
            "0020000D": series.study["0020000D"],
            "00201209": _count(series.count),
        }
        return out

    def _instances(
        self,
        datastore_id: str,
        studies: list[Study],
        path: dict[str, str],
        query: Query,
        matchers: dict[str, Matcher],
        base: str,
    ) -> list[Written]:
        wanted = path.get("SeriesInstanceUID")
        found = {
            (s.image_set_id, s.series_uid): (s, study)
            for study in studies
            for s in study.series
            if wanted in {None, s.series_uid} and _matches(s, matchers)
        }
        rows = self._rows(datastore_id, found, path, query)
        rows = (r for r in rows if (r.image_set_id, r.series_uid) in found and _row_matches(r, matchers))
        out = []
        for number, row in enumerate(rows):
            if number >= query.offset + query.limit:
                break
            if number >= query.offset:
                series, study = found[row.image_set_id, row.series_uid]
                out.append(self._instance(datastore_id, row, series, study, path, query, base))
        return out

    def _rows(
        self, datastore_id: str, found: dict[tuple[str, str], tuple[Series, Study]], path: dict[str, str], query: Query
    ) -> Iterator[InstanceRow]:
        uids = next((v for k, v in query.matches if k == "SOPInstanceUID"), None)
        listed = {u.strip() for u in uids.replace("\\", ",").split(",")} if uids and uids.strip("* ") else None
        if "StudyInstanceUID" in path and "SeriesInstanceUID" not in path:
            # Documented for a study's instances alone: last update first.
            for series, _ in sorted(found.values(), key=lambda p: (-p[0].updated, p[0].series_uid)):
                rows = self._index.instances(datastore_id, [series.image_set_id], listed)
                yield from (r for r in rows if r.series_uid == series.series_uid)
            return
        wanted = {image_set_id for image_set_id, _ in found}
        # Above some number it costs less to read all rows and to pass over the others.
        yield from self._index.instances(datastore_id, wanted if len(wanted) < MANY else None, listed)

    def _instance(
        self,
        datastore_id: str,
        row: InstanceRow,
        series: Series,
        study: Study,
        path: dict[str, str],
        query: Query,
        base: str,
    ) -> Written:
        out = self._more("instance", datastore_id, series, row.sop_uid, query, base)
        if "StudyInstanceUID" not in path:
            out |= _study_part(study) | series.study
        if "SeriesInstanceUID" not in path:
            out |= series.series | {"00201209": _count(series.count)}
        url = f"{base}/studies/{series.study_uid}/series/{series.series_uid}/instances/{row.sop_uid}"
        out |= self._index.entry(datastore_id, row) | {
            "00080005": UTF8,
            "00080056": ONLINE,
            "00081190": _url(url),
            "0020000D": series.study["0020000D"],
            "0020000E": series.series["0020000E"],
        }
        return out

    def _more(
        self, level: str, datastore_id: str, series: Series, sop_uid: str | None, query: Query, base: str
    ) -> Written:
        """What `includefield` asks for, from the document."""
        if not query.everything and not query.include:
            return {}
        found = self._documents.version(datastore_id, series.image_set_id, series.version)
        if found is None:
            return {}
        instances = found[1]["Study"]["Series"][series.series_uid].get("Instances", {})
        uid = sop_uid or next(iter(instances), "")
        if uid not in instances:
            return {}
        values = merged(found[1], series.series_uid, uid)
        items = elements(values, Vrs.of(instances[uid]))
        url = f"{base}/studies/{series.study_uid}/series/{series.series_uid}/instances/{uid}"
        return written(data_set(_chosen(level, items, query), lambda path: bulk_url(url, path)))


def _chosen(level: str, items: list[Element], query: Query) -> Iterable[Element]:
    tree = query.include
    creators = {e.tag: str(e.values[0]).strip() for e in items if is_creator(e.tag) and e.values}
    for element in items:
        private = element.tag >> 16 & 1
        if query.everything:
            # "Every DICOM tag present in the original DICOM file", or the documented table of the level.
            if level == "instance" or element.tag in _ALL[level]:
                yield element
        elif element.tag in tree:
            if private:
                block = element.tag & 0xFFFF0000 | (element.tag >> 8 & 0xFF)
                if is_creator(element.tag) or query.creators.get(block, "") == creators.get(block):
                    yield element
            elif level == "instance" or element.tag in attributes.INCLUDABLE[level]:
                yield _pruned(element, tree[element.tag])


_ALL = {"study": attributes.STUDY_ALL, "series": attributes.SERIES_ALL}


def _pruned(element: Element, tree: Tree | None) -> Element:
    """A sequence with only the wanted parts of its items."""
    if tree is None or element.vr != "SQ":
        return element
    items = [[_pruned(e, tree[e.tag]) for e in item if e.tag in tree] for item in element.values]
    return Element(element.tag, element.vr, items)


def _matches(series: Series, matchers: dict[str, Matcher]) -> bool:
    for keyword, match in matchers.items():
        if keyword not in ELSEWHERE and not match(series.values.get(keyword, ())):
            return False
    return True


def _row_matches(row: InstanceRow, matchers: dict[str, Matcher]) -> bool:
    values = {
        "SOPClassUID": [row.sop_class],
        "SOPInstanceUID": [row.sop_uid],
        "WarningReason": row.warning.split(",") if row.warning else [],
    }
    return all(match(values[keyword]) for keyword, match in matchers.items() if keyword in values)


def _number(series: Series) -> tuple[bool, int]:
    """Sort key by Series Number; series without one come last."""
    text = next(iter(texts(series.values.get("SeriesNumber", []))), "")
    return (False, int(text)) if text.lstrip("+-").isdecimal() else (True, 0)


def _study_part(study: Study) -> Written:
    modalities = study.modalities
    return study.head.study | {
        "00080005": UTF8,
        "00080056": ONLINE,
        "00080061": write({"vr": "CS", "Value": modalities} if modalities else {"vr": "CS"}),
        "00201206": _count(len({s.series_uid for s in study.series})),
        "00201208": _count(study.count),
    }


def _count(number: int) -> str:
    return f'{{"vr":"IS","Value":[{number}]}}'


def _url(address: str) -> str:
    return write({"vr": "UR", "Value": [address]})
