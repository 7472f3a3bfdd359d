"""What a verification leaves for the next: the ledger of packs read, and the findings still open.

Both only spare work or repeat what was found. A store that does not take them costs a warning in the
log; the verification goes on and reports all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from repository.errors import StoreError
from repository.findings import Finding
from repository.ledger import Ledger
from repository.open_findings import OpenFindings, Settled
from repository.units import Clock

_LOG = logging.getLogger(__name__)


class VerifyMemory:
    """Writes what one verification learnt; with `remembers` False it writes nothing at all."""

    def __init__(self, open_findings: OpenFindings, clock: Clock, *, remembers: bool) -> None:
        self._open_findings = open_findings
        self._clock = clock
        self._remembers = remembers

    def write_ledger(self, ledger: Ledger, listed: frozenset[bytes] | None = None) -> None:
        """The ledger is advice: a store that does not take it costs reading again, not the run."""
        if not self._remembers:
            return
        try:
            ledger.write(listed)
        except StoreError as error:
            _LOG.warning("the verify ledger was not written: %s", error)

    def settle(self, found: Sequence[Finding], is_in_sight: Callable[[Finding], bool]) -> Settled:
        """Keep the findings open; they are reported all the same if the store does not take them."""
        if self._remembers:
            try:
                return self._open_findings.settle(found, is_in_sight, self._clock.now())
            except StoreError as error:
                _LOG.warning("the findings could not be kept open: %s", error)
        return Settled(self._open_findings.besides(found), ())

    def forget_unreadable(self) -> None:
        """Remove open findings that cannot be read; for when everything was looked at anew."""
        if self._remembers:
            self._open_findings.remove_unreadable()
