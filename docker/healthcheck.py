"""The image's health check: exit 0 if the gateway in this container is alive, else 1 with one line that says why.

Rules:
- It asks `/healthz`, so it says that the gateway answers, not that an engine does; `/readyz` says that.
- `GATEWAY_HEALTH_URL` is where a config has put the gateway, if not at port 8080. A certificate is not checked: it
  names the host that clients use, and this connection leads from the container to itself.
- Only the standard library: `python -I -S` starts it in a fraction of the gateway's own time, every ten seconds.
"""

import os
import ssl
import sys
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8080/healthz"
PATIENCE = 4.0
"""Seconds, less than the image's HEALTHCHECK allows, so that a slow gateway is told in words."""


def main() -> int:
    """Ask once. Return the exit status."""
    url = os.environ.get("GATEWAY_HEALTH_URL") or URL
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=_unchecked()))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=PATIENCE) as answer:
            answer.read(1)
    except (OSError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    return 0


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


if __name__ == "__main__":
    sys.exit(main())
