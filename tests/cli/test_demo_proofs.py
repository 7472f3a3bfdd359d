"""The demo's comparisons find what is different: a comparison that cannot fail proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from cli.demo.proofs import (
    BUFFER_BYTES,
    digest_disk,
    digest_file,
    first_difference,
    prove_inside,
    prove_points,
)
from repository import Repository
from simulator import Simulator, Story


def sparse(path: Path, pieces: dict[int, bytes], size_bytes: int) -> Path:
    """A sparse file with these pieces at their offsets."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for offset_bytes, piece in pieces.items():
            file.seek(offset_bytes)
            file.write(piece)
    return path


@pytest.mark.parametrize("at", [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, 2 * BUFFER_BYTES + 5])
def test_one_flipped_bit_is_found_where_it_is(tmp_path: Path, at: int) -> None:
    """By comparison at its exact offset, and by digest."""
    size_bytes = 2 * BUFFER_BYTES + 9
    one = sparse(tmp_path / "one", {at: b"\x02"}, size_bytes)
    other = sparse(tmp_path / "other", {at: b"\x03"}, size_bytes)
    assert first_difference(one, other) == at
    assert digest_file(one) != digest_file(other)


def test_a_shorter_file_differs_where_it_ends(tmp_path: Path) -> None:
    """Also when the rest of the longer one is zeros."""
    one = sparse(tmp_path / "one", {}, 100)
    other = sparse(tmp_path / "other", {}, 101)
    assert first_difference(one, other) == 100
    assert digest_file(one) != digest_file(other)
    assert first_difference(one, one) is None


def test_a_digest_is_of_all_bytes_also_those_in_holes(tmp_path: Path, stored) -> None:
    """Skipping holes changes the cost, never the digest; a stored disk has that of its file."""
    image = stored.images["db01 scsi.0"]
    (tmp_path / "image").write_bytes(image)
    expected = blake3(image).hexdigest()
    assert digest_file(tmp_path / "image") == expected
    with Repository.open(str(stored.path)) as repository:
        point = repository.points("id-of-db01").points[-1]
        assert digest_disk(repository.open_disk(point, "id-of-db01-scsi.0")) == expected


def test_a_restore_point_without_its_truth_does_not_hold(stored) -> None:
    """Only the digest that was taken from the recovery point makes a comparison hold."""
    with Repository.open(str(stored.path)) as repository:
        proofs = list(prove_points(repository, {}))
    assert len(proofs) == 5
    assert not any(proof.held for proof in proofs)


def test_the_inside_of_an_image_is_compared_file_by_file(tmp_path: Path) -> None:
    """A file more, less or different on the guest's side is found and named."""
    with Simulator(size=0.05, state=tmp_path / "state") as simulator:
        image = copy_of_live_disk(simulator, tmp_path)
        files = simulator.story.list_files("web01")
    assert prove_inside("web01", image, files).held
    path = next(iter(files))
    changed = {**files, path: {**files[path], "sha256": "0" * 64}}
    for wrong in (changed, {**files, "/new": {}}, {k: v for k, v in files.items() if k != path}):
        proof = prove_inside("web01", image, wrong)
        assert not proof.held
        assert "1 files differ" in proof.detail
    assert not prove_inside("web01", image, {}).held


def copy_of_live_disk(simulator: Simulator, folder: Path) -> Path:
    """The bytes of web01's disk as they are now."""
    story: Story = simulator.story
    vdisk = story.describe()["vms"]
    disk_id = next(vm["disks"][0] for vm in vdisk if vm["name"] == "web01")
    live = simulator.cluster.disks.live_path(disk_id)
    image = folder / "web01.raw"
    image.write_bytes(live.read_bytes())
    return image
