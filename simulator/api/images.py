"""vmm: images (nutanix-v4 §17)."""

from __future__ import annotations

from simulator.api.routes import Answer, Call, Catalogue
from simulator.cluster import entity_tag
from simulator.documents import Record
from simulator.errors import SchemaError
from simulator.images import IMAGE_REL, image_bytes

catalogue = Catalogue("vmm", "vmm.v4.content")
route = catalogue.route

IMAGES, IMAGE = "/content/images", "/content/images/{image}"
_FILTERS = ("name", "description", "type", "sizeBytes")


def _image(call: Call) -> Record:
    return call.cluster.require("image", call.params["image"], "vmm")


def _tag(image: Record) -> str:
    return entity_tag(image.document, image.revision)


@route("GET", IMAGES)
def list_images(call: Call) -> Answer:
    images = [r.document for r in call.cluster.documents.all("image")]
    return call.page(images, filters=_FILTERS, orders=(*_FILTERS, "lastUpdateTime"))


@route("POST", IMAGES)
def create_image(call: Call) -> Answer:
    call.need("name", "type", "source")
    if call.body["type"] not in ("DISK_IMAGE", "ISO_IMAGE"):
        raise SchemaError(f"{call.body['type']!r} is not a type of image.", "type")
    ext_id = call.cluster.new_id()
    return call.task("kImageCreate", {"extId": ext_id, "spec": call.body}, (IMAGE_REL, ext_id))


@route("GET", IMAGE)
def get_image(call: Call) -> Answer:
    image = _image(call)
    return Answer(image.document, tag=_tag(image))


@route("GET", f"{IMAGE}/file")
def get_image_file(call: Call) -> Answer:
    image = _image(call)
    name = f'attachment; filename="{image.ext_id}"'
    return Answer(
        raw=image_bytes(call.cluster, image),
        media_type="application/octet-stream",
        headers={"content-disposition": name},
    )


@route("PUT", IMAGE)
def update_image(call: Call) -> Answer:
    image = _image(call)
    call.check_tag(_tag(image))
    return call.task(
        "kImageUpdate", {"extId": image.ext_id, "spec": call.body}, (IMAGE_REL, image.ext_id)
    )


@route("DELETE", IMAGE)
def delete_image(call: Call) -> Answer:
    image = _image(call)
    call.check_tag(_tag(image), is_required=False)
    return call.task("kImageDelete", {"extId": image.ext_id}, (IMAGE_REL, image.ext_id))


@route("GET", "/content/ovas", since_minor=1)
def list_ovas(call: Call) -> Answer:
    return call.page([])


@route("GET", "/content/templates")
def list_templates(call: Call) -> Answer:
    return call.page([])
