"""TCP ports: free ones for the roles, and a clear word when the wanted one is taken."""

import errno
import random
import socket

from aiia_cli.errors import UserError

LOOPBACK = "127.0.0.1"
# Below the kernel's range for outgoing connections, so that none of those takes a port while its role restarts, and
# above the ports that Ray and its replicas take.
_INTERNAL_PORTS = range(26000, 32000)


def free_ports(count: int) -> list[int]:
    """That many different ports nobody listens on, on loopback."""
    found: list[int] = []
    for port in random.sample(_INTERNAL_PORTS, len(_INTERNAL_PORTS)):
        if len(found) == count:
            return found
        if _error_binding(LOOPBACK, port) is None:
            found.append(port)
    raise UserError("No free TCP port is left on this machine between 26000 and 32000.")


def require_free(host: str, port: int) -> None:
    """Raises `UserError` with what to do if a server cannot listen there."""
    error = _error_binding(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise UserError(f"Port {port} on {host} is taken by another program. Choose another: aiia up --port {port + 1}")
    if error.errno == errno.EACCES:
        raise UserError(f"Port {port} needs more rights than you have. Choose one above 1023: aiia up --port 8000")
    raise UserError(f"aiia cannot listen on {host}:{port}: {error.strerror}. Choose another: aiia up --host ADDRESS")


def _error_binding(host: str, port: int) -> OSError | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as server:
            # As servers do: connections of an earlier one that linger in TIME_WAIT do not matter.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
            server.listen(1)
    except OSError as error:
        return error
    return None
