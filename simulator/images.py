"""Images: disks and ISO files that VMs are made from (nutanix-v4 §17)."""

from __future__ import annotations

import os
import tempfile
import urllib.request
from pathlib import Path
from urllib.error import URLError

from simulator.clock import stamp
from simulator.cluster import Cluster, operation, refuse
from simulator.documents import Record
from simulator.errors import RefusedError
from simulator.sparse import MiB
from simulator.tasks import RunningTask

IMAGE_REL = "vmm:content:image"
_STEP_BYTES = 1 * MiB
_FETCH_S_MAX = 60.0


@operation("kImageCreate")
def create_image(cluster: Cluster, task: RunningTask) -> None:
    """Make an image from a URL that the cluster fetches, or from a VM's disk as it is now."""
    spec, ext_id = task.arguments["spec"], task.arguments["extId"]
    source = spec.get("source") or {}
    kind = str(source.get("$objectType", "")).rpartition(".")[2]
    if kind == "UrlSource":
        vdisk = _fetched(cluster, str(source.get("url", "")))
    elif kind == "VmDiskSource":
        vdisk = cluster.disks.clone(_owned_disk(cluster, str(source.get("extId", ""))))
    else:
        raise _bad(f"The image source {kind or 'nothing'} is not supported.")
    task.owns(vdisk)
    now = stamp(cluster.clock.now())
    document = {
        "$objectType": "vmm.v4.content.Image",
        "extId": ext_id,
        **{
            k: spec[k]
            for k in ("name", "type", "description", "categoryExtIds")
            if spec.get(k) is not None
        },
        "source": {k: v for k, v in source.items() if k != "basicAuth"},
        "sizeBytes": cluster.disks.get(vdisk).live.size_bytes,
        "clusterLocationExtIds": [cluster.aos.ext_id],
        "createTime": now,
        "lastUpdateTime": now,
    }
    with task.finishing() as outcome:
        cluster.documents.put("image", ext_id, document, {"vdisks": [vdisk]})
        outcome.affects(IMAGE_REL, ext_id, spec["name"])


def _owned_disk(cluster: Cluster, disk_id: str) -> str:
    if not any(disk_id in vm.private["vdisks"] for vm in cluster.documents.all("vm")):
        raise _bad(f"No VM has a disk {disk_id}.")
    return disk_id


def _fetched(cluster: Cluster, url: str) -> str:
    """Fetch over HTTP, keeping runs of zeros as holes; returns a new vdisk."""
    if not url.startswith(("http://", "https://")):
        raise _bad(f"The URL {url!r} is not one of HTTP.")
    descriptor, name = tempfile.mkstemp(dir=cluster.scratch)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # The scheme is checked above, so no local file can be read through this.
            with urllib.request.urlopen(url, timeout=_FETCH_S_MAX) as answer:  # noqa: S310
                while chunk := answer.read(_STEP_BYTES):
                    file.write(chunk) if any(chunk) else file.seek(len(chunk), os.SEEK_CUR)
            file.truncate()
        return cluster.disks.import_file(path, path.stat().st_size)
    except (URLError, OSError) as error:
        raise _bad(f"The image could not be fetched from {url}: {error}") from error
    finally:
        path.unlink(missing_ok=True)


def _bad(message: str) -> RefusedError:
    return refuse(message, code="VMM-20001", group="IMAGE_INVALID_INPUT")


@operation("kImageUpdate")
def update_image(cluster: Cluster, task: RunningTask) -> None:
    """Change name and description."""
    with task.finishing() as outcome:
        image = cluster.require("image", task.arguments["extId"], "vmm")
        given = {
            k: v for k, v in task.arguments["spec"].items() if k in ("name", "description") and v
        }
        cluster.documents.put("image", image.ext_id, {**image.document, **given})
        outcome.affects(IMAGE_REL, image.ext_id)


@operation("kImageDelete")
def delete_image(cluster: Cluster, task: RunningTask) -> None:
    """Delete an image; disks made from it are clones and stay."""
    with task.finishing() as outcome:
        image = cluster.require("image", task.arguments["extId"], "vmm")
        cluster.documents.delete("image", image.ext_id)
        outcome.affects(IMAGE_REL, image.ext_id)
    for vdisk in image.private["vdisks"]:
        cluster.disks.drop_live(vdisk)


def image_bytes(cluster: Cluster, image: Record) -> bytes:
    """The whole image; meant for the small ones that tests download."""
    return cluster.disks.live_path(image.private["vdisks"][0]).read_bytes()
