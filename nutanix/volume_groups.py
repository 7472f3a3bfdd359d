"""Verbs on volume groups: make, attach, detach, delete (`nutanix-v4 §16`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from nutanix.answers import Answer, Subject
from nutanix.api import Api, conditional_request_id, parse
from nutanix.errors import AnswerUnusable, NotFound
from nutanix.models.operations import Operation
from nutanix.models.volume_groups import (
    IscsiClient,
    VmAttachment,
    VolumeDisk,
    VolumeDiskSource,
    VolumeGroup,
)
from nutanix.models.wire import WireModel, typed

GROUPS = "config/volume-groups"
KIND = "volume group"
DETACH_ROUNDS_MAX = 3
TEMPORARY_TARGET = "ahvault"
"""How the iSCSI target of a temporary volume group begins, so that a machine's sessions show it as ours."""


class _SubListAttachment(WireModel):
    ext_id: str
    index: int | None = None


class VolumeGroupVerbs(Api):
    """Volume groups carry disks to a worker and away again."""

    def create_volume_group(
        self,
        *,
        name: str,
        cluster_id: str,
        disks: Sequence[VolumeDiskSource],
        request_id: str,
        description: str | None = None,
        is_temporary: bool = True,
    ) -> str:
        """Make a volume group with all its disks; its id, once readable.

        A temporary one is hidden from people and carries data for a while; the other kind stays
        and is theirs. Calling again with the same `request_id` waits for the first call's work.
        """
        body = typed(
            "volumes.v4.config.VolumeGroup",
            name=name,
            description=description,
            clusterReference=cluster_id,
            usageType="TEMPORARY" if is_temporary else "USER",
            sharingStatus="NOT_SHARED",
            isHidden=is_temporary,
            targetPrefix=TEMPORARY_TARGET if is_temporary else None,
            shouldLoadBalanceVmAttachments=False,
            disks=[disk.wire() for disk in disks],
        )
        purpose = f"create volume group {name}"
        operation_id = self._start(
            "POST", "volumes", GROUPS, purpose=purpose, body=body, request_id=request_id
        )
        group_id = _created_id(self.wait_for_operation(operation_id, purpose=purpose), purpose)
        return self._retry_fresh(lambda: self.volume_group(group_id)).id

    def volume_group(self, volume_group_id: str) -> VolumeGroup:
        """One volume group by id; `NotFound` when it is gone."""
        return self._get_model(VolumeGroup, "volumes", GROUPS, volume_group_id, KIND)

    def volume_groups(self, *, name_prefix: str = "") -> list[VolumeGroup]:
        """All volume groups whose name starts with `name_prefix`."""
        listed = self._list_by_prefix(
            VolumeGroup, "volumes", GROUPS, name_prefix, purpose="list volume groups"
        )
        return [group for group in listed if group.name.startswith(name_prefix)]

    def volume_disks(self, volume_group_id: str) -> list[VolumeDisk]:
        """The disks of a volume group, by index."""
        purpose = f"list the disks of volume group {volume_group_id}"
        path = f"{GROUPS}/{volume_group_id}/disks"
        disks = self._list(VolumeDisk, "volumes", path, purpose=purpose)
        return sorted(disks, key=lambda disk: disk.index)

    def vm_attachments(self, volume_group_id: str) -> tuple[VmAttachment, ...]:
        """The VMs a volume group is attached to; `NotFound` when it is gone."""
        return self._attachments(self._get("volumes", GROUPS, volume_group_id, KIND))

    def attach_volume_group(
        self,
        volume_group_id: str,
        vm_id: str,
        *,
        index: int | None = None,
        request_id: str | None = None,
    ) -> VmAttachment:
        """Attach a volume group to a VM and wait; the attachment with the index it got.

        Its devices appear on a running VM a moment later (`attached_disks`). Attached already is
        a success. Without `index` the cluster chooses one.
        """
        purpose = f"attach volume group {volume_group_id} to VM {vm_id}"

        def act(current: Answer) -> None:
            if any(each.vm_id == vm_id for each in self._attachments(current)):
                return
            self._run_action(
                volume_group_id,
                "attach-vm",
                _vm_body(vm_id, index),
                purpose=purpose,
                current=current,
                request_id=request_id,
            )

        self._change(lambda: self._get("volumes", GROUPS, volume_group_id, KIND), act)
        for attachment in self.vm_attachments(volume_group_id):
            if attachment.vm_id == vm_id:
                return attachment
        raise AnswerUnusable(purpose, "its task succeeded, but the volume group is not attached")

    def detach_volume_group(
        self, volume_group_id: str, vm_id: str, *, request_id: str | None = None
    ) -> None:
        """Detach a volume group from a VM and wait. Detached, or gone, already is a success."""
        purpose = f"detach volume group {volume_group_id} from VM {vm_id}"

        def act(current: Answer) -> None:
            for attachment in self._attachments(current):
                if attachment.vm_id == vm_id:
                    self._run_action(
                        volume_group_id,
                        "detach-vm",
                        _vm_body(vm_id, attachment.index),
                        purpose=purpose,
                        current=current,
                        request_id=request_id,
                    )

        try:
            self._change(lambda: self._get("volumes", GROUPS, volume_group_id, KIND), act)
        except NotFound as error:
            if error.object_id != volume_group_id:
                raise

    def attach_iscsi_client(
        self,
        volume_group_id: str,
        initiator_name: str,
        *,
        chap_secret: SecretStr | None = None,
        request_id: str | None = None,
    ) -> tuple[str, str]:
        """Let an iSCSI initiator reach the volume group, and wait.

        Returns the client's id, for the detach, and the name of the target without its prefix. The
        first attach of an initiator makes the client. Attached already is a success. With
        `chap_secret` (12 to 16 characters) the target asks for it.
        """
        purpose = f"attach volume group {volume_group_id} to iSCSI initiator {initiator_name}"
        body = typed(
            "volumes.v4.config.IscsiClient",
            iscsiInitiatorName=initiator_name,
            clientSecret=chap_secret.get_secret_value() if chap_secret else None,
            enabledAuthentications="CHAP" if chap_secret else None,
        )

        def act(current: Answer) -> None:
            if self._client_of(current, initiator_name) is None:
                self._run_action(
                    volume_group_id,
                    "attach-iscsi-client",
                    body,
                    purpose=purpose,
                    current=current,
                    request_id=request_id,
                )

        self._change(lambda: self._get("volumes", GROUPS, volume_group_id, KIND), act)
        attached = self._get("volumes", GROUPS, volume_group_id, KIND)
        client_id = self._client_of(attached, initiator_name)
        if client_id is None:
            raise AnswerUnusable(purpose, "its task succeeded, but the initiator is not attached")
        target_name = parse(VolumeGroup, attached.data, purpose).target_name
        if target_name is None:
            raise AnswerUnusable(purpose, "the volume group has no target name")
        return client_id, target_name

    def detach_iscsi_client(
        self, volume_group_id: str, client_id: str, *, request_id: str | None = None
    ) -> None:
        """Take the volume group away from an iSCSI client, and wait. Detached already is a success."""
        purpose = f"detach volume group {volume_group_id} from iSCSI client {client_id}"

        def act(current: Answer) -> None:
            group = parse(VolumeGroup, current.data, "read a volume group")
            if client_id in group.iscsi_client_ids:
                self._run_action(
                    volume_group_id,
                    "detach-iscsi-client",
                    typed("volumes.v4.config.IscsiClientAttachment", extId=client_id),
                    purpose=purpose,
                    current=current,
                    request_id=request_id,
                )

        try:
            self._change(lambda: self._get("volumes", GROUPS, volume_group_id, KIND), act)
        except NotFound as error:
            if error.object_id != volume_group_id:
                raise

    def _client_of(self, current: Answer, initiator_name: str) -> str | None:
        """The attached client of this initiator name, if there is one."""
        group = parse(VolumeGroup, current.data, "read a volume group")
        for client_id in group.iscsi_client_ids:
            path = "config/iscsi-clients"
            client = self._get_model(IscsiClient, "volumes", path, client_id, "iSCSI client")
            if client.initiator_name == initiator_name:
                return client.id
        return None

    def delete_volume_group(self, volume_group_id: str, *, request_id: str | None = None) -> None:
        """Detach a volume group from every VM and iSCSI client, delete it with its disks, and wait.

        One that is gone already is a success.
        """
        purpose = f"delete volume group {volume_group_id}"

        def act(current: Answer) -> None:
            operation_id = self._start(
                "DELETE",
                "volumes",
                f"{GROUPS}/{volume_group_id}",
                purpose=purpose,
                subject=Subject(KIND, volume_group_id),
                etag=current.etag,
                request_id=conditional_request_id(request_id, current.etag),
            )
            self.wait_for_operation(operation_id, purpose=purpose)

        try:
            self.detach_from_all(volume_group_id)
            self._change(lambda: self._get("volumes", GROUPS, volume_group_id, KIND), act)
        except NotFound as error:
            if error.object_id != volume_group_id:
                raise

    def detach_from_all(self, volume_group_id: str) -> None:
        """Detach a volume group from every VM and iSCSI client; `NotFound` when it is gone."""
        for _ in range(DETACH_ROUNDS_MAX):
            attachments = self.vm_attachments(volume_group_id)
            client_ids = self.volume_group(volume_group_id).iscsi_client_ids
            if not attachments and not client_ids:
                return
            for attachment in attachments:
                self.detach_volume_group(volume_group_id, attachment.vm_id)
            for client_id in client_ids:
                self.detach_iscsi_client(volume_group_id, client_id)

    def _attachments(self, current: Answer) -> tuple[VmAttachment, ...]:
        """From the volume group itself, or from the older sub-list when it has none (`§16`)."""
        group = parse(VolumeGroup, current.data, "read a volume group")
        if group.wire_attachments is not None or self.versions.at_least("volumes", "v4.1"):
            return group.vm_attachments
        path = f"{GROUPS}/{group.id}/vm-attachments"
        purpose = f"list the attachments of volume group {group.id}"
        listed = self._list(_SubListAttachment, "volumes", path, purpose=purpose)
        return tuple(VmAttachment(group.id, each.ext_id, each.index) for each in listed)

    def _run_action(
        self,
        volume_group_id: str,
        action: str,
        body: dict[str, Any],
        *,
        purpose: str,
        current: Answer,
        request_id: str | None,
    ) -> Operation:
        operation_id = self._start(
            "POST",
            "volumes",
            f"{GROUPS}/{volume_group_id}/$actions/{action}",
            purpose=purpose,
            subject=Subject(KIND, volume_group_id),
            body=body,
            etag=current.etag,
            request_id=conditional_request_id(request_id, current.etag),
        )
        return self.wait_for_operation(operation_id, purpose=purpose)


def _vm_body(vm_id: str, index: int | None) -> dict[str, Any]:
    return typed("volumes.v4.config.VmAttachment", extId=vm_id, index=index)


def _created_id(operation: Operation, purpose: str) -> str:
    created = operation.entity_ids("volumes:config:volume-group")
    if len(created) != 1:
        raise AnswerUnusable(purpose, f"its finished task names {len(created)} volume groups")
    return created[0]
