"""Client keys and their hashes. Pure but for the system's randomness.

Rules:
- Only the hash is written to the config file; the key itself is shown once and kept nowhere.
- A key holds 256 random bits, so a plain SHA-256 is enough: there is nothing to guess, and checking stays cheap.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets

PREFIX = "gw-"


def new_key(name: str) -> tuple[str, str]:
    """Return a new key for the holder `name`, and the line for it below `keys:` in the config file."""
    shown = name if re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]*", name) else json.dumps(name)
    plain = PREFIX + secrets.token_urlsafe(32)
    return plain, f'{shown}: {{hash: "{hash_key(plain)}"}}'


def hash_key(plain: str) -> str:
    """Return what the config file stores of a key: "sha256:" and 64 hex digits."""
    return f"sha256:{hashlib.sha256(plain.encode()).hexdigest()}"
