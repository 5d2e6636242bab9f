"""Azure OpenAI's paths, which name the model as a deployment, said as OpenAI's.

Rules:
- A deployment is a model's name, and counts more than the body's `model`: there is where Azure's clients say it.
- Any `api-version` is taken. What has no deployment in its path (`/openai/v1/...`, `/openai/models`) is OpenAI's path
  below `/openai`.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

_ROOT = "/openai/"
_DEPLOYMENTS = "/openai/deployments/"


class Meant(NamedTuple):
    """A path of OpenAI's, and the deployment that is asked for; empty where the path names none."""

    path: str
    deployment: str = ""


def meant(path: str) -> Meant:
    """Return what a path of Azure's means; any other path as it is. Encoded slashes belong to a deployment's name."""
    if not path.startswith(_ROOT):
        return Meant(path)
    if path.startswith(_DEPLOYMENTS):
        name, slash, rest = path[len(_DEPLOYMENTS) :].partition("/")
        if name and slash:
            return Meant(f"/v1/{rest}", unquote(name))
    rest = path[len(_ROOT) :]
    return Meant("/" + rest if rest.startswith("v1/") else f"/v1/{rest}")
