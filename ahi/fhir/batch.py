"""What spans the lines of a batch. Belongs here: resources that come twice, references that lead nowhere.

Does not belong here: a single line (`validate`), deciding what to do about either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from ahi.fhir.references import relative_references
from ahi.fhir.validate import payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ahi.fhir.validate import Validator, Verdict


class Place(NamedTuple):
    """Where a line stands: the name of its file, and its number from 1."""

    file: str
    line: int


class Duplicate(NamedTuple):
    """A resource that comes again in a batch.

    HealthLake does not say which of two lines with one id wins, so those with different content are a conflict.
    """

    reference: str
    first: Place
    again: Place
    same_content: bool


class Dangling(NamedTuple):
    """A reference to a resource that is neither in the batch nor known; legal, and often a file left out."""

    reference: str
    first: Place


@dataclass
class Batch:
    """Judges the lines of a batch one after the other, in memory that grows with their number and not their size.

    Attributes:
        validator: Judge of each line.
        resolve: Whether references are gathered for `dangling`.
        duplicates: Every line whose resource had come before in the batch.
    """

    validator: Validator
    resolve: bool = False
    duplicates: list[Duplicate] = field(default_factory=list)
    _seen: dict[str, tuple[Place, bytes]] = field(default_factory=dict)
    _targets: dict[str, Place] = field(default_factory=dict)

    def check(self, line: bytes, place: Place) -> Verdict:
        """Verdict on a line. One that is to be refused counts neither as a resource nor with its references."""
        verdict = self.validator.check(line)
        if not verdict.ok or verdict.id is None:
            return verdict
        reference = f"{verdict.kind}/{verdict.id}"
        digest = blake2b(payload(line), digest_size=16).digest()
        first, known = self._seen.setdefault(reference, (place, digest))
        if first is not place:
            self.duplicates.append(Duplicate(reference, first, place, known == digest))
        if self.resolve:
            for target in relative_references(line):
                self._targets.setdefault(target, place)
        return verdict

    def dangling(self, known: Callable[[str], bool] = lambda _: False) -> Iterator[Dangling]:
        """References without a target, each once, in order of appearance.

        Args:
            known: Whether a resource such as `Patient/1` is in the data store already.
        """
        for target, place in self._targets.items():
            if target not in self._seen and not known(target):
                yield Dangling(target, place)
