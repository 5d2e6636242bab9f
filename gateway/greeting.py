"""The text that `gateway serve` prints when it is ready: where it listens, and commands to try. Pure."""

from __future__ import annotations

import textwrap

SHOWN = 8
"""How many model names are shown."""


def address(host: str, port: int, scheme: str = "http") -> str:
    """Return the URL under which this machine reaches a listening socket."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{shown}:{port}"


def greeting(url: str, models: list[str], open_to_all: bool, metrics: str = "") -> str:
    """Return lines that make a first request easy. Without `open_to_all` they take the key from GATEWAY_KEY.

    `metrics` is the URL of the port of metrics, if they have one of their own.
    """
    auth = "" if open_to_all else ' -H "Authorization: Bearer $GATEWAY_KEY"'
    python_key = '"-"' if open_to_all else 'os.environ["GATEWAY_KEY"]'
    hint = "" if open_to_all else "\n        first    export GATEWAY_KEY=<a key of the config>"
    imports = "from openai import OpenAI" if open_to_all else "import os; from openai import OpenAI"
    return textwrap.dedent(
        f"""
        models   {", ".join(models[:SHOWN])}{" ..." if len(models) > SHOWN else ""}
        docs     {url}/docs     metrics  {metrics or url}/metrics     stop: Ctrl-C{hint}

        curl {url}/v1/chat/completions -H "Content-Type: application/json"{auth} \\
          -d '{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "What is this gateway?"}}]}}'

        # pip install openai
        {imports}
        client = OpenAI(base_url="{url}/v1", api_key={python_key})
        for chunk in client.chat.completions.create(model="{models[0]}", stream=True,
                messages=[{{"role": "user", "content": "Which engines do you support?"}}]):
            print(chunk.choices[0].delta.content or "", end="", flush=True)

        print()
        """
    )
