"""Certificates and servers that are something else, over real sockets."""

from __future__ import annotations

import socket
import socketserver
import threading

import pytest

from nutanix import (
    AhvClient,
    CertificateUntrusted,
    ClusterConnection,
    ClusterUnreachable,
    LoginRefused,
    NotPrism,
    NutanixError,
)
from simulator import Simulator


@pytest.fixture(scope="module")
def sim():
    with Simulator(size=0.05) as running:
        yield running


def test_the_ca_file_is_enough(sim, connect):
    """With the CA that signed it, the simulator's certificate is trusted on both listeners."""
    with connect(sim) as client:
        assert {vm.name for vm in client.vms()} >= {"web01", "db01"}


def test_an_untrusted_certificate_names_the_way_out(sim, connect):
    """Without the CA the error names ca_file; nothing was sent."""
    with connect(sim, ca_file=None) as client, pytest.raises(CertificateUntrusted) as caught:
        client.vms()
    assert "ca_file" in str(caught.value)
    assert not caught.value.is_transient


def test_a_name_that_the_certificate_lacks(sim, connect):
    """The right CA and another name for the same address is still refused."""
    port = sim.describe()["pc_url"].rsplit(":", 1)[1]
    with connect(sim, url=f"127.0.0.9:{port}") as client, pytest.raises(NutanixError) as caught:
        client.vms()
    assert isinstance(caught.value, CertificateUntrusted | ClusterUnreachable)


def test_verification_can_be_switched_off(sim, connect):
    """The explicit opt-out works without any CA."""
    with connect(sim, ca_file=None, verify_tls=False) as client:
        assert client.vms()


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_bad_ca_file_is_named(sim, connect, tmp_path, content):
    """A missing or empty CA file is told by its name before anything is sent."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CertificateUntrusted, match=r"ca\.pem"):
        connect(sim, ca_file=path)


def test_a_wrong_password(sim, connect):
    """The simulator's 401 becomes LoginRefused; the password is not repeated."""
    with connect(sim, password="guess") as client, pytest.raises(LoginRefused) as caught:
        client.vms()
    assert "guess" not in str(caught.value)


def test_nobody_listens():
    """A closed port is unreachable, at once, with the address in the message."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connection = ClusterConnection(url=f"127.0.0.1:{port}", username="u", password="p")
    with AhvClient(connection) as client, pytest.raises(ClusterUnreachable, match=str(port)):
        client.vms()


def test_a_name_that_does_not_exist():
    """An unknown host name is unreachable too."""
    connection = ClusterConnection(url="pc.invalid", username="u", password="p")
    with AhvClient(connection) as client, pytest.raises(ClusterUnreachable, match=r"pc\.invalid"):
        client.vms()


def test_plain_http_is_not_a_prism():
    """A server that does not speak TLS is told as what it is."""

    class Clear(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Clear) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.server_address[1]
        connection = ClusterConnection(url=f"127.0.0.1:{port}", username="u", password="p")
        with AhvClient(connection) as client, pytest.raises(NotPrism, match="does not speak TLS"):
            client.vms()
        server.shutdown()
        thread.join()
