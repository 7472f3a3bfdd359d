"""A small iSCSI target in the standard library, so that a volume group attached to an initiator has a wire.

`Portal` listens and knows iSCSI (RFC 7143, one connection per session, no digests, error recovery level 0);
`LogicalUnit` knows SCSI block commands over a sparse file. Neither knows what a volume group is.
"""

from simulator.iscsi.portal import Exports, Portal, Target
from simulator.iscsi.unit import LogicalUnit

__all__ = ["Exports", "LogicalUnit", "Portal", "Target"]
