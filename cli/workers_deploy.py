"""`ahvault workers deploy`: a worker VM made over the API, tried out, and added to the settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr

from cli.config import load_settings
from cli.connections import open_cluster, open_repository
from cli.errors import ConfigInvalid, PrefectUnavailable, WorkerFailed
from cli.options import ClusterOptions, CommonOptions, RepositoryOptions, with_options
from cli.output import open_output, say
from cli.settings_file import add_worker, require_file

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs import DeployPlan, Session, TrialStep, WorkerBoot, WorkerSpec, WorkerWanted

EXAMPLES = """Examples:

- `ahvault workers deploy ahvault-worker-3 --image-url https://images.example.com/debian-12-genericcloud-amd64.raw --subnet backup --package 'ahvault[s3] @ git+https://git.example.com/ahvault'`
- `ahvault workers deploy ahvault-worker-3 --image debian-12 --subnet backup --host host-3 --slots 8 --package https://files.example.com/ahvault-0.1.0-py3-none-any.whl`
- `ahvault workers deploy ahvault-worker-3 --image debian-12 --subnet backup --package ahvault --dry-run`
"""

IMAGE = "ahvault-worker-debian"
FIRST_BOOT_S = 900.0
"""A first boot installs packages; later ones take seconds."""
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """How the worker is made, beside what must be said."""

    image: Annotated[
        str, typer.Option(help="Name of its image on the cluster.", metavar="IMAGE")
    ] = IMAGE
    image_url: Annotated[
        str | None,
        typer.Option(
            help="Where the cluster fetches the image if it has none of that name.", metavar="URL"
        ),
    ] = None
    slots: Annotated[int, typer.Option(min=1, max=64, help="How many VMs it moves at once.")] = 4
    vcpus: Annotated[
        int | None, typer.Option(min=1, help="Virtual CPUs; by default 2 and 1 per slot.")
    ] = None
    memory_gib: Annotated[
        int | None, typer.Option(min=1, help="Memory; by default 2 GiB and 1 per slot.")
    ] = None
    disk_gib: Annotated[int, typer.Option(min=1, help="Size of its own disk.")] = 100
    container: Annotated[
        str | None, typer.Option(help="Storage container of its disk.", metavar="CONTAINER")
    ] = None
    host: Annotated[
        str | None, typer.Option(help="Host that it is moved to when it runs.", metavar="HOST")
    ] = None
    queue: Annotated[
        str | None,
        typer.Option(
            help="Work queue of its Prefect worker; by default its name.", metavar="QUEUE"
        ),
    ] = None
    prefect_url: Annotated[
        str | None,
        typer.Option(
            help="API of the Prefect server, as the worker reaches it; by default $PREFECT_API_URL, which "
            "this machine asks where it is set. Without one it is a machine to run ahvault on.",
            metavar="URL",
        ),
    ] = None
    ssh_key: Annotated[
        list[Path] | None,
        typer.Option(help="Public key that may log in; may be repeated.", metavar="FILE"),
    ] = None
    device_root: Annotated[
        str, typer.Option(help="Directory where its disks appear to this machine.", metavar="DIR")
    ] = "/dev"
    boot_timeout_s: Annotated[float, typer.Option(help="Seconds that its first boot may take.")] = (
        FIRST_BOOT_S
    )


@with_options
def deploy(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    name: Annotated[
        str,
        typer.Argument(help="Name of the new worker: letters, digits, hyphens.", metavar="NAME"),
    ],
    subnet: Annotated[str, typer.Option(help="Subnet of its network card.", metavar="SUBNET")],
    package: Annotated[
        str,
        typer.Option(
            help="What pip installs there: a wheel's URL, or a git address; `ahvault[s3] @ ADDRESS` "
            "for a repository on S3, `[sftp]` on SFTP.",
            metavar="PACKAGE",
        ),
    ],
    options: DeployOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check and show what would be made.")
    ] = False,
) -> None:
    """Make a worker: image, VM, first boot by cloud-init, a trial; then add it to the settings.

    Sized by its slots. Whatever fails, nothing stays on the cluster and nothing is added; the same
    holds after a kill, from the next session on. An image that was fetched stays for the next worker.
    """
    settings = load_settings(common, cluster, repository)
    output = open_output(as_json=common.as_json)
    path = require_file(common.config)
    boot = _boot(name, package, options)
    wanted = _wanted(boot, subnet, options)
    spec = _spec(boot, options)
    from jobs import plan_deployment

    with open_cluster(settings) as client, open_repository(settings) as opened:
        plan = plan_deployment(client, wanted)
        steps: list[TrialStep] | None = None
        if not dry_run:
            _prepare_server(boot)
            from jobs import TRIAL_JOB, NullObserver, open_session

            with open_session(
                client=client,
                repository=opened,
                workers=[spec],
                job_name=TRIAL_JOB,
                observer=NullObserver(),
                queue_check=queue_check() if boot.queue else None,
            ) as run:
                steps = _make(run, plan, spec, path)
    result = _result(plan, steps, path, dry_run=dry_run)
    output.result(result, lambda: _view(result, boot))


def _boot(name: str, package: str, options: DeployOptions) -> WorkerBoot:
    """What the first boot must know. With a Prefect server the worker gets a queue of its own."""
    from jobs import WorkerBoot

    server = options.prefect_url or os.environ.get("PREFECT_API_URL") or None
    auth = os.environ.get("PREFECT_API_AUTH_STRING")
    return WorkerBoot(
        name=name,
        package=package,
        slots=options.slots,
        queue=(options.queue or name) if server else None,
        prefect_api_url=server,
        prefect_api_auth=SecretStr(auth) if auth else None,
        ssh_keys=tuple(_read_key(each) for each in options.ssh_key or ()),
    )


def _wanted(boot: WorkerBoot, subnet: str, options: DeployOptions) -> WorkerWanted:
    from jobs import WorkerWanted

    return WorkerWanted(
        boot=boot,
        image_name=options.image,
        image_url=options.image_url,
        subnet=subnet,
        container=options.container,
        host=options.host,
        vcpus=options.vcpus,
        memory_bytes=options.memory_gib * GIB if options.memory_gib else None,
        disk_bytes=options.disk_gib * GIB,
    )


def _spec(boot: WorkerBoot, options: DeployOptions) -> WorkerSpec:
    """The worker as this run knows it; its first boot gets more time than later ones."""
    from jobs import WorkerSpec

    return WorkerSpec(
        vm=boot.name,
        slots=boot.slots,
        queue=boot.queue,
        device_root=options.device_root,
        boot_timeout_s=options.boot_timeout_s,
    )


def _can_be_tried(spec: WorkerSpec) -> bool:
    """Whether the new worker's disks can be seen: by its own process, or by this machine."""
    return spec.queue is not None or spec.device_root != "/dev"


def _make(run: Session, plan: DeployPlan, spec: WorkerSpec, path: Path) -> list[TrialStep]:
    """Create, boot, try, add. Raises `WorkerFailed`; then nothing of it stays."""
    from jobs import deployed, try_worker

    steps: list[TrialStep] = []
    with deployed(run, plan, tell=say) as vm_id:
        if _can_be_tried(spec):
            say(f"first boot of {spec.vm}; this may take minutes")
            steps = try_worker(run)
        else:
            say("it installs itself now and stays on; its disks cannot be seen from here to try it")
            run.client.power_on(vm_id)
        for step in steps:
            if step.error is not None:
                raise WorkerFailed(spec.vm, f"{step.what}: {step.error}")
        if plan.host_id is not None:
            run.client.migrate_to_host(vm_id, plan.host_id)
        _add(path, spec)
    return steps


def _add(path: Path, spec: WorkerSpec) -> None:
    given = {"slots": spec.slots, "queue": spec.queue, "device_root": spec.device_root}
    defaults = {"slots": 4, "queue": None, "device_root": "/dev"}
    own = {name: value for name, value in given.items() if value != defaults[name]}
    add_worker(path, {"vm": spec.vm, **own})


def _prepare_server(boot: WorkerBoot) -> None:
    """Make the worker's queue on the Prefect server, if it has one; raises `PrefectUnavailable`."""
    if boot.queue is None or boot.prefect_api_url is None:
        return
    url = os.environ.setdefault("PREFECT_API_URL", boot.prefect_api_url)
    from cli.local_prefect import prepare_prefect

    prepare_prefect(verbose=False)
    from httpx import HTTPError
    from prefect.exceptions import PrefectException

    from flows.scale_out import prepare_queue

    try:
        prepare_queue(boot.queue)
    except (RuntimeError, HTTPError, PrefectException, OSError) as error:
        raise PrefectUnavailable(url, str(error)) from error


def queue_check() -> Callable[[str], str | None]:
    """How to find out whether a worker's own Prefect worker polls its queue."""
    from cli.local_prefect import prepare_prefect

    prepare_prefect(verbose=False)
    from tasks import why_unusable

    return why_unusable


def _read_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid("--ssh-key", str(path), "cannot be read") from error


def _result(
    plan: DeployPlan, steps: list[TrialStep] | None, path: Path, *, dry_run: bool
) -> dict[str, Any]:
    return {
        "worker": plan.boot.name,
        "dry_run": dry_run,
        "image": plan.image_name,
        "fetches_image": plan.image_id is None,
        "vcpus": plan.vcpus,
        "memory_bytes": plan.memory_bytes,
        "disk_bytes": plan.disk_bytes,
        "subnet_id": plan.subnet_id,
        "container_id": plan.container_id,
        "host_id": plan.host_id,
        "queue": plan.boot.queue,
        "added_to": None if dry_run else str(path),
        "steps": [each.model_dump() for each in steps or ()],
    }


def _view(result: dict[str, Any], boot: WorkerBoot) -> Iterator[RenderableType]:
    for step in result["steps"]:
        yield f"ok      {step['what']}"
    if not result["dry_run"]:
        yield f"Worker {result['worker']} is in {result['added_to']}."
        if result["queue"]:
            yield "Run `ahvault scale setup` with your jobs, so that their sessions know it."
        return
    image = "would be fetched" if result["fetches_image"] else "is there"
    yield (
        f"Worker {result['worker']}: {result['vcpus']} vCPUs, {result['memory_bytes'] // GIB} GiB of "
        f"memory, {result['disk_bytes'] // GIB} GiB disk; image {result['image']} {image}. Its first boot:"
    )
    yield ""
    yield boot.without_secrets().user_data()
