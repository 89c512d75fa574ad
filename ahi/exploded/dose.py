"""Radiation dose reports. Belongs here: rows of `dose_events` from TID 10003 and TID 10013 of PS3.16.

Does not belong here: the tree (`content`). Numbers are brought to the unit that the column names; a unit that is not
known here gives NULL and a cast failure, never a number in another unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.exploded.cells import Cells
from ahi.exploded.content import Node, coded, first_code, first_text, number_of

if TYPE_CHECKING:
    from ahi.exploded.notes import Notes, Row

# Containers of one irradiation event: CT Acquisition, Irradiation Event X-Ray Data (DCM).
EVENTS = {"113819": "ct", "113706": "projection"}

# Column: concept, and factor for each unit.
_MGY = {"mGy": 1.0, "Gy": 1e3, "uGy": 1e-3, "cGy": 10.0, "dGy": 100.0}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0}
_MM = {"mm": 1.0, "cm": 10.0, "m": 1e3, "um": 1e-3}
_MA = {"mA": 1.0, "uA": 1e-3, "A": 1e3}
_NUMBERS: dict[str, tuple[str, dict[str, float]]] = {
    "ctdi_vol_mgy": ("113830", _MGY),
    "dlp_mgy_cm": ("113838", {"mGy.cm": 1.0, "mGycm": 1.0, "Gy.cm": 1e3, "uGy.cm": 1e-3}),
    "ssde_mgy": ("113930", _MGY),
    "scanning_length_mm": ("113825", _MM),
    "pitch_factor": ("113828", {"{ratio}": 1.0, "1": 1.0, "{unity}": 1.0}),
    "dap_gy_m2": (
        "122130",
        {"Gy.m2": 1.0, "Gym2": 1.0, "dGy.cm2": 1e-5, "cGy.cm2": 1e-6, "Gy.cm2": 1e-4, "mGy.cm2": 1e-7, "uGy.m2": 1e-6,
         "mGy.m2": 1e-3},
    ),
    "dose_rp_gy": ("113738", {"Gy": 1.0, "mGy": 1e-3, "uGy": 1e-6, "cGy": 1e-2}),
    "average_glandular_dose_mgy": ("111631", _MGY),
    "entrance_exposure_rp_mgy": ("111636", _MGY),
    "compression_thickness_mm": ("111633", _MM),
    "kvp": ("113733", {"kV": 1.0, "V": 1e-3}),
    "tube_current_ma": ("113734", _MA),
    "max_tube_current_ma": ("113833", _MA),
    "exposure_mas": ("113736", {"mA.s": 1.0, "uA.s": 1e-3, "mAs": 1.0, "uAs": 1e-3}),
    "exposure_time_s": ("113824", _SECONDS),
    "exposure_time_per_rotation_s": ("113834", _SECONDS),
    "irradiation_duration_s": ("113742", _SECONDS),
    "n_pulses": ("113768", {"1": 1.0, "{pulses}": 1.0, "{pulse}": 1.0}),
    "primary_angle_degrees": ("112011", {"deg": 1.0}),
    "secondary_angle_degrees": ("112012", {"deg": 1.0}),
}  # fmt: skip
_BY_CONCEPT = {concept: (column, factors) for column, (concept, factors) in _NUMBERS.items()}
_CODES = {
    "event_type": frozenset({"113820", "113721"}),
    "target_region": frozenset({"123014"}),
    "plane": frozenset({"113764"}),
    "ctdi_phantom": frozenset({"113835"}),
}
_TEXTS = {
    "irradiation_event_uid": frozenset({"113769"}),
    "started_at": frozenset({"111526"}),
    "protocol": frozenset({"125203"}),
    "device_manufacturer": frozenset({"113878"}),
    "device_model": frozenset({"113879"}),
    "device_serial_number": frozenset({"113880"}),
    "device_uid": frozenset({"121012"}),
}
# The device that irradiates is named once for the report (TID 1002, TID 1021), or with the event.
_OF_THE_REPORT = {
    "device_manufacturer": frozenset({"113878", "121014"}),
    "device_model": frozenset({"113879", "121015"}),
    "device_serial_number": frozenset({"113880", "121016"}),
    "device_uid": frozenset({"121012"}),
}


def dose_rows(root: Node, notes: Notes) -> list[Row]:
    """Rows of `dose_events`; none for a report without irradiation events."""
    events = [node for node in root.walk() if node.kind == "CONTAINER" and node.concept[0] in EVENTS]
    if not events:
        return []
    device = {name: first_text(root.having(codes)) for name, codes in _OF_THE_REPORT.items()}
    return [_event(event, device, notes) for event in events]


def _event(event: Node, device: dict[str, str | None], notes: Notes) -> Row:
    cells = Cells()
    cells.row |= {"item_path": event.path, "kind": EVENTS[str(event.concept[0])]}
    for name, codes in _CODES.items():
        cells.row |= coded(name, first_code(event.below(codes), notes))
    for name, codes in _TEXTS.items():
        cells.row[name] = first_text(event.below(codes)) or device.get(name)
    for node in event.walk():
        known = _BY_CONCEPT.get(node.concept[0] or "")
        if known and node.kind == "NUM":
            _take(cells, *known, node, notes)
    return cells.done()


def _take(cells: Cells, column: str, factors: dict[str, float], node: Node, notes: Notes) -> None:
    """Add a number in the column's unit, unless the event has a higher one."""
    number, unit, found = number_of(node, notes)
    for failure in found.get("cast_failures") or ():  # type: ignore[attr-defined]
        cells.fail(column, failure["vr"], failure["raw"], failure["reason"])
    if number is None:
        return
    factor = factors.get(unit or "")
    if factor is None:
        cells.fail(column, "DS", f"{number} {unit}", "unknown unit")
        return
    earlier = cells.row.get(column)
    if not isinstance(earlier, float) or number * factor > earlier:
        cells.row[column] = number * factor
