"""Verbs on images: what VMs are made from (`nutanix-v4 §17`)."""

from __future__ import annotations

from nutanix.answers import Answer, Subject
from nutanix.api import Api, conditional_request_id
from nutanix.errors import AnswerUnusable, NotFound
from nutanix.models.inventory import Image
from nutanix.models.wire import typed

IMAGES = "content/images"
CREATED = ("vmm:content:image", "vmm:images:image")
FETCH_TIMEOUT_S = 3600.0
"""A cluster fetches an image at the pace of its line, not ours."""


class ImageVerbs(Api):
    """List, fetch and delete images."""

    def images(self) -> list[Image]:
        """Every image that the account may see."""
        return self._list(Image, "vmm", IMAGES, purpose="list images")

    def create_image_from_url(self, name: str, url: str, *, request_id: str | None = None) -> str:
        """Have the cluster fetch a disk image over HTTP, and wait; its id.

        Raises `OperationFailed` when the cluster cannot reach the URL, `PermissionDenied` for a role
        without image rights (`nutanix-v4 §20`).
        """
        purpose = f"fetch image {name} from {url}"
        body = typed(
            "vmm.v4.content.Image",
            name=name,
            type="DISK_IMAGE",
            description="Fetched by ahvault for its workers.",
            source=typed("vmm.v4.content.UrlSource", url=url, shouldAllowInsecureUrl=False),
        )
        operation_id = self._start(
            "POST", "vmm", IMAGES, purpose=purpose, body=body, request_id=request_id
        )
        operation = self.wait_for_operation(
            operation_id, purpose=purpose, timeout_s=FETCH_TIMEOUT_S
        )
        created = operation.entity_ids(*CREATED)
        if len(created) != 1:
            raise AnswerUnusable(purpose, f"its finished task names {len(created)} images")
        return created[0]

    def delete_image(self, image_id: str, *, request_id: str | None = None) -> None:
        """Delete an image and wait; disks made from it stay. One that is gone already is a success."""
        purpose = f"delete image {image_id}"

        def act(current: Answer) -> None:
            operation_id = self._start(
                "DELETE",
                "vmm",
                f"{IMAGES}/{image_id}",
                purpose=purpose,
                subject=Subject("image", image_id),
                etag=current.etag,
                request_id=conditional_request_id(request_id, current.etag),
            )
            self.wait_for_operation(operation_id, purpose=purpose)

        try:
            self._change(lambda: self._get("vmm", IMAGES, image_id, "image"), act)
        except NotFound as error:
            if error.object_id != image_id:
                raise
