"""Prices of what an import uses, from a dated file. Belongs here: reading it. Does not belong here: what is used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class PriceTable:
    """List prices of one region at one date, with the facts and assumptions that an estimate needs beside them."""

    as_of: str
    region: str
    note: str
    usd: dict[str, float | None]
    """By name; None: known to be billed, price not known."""
    units: dict[str, str]
    values: dict[str, float]
    """Facts and assumptions, by name."""
    sources: dict[str, str]
    """Where each price, fact and assumption is from."""


@cache
def price_table() -> PriceTable:
    """The table that comes with this version: `prices.json` beside this module."""
    found: dict[str, Any] = json.loads(resources.files("ahi.archive").joinpath("prices.json").read_text("utf-8"))
    prices, known = found["prices"], found["facts"] | found["assumptions"]
    return PriceTable(
        found["as_of"],
        found["region"],
        found["note"],
        {name: price["usd"] for name, price in prices.items()},
        {name: price["unit"] for name, price in prices.items()},
        {name: fact["value"] for name, fact in known.items()},
        {name: found["sources"][price["source"]] for name, price in prices.items()}
        | {name: fact["source"] for name, fact in known.items()},
    )
