"""Answers `GET /live` and `GET /ready` over HTTP, for whoever routes requests or restarts containers. It judges nothing.

200 means yes, 503 no; the body is JSON that says why. Every other path and method is refused.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from runtime.errors import UnavailableError

READ_LIMIT_S = 5.0  # a prober that sends nothing holds a thread this long
Answer = tuple[bool, dict[str, Any]]
"""Yes or no, and what else the body says."""


class Probes:
    """Serves from construction on, in threads of its own; a context manager. A port of 0 means any free one.

    `answers` maps a path to a function, called by any thread. Raises UnavailableError if the port is taken.
    """

    def __init__(self, host: str, port: int, answers: Mapping[str, Callable[[], Answer]]) -> None:
        try:
            self._server = _Server((host, port), answers)
        except (OSError, OverflowError) as error:
            raise UnavailableError(f"port {port} of {host}: {error}; choose another, or 0 for any free one") from None
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="probes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more. Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(socketserver.ThreadingTCPServer):  # `HTTPServer` would look up its own name, which may take seconds
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], answers: Mapping[str, Callable[[], Answer]]) -> None:
        self.answers = answers
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_LIMIT_S
    server: _Server

    def do_GET(self) -> None:
        answer = self.server.answers.get(self.path)
        if answer is None:
            known = ", ".join(self.server.answers)
            self._send(HTTPStatus.NOT_FOUND, {"error": f"unknown path; known are {known}"})
            return
        is_yes, body = answer()
        self._send(HTTPStatus.OK if is_yes else HTTPStatus.SERVICE_UNAVAILABLE, body)

    def version_string(self) -> str:
        return "clipfacefusion"  # which Python answers is nobody's business

    def log_message(self, format: str, *arguments: object) -> None:
        """A probe every few seconds is no news."""

    def _send(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
