"""Media types of requests and answers: parsing, and which transfer syntaxes go under which name (PS3.18, 8.7.3).

Belongs here: the tables and the Accept header. Does not belong here: making pixels (`retrieve.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from local_aws.healthimaging.syntaxes import JPEG, RLE

DICOM = "application/dicom"
JSON = "application/dicom+json"
MULTIPART = "multipart/related"
# Media type of a stored frame: the first is ours when the client leaves the choice, the rest are taken as well.
# HTJ2K is image/jphc as a codestream; GetImageFrame's page calls it image/jph.
OF_SYNTAX: dict[str, tuple[str, ...]] = {
    **{JPEG + n: ("image/jpeg",) for n in ("50", "51", "57", "70")},
    **{JPEG + n: ("image/jls", "image/x-jls") for n in ("80", "81")},
    **{JPEG + n: ("image/jp2", "image/j2c", "image/x-jp2") for n in ("90", "91")},
    **{JPEG + n: ("image/jpx",) for n in ("92", "93")},
    **{JPEG + n: ("image/jxl",) for n in ("110", "111", "112")},
    **{JPEG + n: ("image/jphc", "image/jph") for n in ("201", "202", "203")},
    **{JPEG + n: ("video/mpeg", "video/mpeg2") for n in ("100", "100.1", "101", "101.1")},
    **{JPEG + n: ("video/mp4",) for n in ("102", "102.1", "103", "103.1", "104", "104.1", "105", "105.1")},
    **{JPEG + n: ("video/mp4",) for n in ("106", "106.1")},
    **{JPEG + n: ("video/H265", "video/H256") for n in ("107", "108")},
    RLE: ("image/dicom-rle", "image/x-dicom-rle"),
}


@dataclass(frozen=True)
class MediaType:
    """One media range of an Accept header, or a content type.

    Attributes:
        name: Such as `multipart/related`, lower case.
        parameters: Lower case names; quotes removed.
    """

    name: str
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def multipart(self) -> bool:
        """Whether it asks for several parts."""
        return self.name == MULTIPART

    @property
    def kind(self) -> str:
        """What is wanted, inside a multipart message or alone."""
        return self.parameters.get("type", "*/*").lower() if self.multipart else self.name

    @property
    def transfer_syntax(self) -> str:
        """A UID, `*`, or empty."""
        return self.parameters.get("transfer-syntax", "")

    @property
    def weight(self) -> float:
        """Its q value."""
        try:
            return float(self.parameters.get("q", "1"))
        except ValueError:
            return 1.0

    def covers(self, name: str) -> bool:
        """Whether a media type falls into the wanted range."""
        kind = self.kind
        return kind in {"*/*", name.lower()} or (kind.endswith("/*") and name.lower().startswith(kind[:-1]))


_QUOTED = r'"(?:[^"\\]|\\.)*"'


def _split(text: str, separator: str) -> list[str]:
    return [p.strip() for p in re.findall(rf'(?:{_QUOTED}|[^"{separator}]|")+', text) if p.strip()]


def media_type(text: str) -> MediaType:
    """Parse one media type."""
    name, *rest = _split(text, ";") or [""]
    parameters = {}
    for item in rest:
        key, _, value = item.partition("=")
        parameters[key.strip().lower()] = value.strip().strip('"').strip()
    return MediaType(name.lower(), parameters)


def accepted(header: str) -> list[MediaType]:
    """What an Accept header asks for, best first; everything when it is absent."""
    found = [media_type(part) for part in _split(header, ",")] or [MediaType("*/*")]
    return sorted((m for m in found if m.weight > 0), key=lambda m: -m.weight)
