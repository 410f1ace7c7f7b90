"""An SMTP server that takes everything and keeps it."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Postbox:
    """Listens on `port`; `mails` are the texts that came, `logins` how the senders introduced themselves."""

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[str] = []
        self.logins: list[str] = []


@contextmanager
def postbox() -> Iterator[Postbox]:
    box = Postbox()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 postbox")
            while line := self.rfile.readline().decode().strip():
                match line.split()[0].upper():
                    case "EHLO":
                        self._say("250-postbox\r\n250 AUTH PLAIN")
                    case "AUTH":
                        box.logins.append(line)
                        self._say("235 good")
                    case "DATA":
                        self._say("354 go on")
                        box.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
                        self._say("250 taken")
                    case "QUIT":
                        self._say("221 bye")
                        return
                    case _:
                        self._say("250 fine")

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        box.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield box
        server.shutdown()
