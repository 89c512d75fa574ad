"""The pictures of the index: what they show, and that they show nobody's name."""

from __future__ import annotations

import base64
from collections import Counter
from xml.etree import ElementTree as ET

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog
from ahi.index.store import Index
from ahi.index.tiers.terms import TERMS
from ahi.modalities import OTHER
from ahi.overview import MODALITIES, overview
from ahi_assets.pictures import paired, stacked


def drawn(picture):
    head, _, data = picture.md_str.partition("base64,")
    assert head.endswith("(data:image/svg+xml;")
    return ET.fromstring(base64.b64decode(data.removesuffix(")")))


def words(picture):
    return [element.text for element in drawn(picture).iter() if element.text]


def test_bars_are_as_long_as_their_numbers_and_texts_are_escaped():
    picture = stacked("A <title>", {"one": {"CT": 30, "MR": 10}, "two": {"MR": 20}, "none": {}})
    assert words(picture) == ["A <title>", "CT", "MR", "one", "40", "two", "20", "none", "0"]
    wide = [float(box.get("width")) for box in drawn(picture).iter() if box.get("height") == "17"]
    assert wide[0] == 3 * wide[1] == 1.5 * wide[2]
    assert "p95" in words(paired("Hops", {"arrival to received": (0.5, 2.0)}, ("p50", "p95")))
    assert words(stacked("Nothing", {})) == words(paired("Nothing", {}, ("p50", "p95")))[:1] == ["Nothing"]


def test_modalities_that_are_none_or_one_too_many_are_other(tmp_path, index_template):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / index_template.name).write_bytes(index_template.read_bytes())
    index = Index(tmp_path / "index", f"sqlite:///{tmp_path / 'index' / 'catalog.sqlite'}")
    none = [None, "DOE^JANE", "ct of Jane", "JANE"]
    sent = ["CT"] * 9 + ["MR"] * 8 + none + sorted(TERMS["Modality"] - {"CT", "MR"})[:MODALITIES]
    common = {"bucket": "b", "state": "failed", "state_since": now(), "landed_at": now(), "received_at": now()}
    rows = [
        common | {"object_id": str(n), "key": str(n), "day": f"2026-11-{20 + n % 2}", "Modality": modality}
        for n, modality in enumerate(sent)
    ]
    with index.transaction() as connection:
        connection.execute(sa.insert(catalog.objects), rows)
    index.publish()
    seen = overview(index)
    assert list(seen.arrivals) == ["2026-11-20", "2026-11-21"]
    total = sum(seen.arrivals.values(), Counter())
    assert sum(total.values()) == len(sent)
    assert (total["CT"], total["MR"], len(total)) == (9, 8, MODALITIES + 1)
    assert total[OTHER] >= len(none)
    assert seen.cast_failures == {}
