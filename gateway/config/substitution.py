"""Substitutions: `${env.NAME}`, `${env.NAME:-fallback}` and `${file:/path}` in the text of one value.

Rules:
- The forms of other programs, `os.environ/NAME` and `$NAME`, are a mistake: they would be taken for the value itself.
- `$${` is a literal `${`; any other `${` is a mistake. Nothing is filled in twice.
- A fallback stands in for a variable that is unset or empty, as in a shell. Without one, unset is a mistake.
- A file gives its text without one newline at its end. It is a regular file, in UTF-8 and of bounded size.
- Error messages name variables and paths, never what they hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from backends.facts.launching import place
from gateway.config.disk import Files
from gateway.config.problems import closest

FILE_BYTES = 64 * 2**10
"""The largest file that may be filled in."""


_FOREIGN = re.compile(r"os\.environ/(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\$(?P<plain>[A-Z_][A-Z0-9_]*)")


def has_some(text: str) -> bool:
    """Tell whether something is to be filled in into a value, or looks so."""
    return "${" in text or text.startswith(("os.environ/", "$"))


class Substitution:
    """The substitutions of one environment, for one scalar at a time."""

    _PART = re.compile(r"\$\$\{|\$\{(?P<body>[^{}]*)\}|\$\{")
    _ENV = re.compile(r"env\.(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-(?P<fallback>.*))?", re.DOTALL)

    def __init__(self, environ: Mapping[str, str], files: Files) -> None:
        """Take variables from `environ` and files from `files`."""
        self._environ = environ
        self._files = files

    def fill(self, text: str, complain: Callable[[str], None]) -> tuple[str, bool]:
        """Return the text with its substitutions filled in, and whether it had any. `complain` is told each mistake."""
        if foreign := _FOREIGN.fullmatch(text):
            name = foreign["name"] or foreign["plain"]
            complain(f"nothing is filled in here: write ${{env.{name}}} for the environment variable")
        parts: list[str] = []
        end, substituted = 0, False
        for match in self._PART.finditer(text):
            parts.append(text[end : match.start()])
            end = match.end()
            if match[0] == "$${":
                parts.append("${")
            elif match["body"] is None:
                complain("'${' is not closed with '}'; write $${ for a literal '${'")
            else:
                substituted = True
                parts.append(self._value(match["body"], complain))
        return "".join([*parts, text[end:]]), substituted

    def _value(self, body: str, complain: Callable[[str], None]) -> str:
        if body.startswith("file:"):
            return self._file(body.removeprefix("file:"), complain)
        match = self._ENV.fullmatch(body)
        if not match:
            hint = f" (did you mean ${{env.{body}}}?)" if re.fullmatch(r"[A-Z][A-Z0-9_]*", body) else ""
            complain(
                "unknown substitution: there are ${env.NAME}, ${env.NAME:-fallback} and ${file:/path}, "
                f"and $${{ for a literal '${{'{hint}"
            )
            return ""
        name, value = match["name"], self._environ.get(match["name"])
        if match["default"] and not value:
            return str(match["fallback"])
        if value is None:
            near = closest(name, self._environ)
            complain(
                f"environment variable {name} is not set" + (f" (did you mean '{near}'?)" if near else "")
            )
        elif any("\ud800" <= character <= "\udfff" for character in value):
            complain(f"environment variable {name} is not UTF-8 text")
        else:
            return value
        return ""

    def _file(self, name: str, complain: Callable[[str], None]) -> str:
        shown = place(repr(name)[1:-1])
        try:
            if not self._files.is_regular(name):
                complain(f"cannot read {shown}: not a regular file")
                return ""
            data = self._files.content(name, FILE_BYTES)
            if len(data) > FILE_BYTES:
                complain(f"cannot read {shown}: larger than {FILE_BYTES >> 10} KiB")
                return ""
            return data.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            complain(f"cannot read {shown}: not UTF-8 text")
        except (OSError, ValueError) as error:
            complain(f"cannot read {shown}: {reason(error)}")
        return ""


def reason(error: Exception) -> str:
    """Return why a file cannot be read, without its name."""
    return (error.strerror if isinstance(error, OSError) else None) or "not a usable path"
