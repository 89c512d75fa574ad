"""Errors that say whether to try again. Belongs here: that distinction.

Does not belong here: what is wrong with one object, which is no error but a row of the ledger or of quarantine.
"""

from __future__ import annotations


class PermanentError(Exception):
    """It would fail in the same way again until a person changes something; the text names what."""
