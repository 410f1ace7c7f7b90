import socket

import pytest

from aiia_cli.errors import UserError
from aiia_cli.ports import free_ports, require_free

pytestmark = pytest.mark.unit


def test_free_ports_differ_and_can_be_listened_on() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_taken_port_names_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} on 127.0.0.1 is taken .*: aiia up --port {port + 1}"):
            require_free("127.0.0.1", port)


def test_address_of_another_machine() -> None:
    with pytest.raises(UserError, match=r"aiia cannot listen on 192\.0\.2\.1:8000"):
        require_free("192.0.2.1", 8000)
