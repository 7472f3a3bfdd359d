"""Record what the vendor's own SDK sends for the client's calls. Not a test: the oracle behind one.

Runs in an environment of its own, because the SDK pins an older urllib3 than the project uses:

    python3 -m venv sdk && sdk/bin/pip install ntnx-vmm-py-client==4.3.2 ntnx-dataprotection-py-client==4.4.2 \
        ntnx-volumes-py-client==4.3.2 ntnx-prism-py-client==4.4.2 ntnx-clustermgmt-py-client==4.3.2 \
        ntnx-networking-py-client==4.4.2
    AHVAULT_WRITE_CLIENT_CALLS=calls.json pytest tests/nutanix/test_sdk_recordings.py
    sdk/bin/python tests/nutanix/record_sdk.py calls.json tests/nutanix/data/sdk_requests.json

Each body that the client sent becomes the SDK's own model (unknown fields are noted), every property
goes through the SDK's validating setter, and the SDK then sends it to a server on loopback.
"""

from __future__ import annotations

import copy
import importlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

KEPT_HEADERS = ("accept", "content-type", "if-match", "cookie")
VERBS = {
    "GET ahv/config/vms (list)": ("VmApi", "list_vms"),
    "GET ahv/config/vms/{}": ("VmApi", "get_vm_by_id"),
    "POST ahv/config/vms": ("VmApi", "create_vm"),
    "DELETE ahv/config/vms/{}": ("VmApi", "delete_vm_by_id"),
    "POST ahv/config/vms/{}/$actions/power-on": ("VmApi", "power_on_vm"),
    "POST ahv/config/vms/{}/$actions/power-off": ("VmApi", "power_off_vm"),
    "GET ahv/config/vm-recovery-points/{}": (
        "VmRecoveryPointsApi",
        "get_vm_recovery_point_by_ext_id",
    ),
    "GET config/clusters (list)": ("ClustersApi", "list_clusters"),
    "GET config/hosts (list)": ("ClustersApi", "list_hosts"),
    "GET config/storage-containers (list)": ("StorageContainersApi", "list_storage_containers"),
    "GET config/subnets (list)": ("SubnetsApi", "list_subnets"),
    "GET config/categories (list)": ("CategoriesApi", "list_categories"),
    "GET config/tasks/{}": ("TasksApi", "get_task_by_id"),
    "POST config/recovery-points": ("RecoveryPointsApi", "create_recovery_point"),
    "GET config/recovery-points/{}": ("RecoveryPointsApi", "get_recovery_point_by_id"),
    "GET config/recovery-points (list)": ("RecoveryPointsApi", "list_recovery_points"),
    "DELETE config/recovery-points/{}": ("RecoveryPointsApi", "delete_recovery_point_by_id"),
    "GET config/recovery-points/{}/vm-recovery-points/{}": (
        "RecoveryPointsApi",
        "get_vm_recovery_point_by_id",
    ),
    "POST config/recovery-points/{}/$actions/set-expiration-time": (
        "RecoveryPointsApi",
        "set_recovery_point_expiration_time",
    ),
    "POST config/recovery-points/{}/$actions/discover-cluster": (
        "RecoveryPointsApi",
        "discover_cluster_for_recovery_point_id",
    ),
    "POST content/recovery-points/{}/vm-recovery-points/{}/disk-recovery-points/{}"
    "/$actions/compute-changed-regions": (
        "RecoveryPointsApi",
        "vm_recovery_point_compute_changed_regions",
    ),
    "POST content/recovery-points/{}/volume-group-recovery-points/{}/disk-recovery-points/{}"
    "/$actions/compute-changed-regions": (
        "RecoveryPointsApi",
        "volume_group_recovery_point_compute_changed_regions",
    ),
    "POST config/volume-groups": ("VolumeGroupsApi", "create_volume_group"),
    "GET config/volume-groups/{}": ("VolumeGroupsApi", "get_volume_group_by_id"),
    "GET config/volume-groups (list)": ("VolumeGroupsApi", "list_volume_groups"),
    "DELETE config/volume-groups/{}": ("VolumeGroupsApi", "delete_volume_group_by_id"),
    "GET config/volume-groups/{}/disks (list)": (
        "VolumeGroupsApi",
        "list_volume_disks_by_volume_group_id",
    ),
    "POST config/volume-groups/{}/$actions/attach-vm": ("VolumeGroupsApi", "attach_vm"),
    "POST config/volume-groups/{}/$actions/detach-vm": ("VolumeGroupsApi", "detach_vm"),
    "POST config/volume-groups/{}/$actions/attach-iscsi-client": (
        "VolumeGroupsApi",
        "attach_iscsi_client",
    ),
    "POST config/volume-groups/{}/$actions/detach-iscsi-client": (
        "VolumeGroupsApi",
        "detach_iscsi_client",
    ),
    "GET config/iscsi-clients/{}": ("IscsiClientsApi", "get_iscsi_client_by_id"),
}
BODIES_WITHOUT_TYPE = {
    "set_recovery_point_expiration_time": "dataprotection.v4.config.ExpirationTimeSpec"
}


class Recorder(BaseHTTPRequestHandler):
    """Answers every call with an empty envelope and keeps what was asked."""

    last: dict[str, Any] = {}
    newest: dict[str, str] = {}

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        Recorder.last = {
            "method": self.command,
            "path": unquote(parts.path),
            "query": dict(parse_qsl(parts.query)),
            "headers": {k.lower(): v for k, v in self.headers.items() if k.lower() in KEPT_HEADERS},
            "body": json.loads(body) if body else None,
        }
        data = "v4.9" if self.command == "OPTIONS" else None
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def log_message(self, *words: object) -> None:
        """Nothing: the recording is the output."""


def bare(value: Any) -> Any:
    """A body without the SDK's own bookkeeping."""
    if isinstance(value, dict):
        skipped = ("$reserved", "$unknownFields")
        return {key: bare(each) for key, each in value.items() if key not in skipped}
    return [bare(each) for each in value] if isinstance(value, list) else value


def validate(model: Any, where: str, complaints: list[str]) -> None:
    """Put every value through its setter, and note what the SDK's model does not know."""
    if isinstance(model, list):
        for place, each in enumerate(model):
            validate(each, f"{where}[{place}]", complaints)
        return
    if isinstance(model, dict):
        complaints.append(f"{where}: stays a plain object: {sorted(model)}")
        return
    if not hasattr(model, "swagger_types"):
        return
    unknown = model.get_unknown_fields() if hasattr(model, "get_unknown_fields") else {}
    complaints += [f"{where}.{name}: not in the model" for name in unknown or {}]
    for name in model.swagger_types:
        value = getattr(model, name, None)
        if value is None or name.startswith("_"):
            continue
        try:
            setattr(model, name, value)
        except (ValueError, TypeError, AttributeError) as error:
            complaints.append(f"{where}.{name}: {error}")
        validate(value, f"{where}.{name}", complaints)


def sdk_client(namespace: str, port: int) -> tuple[Any, Any]:
    module = importlib.import_module(f"ntnx_{namespace}_py_client")
    configuration = module.Configuration()
    configuration.scheme, configuration.host, configuration.port = "http", "127.0.0.1", port
    configuration.username, configuration.password = "u", "p"
    return module, module.ApiClient(configuration=configuration)


def record(name: str, call: dict[str, Any], port: int) -> dict[str, Any]:
    _, _, namespace, _, rest = call["path"].split("/", 4)
    pattern = re.sub(r"[^/]*-[0-9a-f]{4}-[^/]*|ZXJn[^/]*", "{}", rest)
    listed = " (list)" if name.endswith("(list)") else ""
    api_name, verb = VERBS[f"{call['method']} {pattern}{listed}"]
    module, client = sdk_client(namespace, port)
    ids = re.findall(r"[^/]*-[0-9a-f]{4}-[^/]*|ZXJn[^/]*", rest)
    options = {f"_{key[1:]}": value for key, value in call["query"].items()}
    options = {key: int(value) if value.isdigit() else value for key, value in options.items()}
    for header in ("if-match", "cookie"):
        if header in call["headers"] and header != "cookie":
            options[header.replace("-", "_")] = call["headers"][header]
    complaints: list[str] = []
    arguments = list(ids)
    if call["body"] is not None:
        body = copy.deepcopy(call["body"])
        kind = body.get("$objectType") or BODIES_WITHOUT_TYPE[verb]
        model = client.deserialize(body, kind)
        validate(model, "$", complaints)
        arguments.append(model)
    if "cookie" in call["headers"]:
        client.add_default_header("Cookie", call["headers"]["cookie"])
    getattr(getattr(module, api_name)(client), verb)(*arguments, **options)
    sent = dict(Recorder.last)
    sent["body"] = bare(sent["body"])
    return {"client": call, "sdk": sent, "unknown_to_sdk": complaints}


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    recorded = {}
    for name, call in json.loads(source.read_text(encoding="utf-8")).items():
        if call["method"] != "OPTIONS":
            recorded[name] = record(name, call, server.server_port)
    server.shutdown()
    target.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
