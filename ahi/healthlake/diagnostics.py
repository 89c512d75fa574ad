"""Diagnostics of HealthLake in words that are of nobody.

Belongs here: which words of them are shown. Does not belong here: reading the files they stand in
(`ahi.healthlake.output`).

A diagnostic may quote a value of the resource, with quotes or without: a name, an id. No list of what is secret can be
whole, so only what is known to be harmless is shown: names of types and elements of R4, and the words in which FHIR
servers tell of faults (developer guide of HealthLake, "Troubleshooting"; messages of the HL7 validator).
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

LONGEST = 300
CUT = "…"

# No word that is also a common name: "will", "may" and "mark" are cut.
_WORDS = frozenset(
    """
    a access additional after all allowed already also an and another any array as at attribute available bad be
    because been before binding bound but by can cannot cardinality character characters choice code codes coding
    concept conflict constraint contain contains content could data database datatype date datetime decimal declared
    defined definition denied deleted different digits display does duplicate during each either element elements empty
    encoding end error errors exceeded exceeds exception exist existing exists expected expression extension extra
    fail failed fails failure field file for format found from has have id identifier if import in incorrect index
    instance integer internal invalid invariant is it items json key known last later least length less level limit
    line list literal local logical longer malformed many match matched matches matching maximum member method minimum
    missing modifier more most multiple must name namespace no none not null number object occurrences of on one only
    operation or other out outside parse parsed parsing path pattern permitted please position positive prefix present
    previous primitive processing profile profiles properties property provided range read reason received
    recognised recognized reference referenced references regex regular repeat repeated repeating request require
    required requires resolve resolved resource resources response retry rule satisfy schema search server service set
    should shorter single size slice slicing start status store string structure such supported syntax system target
    than that the there this throttled time timeout to token too try type types unable unexpected unique unit unknown
    unrecognised unrecognized unsupported update uri url valid validate validated validation validator value values
    version was were when where which while with within without wrong
    fhir FHIR JSON URI URL
    """.split()  # noqa: SIM905 -- a list of words
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
# A word, with all that is stuck to it: `Smith-Jones` and `12.3` are one each, a path of elements is several.
_TOKEN = re.compile(r"[^\W_](?:[\w^@/+~%&*#-]|[.:](?=\w))*")
_ODD = re.compile(r"[^\w\s.,:;=()\[\]{}<>…-]|_")
_CUTS = re.compile(rf"{CUT}(?:[\s,;.:=-]*{CUT})+")
_INDEX = re.compile(r"\[\d+\]")


@cache
def _schema() -> frozenset[str]:
    """Names of the types and elements of R4."""
    from ahi.fhir.definitions import load_definitions

    return load_definitions().names


def _shown(token: str) -> str:
    """A word or path of elements if every part of it is known."""
    parts = token.split(".")
    known = all(part in _schema() or part in _WORDS or part[:1].lower() + part[1:] in _WORDS for part in parts)
    return token if known else CUT


@lru_cache(maxsize=1_000)
def template(text: str) -> str:
    """A diagnostic with known words alone: the same for all lines with the same fault, and of no person."""
    text = _QUOTED.sub(CUT, _INDEX.sub("[]", " ".join(text.split())))
    text = _ODD.sub(CUT, _TOKEN.sub(lambda found: _shown(found.group()), text))
    return _CUTS.sub(CUT, text)[:LONGEST]
