"""An issuer of OpenID Connect that knows one person and asks nothing."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit


class Issuer:
    """At `url`. `person` is what it says of whoever comes; `asked` are the parameters of the last request to log in."""

    def __init__(self) -> None:
        self.url = ""
        self.person: dict[str, Any] = {
            "sub": "7",
            "email": "grace@example.org",
            "email_verified": True,
            "preferred_username": "grace",
        }
        self.asked: dict[str, str] = {}


@contextmanager
def issuer() -> Iterator[Issuer]:
    fake = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path == "/.well-known/openid-configuration":
                self._json(
                    {
                        "issuer": fake.url,
                        "authorization_endpoint": f"{fake.url}/authorize",
                        "token_endpoint": f"{fake.url}/token",
                        "userinfo_endpoint": f"{fake.url}/userinfo",
                        "jwks_uri": f"{fake.url}/keys",
                        "token_endpoint_auth_methods_supported": ["client_secret_post"],
                    }
                )
            elif address.path == "/authorize":
                fake.asked = {name: values[0] for name, values in parse_qs(address.query).items()}
                back = urlencode({"code": "a-code", "state": fake.asked["state"]})
                self.send_response(302)
                self.send_header("Location", f"{fake.asked['redirect_uri']}?{back}")
                self.end_headers()
            elif address.path == "/userinfo" and self.headers["Authorization"] == "Bearer a-token":
                self._json(fake.person)
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            is_right = form["code"] == ["a-code"] and form["client_secret"] == ["sesame"] and "code_verifier" in form
            self._json({"access_token": "a-token", "token_type": "Bearer"} if is_right else {"error": "invalid_grant"})

        def _json(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield fake
    server.shutdown()
    server.server_close()
