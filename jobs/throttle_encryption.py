"""What goes to or comes from a store at a public address is encrypted on its way (Q8).

Either by the transport or by the repository: one of them is enough. It is the store's address that
counts, because a private one is reached through no internet, whatever the address of this machine.
Restores are under it like backups: what comes back can be read on the way as well as what goes.
"""

from __future__ import annotations

from jobs.addresses import AddressRange
from jobs.errors import TransferUnencrypted
from jobs.throttle_book import ThrottleSettings
from jobs.throttle_place import addresses_elsewhere, mount_encrypts
from jobs.throttle_rules import PUBLIC_RULE
from repository import Repository

_PUBLIC = AddressRange.parse("public")


def require_encryption(
    repository: Repository, settings: ThrottleSettings, host: str | None
) -> None:
    """Raise `TransferUnencrypted` if data would go in the clear to the host where it must not.

    A host of several addresses is public if any of them is: nobody knows which one is taken.
    """
    if not settings.public_rule.encrypt or repository.is_encrypted or host is None:
        return
    if repository.encrypts_transport or mount_encrypts(repository.url):
        return
    public = [str(each) for each in addresses_elsewhere(host) if _PUBLIC.holds(each)]
    if public:
        raise TransferUnencrypted(repository.url, host, public[0], PUBLIC_RULE)
