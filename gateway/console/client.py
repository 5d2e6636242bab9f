"""HTTP requests of the command line to a running gateway, by the standard library.

Rules:
- Every failure is a `Failed` with one line for the person at the terminal.
- The key comes from an environment variable, never from the command line, where other users could read it.
- No redirect is followed and no proxy is used: the key is sent to the host of the URL and to no other.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

URL = "http://127.0.0.1:8080"
KEY_ENV = "GATEWAY_KEY"
PATIENCE = 10.0
"""Seconds the gateway may take for an answer it has ready."""
SILENCE = 60.0
"""Seconds of silence in a stream in which the gateway gives signs of life."""
LONG = 660.0
"""Seconds of silence while an engine works; the gateway itself gives up a little earlier."""


class Failed(Exception):
    """A command failed; the message says why in one line."""


ADMIN = "a key with `admin: true`"


def add_arguments(parser: argparse.ArgumentParser, nested: bool = False, key: str = ADMIN) -> None:
    """Add the options that name the gateway and the key.

    `nested`: the command is part of another one that has them too, whose options count where its own are left out.
    `key`: what kind of key the command needs.
    """
    parser.add_argument(
        "--url", default=argparse.SUPPRESS if nested else URL, help=f"the gateway (default: {URL})"
    )
    parser.add_argument(
        "--key-env",
        default=argparse.SUPPRESS if nested else KEY_ENV,
        metavar="NAME",
        help=f"the environment variable that holds {key} (default: {KEY_ENV})",
    )
    parser.add_argument(
        "--ca",
        default=argparse.SUPPRESS if nested else None,
        metavar="FILE",
        help="certificates to trust instead of the system's, for a gateway with a certificate of your own",
    )


class Answered(NamedTuple):
    """What the gateway answered to a request for an engine."""

    status: int
    request_id: str
    retry_after: float | None
    """Seconds after which the request may come again, where the answer says so."""
    body: bytes


class Client:
    """One gateway."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        key_env: str = KEY_ENV,
        patience: float = PATIENCE,
        ca: str | None = None,
    ) -> None:
        """Prepare requests to the gateway at a URL. Raises Failed for what is no URL.

        `key_env` is the environment variable that the key was taken from, for messages. `patience` is how many seconds
        the gateway may take for an answer it has ready. `ca` is the file of certificates that it is trusted by; None
        for the system's.
        """
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname, parts.port
        except ValueError:
            self._host = None
        if not self._host or parts.scheme not in ("http", "https"):
            raise Failed(f"{url!r} is no URL such as {URL}")
        self._tls = _trusting(ca) if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self.url = url
        self._patience = patience
        self._key = key
        self._key_env = key_env
        self._kept: http.client.HTTPConnection | None = None
        """The connection of `send`, while it is open."""

    @classmethod
    def of(cls, options: argparse.Namespace, patience: float = PATIENCE) -> Client:
        """Return the client for the gateway that a command's options name."""
        return cls(
            options.url, os.environ.get(options.key_env) or None, options.key_env, patience, options.ca
        )

    def backends(self) -> list[dict[str, Any]]:
        """Return every backend, as `GET /gateway/backends` answers."""
        return self._list("/gateway/backends")

    def models(self) -> list[dict[str, Any]]:
        """Return every model, as `GET /gateway/models` answers."""
        return self._list("/gateway/models")

    def status(self) -> dict[str, Any]:
        """Return the state of the gateway, as `GET /gateway/status` answers."""
        return self._map("GET", "/gateway/status")

    def requests(self, filters: dict[str, str]) -> dict[str, Any]:
        """Return the requests that run, as `GET /gateway/requests` answers with these filters."""
        return self._map("GET", "/gateway/requests" + (f"?{urlencode(filters)}" if filters else ""))

    def cancel(self, id: str) -> int:
        """Cancel the requests with an id. Return how many there were."""
        return int(self._map("DELETE", f"/gateway/requests/{quote(id, safe='')}")["cancelled"])

    def canaries(self) -> list[dict[str, Any]]:
        """Return the canaries of the routes, as `GET /gateway/canaries` answers."""
        return self._list("/gateway/canaries")

    def reset_canary(self, route: str) -> dict[str, Any]:
        """Begin the canary of a route again. Return it as it is then."""
        return self._map("POST", f"/gateway/canaries/{quote(route, safe='')}/reset", {})

    def metrics(self) -> str:
        """Return the metrics page."""
        page = b"".join(self._exchange("GET", "/metrics", None, self._patience))
        return page.decode(errors="replace")

    def order(self, backend: str, what: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Give an order for a backend, such as `drain`. Return the backend as it is then."""
        return self._map("POST", f"/gateway/backends/{quote(backend, safe='')}/{what}", arguments)

    def _map(self, method: str, path: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the object that the gateway answers."""
        found = self._ask(method, path, arguments)
        if not isinstance(found, dict):
            raise self._stranger()
        return found

    def _list(self, path: str) -> list[dict[str, Any]]:
        """Return the list of objects that the gateway answers."""
        found = self._ask("GET", path)
        try:
            return [{**view} for view in found]
        except TypeError:
            raise self._stranger() from None

    def _ask(self, method: str, path: str, arguments: dict[str, Any] | None = None) -> Any:
        """Return the JSON that the gateway answers."""
        body = None if arguments is None else json.dumps(arguments).encode()
        try:
            return json.loads(b"".join(self._exchange(method, path, body, self._patience)))
        except ValueError:
            raise self._stranger() from None

    def _stranger(self) -> Failed:
        return Failed(f"what answers at {self.url} is not the gateway")

    def reload(self) -> dict[str, Any]:
        """Have the config read anew, and return what `POST /gateway/reload` answers."""
        body = b"".join(self._exchange("POST", "/gateway/reload", b"{}", LONG))
        try:
            found: dict[str, Any] = json.loads(body)
            return {name: found[name] for name in ("result", "version", "changes", "notes")}
        except (ValueError, TypeError, KeyError):
            raise self._stranger() from None

    def profile(self) -> dict[str, Any]:
        """Return the profiles, as `GET /gateway/profile` answers."""
        return self._map("GET", "/gateway/profile")

    def choose_profile(self, name: str | None) -> dict[str, Any]:
        """Have a profile be active, or none. Return what `POST /gateway/profile` answers."""
        return self._map("POST", "/gateway/profile", {"profile": name})

    def logs(self, backend: str, lines: int, follow: bool) -> Iterator[dict[str, Any]]:
        """Yield what a launched engine has printed, as `GET /gateway/backends/{name}/logs` answers, line by line."""
        query = urlencode({"lines": lines, "follow": follow})
        rest = b""
        for piece in self._exchange(
            "GET", f"/gateway/backends/{quote(backend, safe='')}/logs?{query}", None, SILENCE
        ):
            *whole, rest = (rest + piece).split(b"\n")
            for line in filter(None, whole):
                try:
                    found = json.loads(line)
                except ValueError:
                    raise self._stranger() from None
                if not isinstance(found, dict):
                    raise self._stranger()
                yield found

    def act(self, backend: str, action: str, arguments: dict[str, Any]) -> Iterator[bytes]:
        """Have a backend carry out an action. Yield the answer's lines as they come."""
        path = f"/gateway/backends/{quote(backend, safe='')}/{quote(action, safe='')}"
        rest = b""
        for piece in self._exchange("POST", path, json.dumps(arguments).encode(), LONG):
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
        yield rest

    def alive(self) -> None:
        """Ask whether the gateway lives. Raises Failed where it does not, or is none."""
        self._map("GET", "/healthz")

    def send(self, path: str, body: bytes, headers: dict[str, str]) -> Answered:
        """Return what the gateway answers to a request for an engine, whatever its status. Raises Failed.

        The connection is kept for the next request.
        """
        for is_new in (self._kept is None, True):
            connection = self._kept if self._kept is not None else self._connection()
            self._kept = connection
            try:
                connection.request("POST", self._prefix + path, body, {**self._headers(body), **headers})
                answer = connection.getresponse()
                return _answered(answer, answer.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                # The gateway may have closed a connection that was kept, as it does with idle ones.
                if is_new:
                    raise self._unreached(error) from None
        raise AssertionError

    def close(self) -> None:
        """Close the connection of `send`."""
        connection, self._kept = self._kept, None
        if connection is not None:
            connection.close()

    def refusal(self, answer: Answered, key: str = ADMIN) -> str:
        """Return why the gateway refused, in words for the person at the terminal. `key`: what kind it takes."""
        return self._refusal(answer.status, answer.body, key)

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {"content-type": "application/json"} if body is not None else {}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        return headers

    def _unreached(self, error: Exception) -> Failed:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Failed(f"cannot reach the gateway at {self.url}: {why}")

    def _connection(self) -> http.client.HTTPConnection:
        host = self._host or ""
        if self._tls is None:
            return http.client.HTTPConnection(host, self._port, timeout=self._patience)
        return http.client.HTTPSConnection(host, self._port, timeout=self._patience, context=self._tls)

    def _exchange(self, method: str, path: str, body: bytes | None, patience: float) -> Iterator[bytes]:
        connection = self._connection()
        try:
            connection.connect()
            connection.sock.settimeout(patience)
            connection.request(method, self._prefix + path, body, self._headers(body))
            answer = connection.getresponse()
            if answer.status != 200:
                raise Failed(self._refusal(answer.status, answer.read()))
            while piece := answer.read1(65536):
                yield piece
        except http.client.IncompleteRead:
            raise Failed("the answer broke off") from None
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message.rstrip(".")
            hint = (
                "`--url` needs a name that is in it"
                if "mismatch" in why
                else "`--ca FILE` names whom to trust"
            )
            raise Failed(f"the certificate at {self.url} is not trusted: {why}; {hint}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreached(error) from None
        finally:
            connection.close()

    def _refusal(self, status: int, body: bytes, key: str = ADMIN) -> str:
        """Return why the gateway refused, and what helps where it wants an operator's key."""
        try:
            error = json.loads(body)["error"]
            message, code = str(error["message"]), error.get("code")
        except (ValueError, TypeError, KeyError, AttributeError):
            return f"it answered with status {status}"
        if status == 401:
            return f"{message}; put {key} into the environment variable {self._key_env}"
        if code == "admin_required" and self._key is not None:
            return f"{message}: give it `admin: true` in the config, or put another into {self._key_env}"
        return message


def _answered(answer: http.client.HTTPResponse, body: bytes) -> Answered:
    """Return an answer whose body has been read."""
    asked = answer.getheader("retry-after", "")
    seconds = float(asked) if asked.isdecimal() else None
    return Answered(answer.status, answer.getheader("x-request-id", ""), seconds, body)


def _trusting(ca: str | None) -> ssl.SSLContext:
    """Return what trusts the certificates of a file, or the system's. Raises Failed."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        why = (
            "it holds no certificates"
            if isinstance(error, ssl.SSLError)
            else getattr(error, "strerror", None) or error
        )
        raise Failed(f"cannot use {ca}: {why}") from None


def printable(text: str) -> str:
    """Return text without control characters: what engines say may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
