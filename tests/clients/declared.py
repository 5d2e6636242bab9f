"""The clients that are run against the gateway, unmodified: which, in which version, and what is checked of each.

Rules:
- Versions are pinned; each client is installed into an environment of its own.
- A client that a program runs (`programs/`) carries out the same checks as all others, in each dialect that it speaks
  and each way a dialect can take. A client may have tests of its own, too, or have these alone.
- `heavy` are those whose installation costs the checks of every change too much: `make test-clients` alone runs them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Source(StrEnum):
    """Where a client comes from."""

    PYPI = "PyPI"
    NPM = "npm"
    HERE = "the machine itself"


class Dialect(StrEnum):
    """The API that a client speaks."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    OLLAMA = "ollama"
    GEMINI = "gemini"


WHOLE, STREAM, STREAMED = "whole answer", "stream", "streamed answer"
TOOL, TOOL_STREAM = "tool call", "streamed tool call"
RESULT, RESULT_STREAM = "tool result", "streamed tool result"
STRUCTURED, BY_TOOL = "structured answer", "structured answer by a tool"
STRUCTURED_STREAM = "streamed structured answer"
MODELS, COUNT, EMBEDDINGS = "model list", "token count", "embeddings"
WRONG_MODEL, WRONG_KEY = "wrong model", "wrong key"

NEEDS_TOOLS = frozenset({TOOL, TOOL_STREAM, RESULT, RESULT_STREAM, BY_TOOL, STRUCTURED_STREAM})
"""Checks for which the demo model, which calls no tools, is no use."""
FORCES_TOOLS = frozenset({BY_TOOL, STRUCTURED_STREAM})
"""Checks that make the model call a tool, which Ollama's own API cannot."""
WAYS: Final = MappingProxyType(
    {
        Dialect.CHAT: ("scripted-chat", "scripted-ollama"),
        Dialect.RESPONSES: ("demo", "scripted-chat"),
        Dialect.MESSAGES: ("demo", "scripted-chat"),
        Dialect.OLLAMA: ("scripted-ollama", "scripted-chat"),
        Dialect.GEMINI: ("demo", "scripted-chat"),
    }
)
"""The model that each dialect is asked for: the engine of the first speaks it, for the second it is translated.
None speaks Google's."""


@dataclass(frozen=True)
class Client:
    """A client of the gateway."""

    name: str
    packages: tuple[str, ...] = ()
    """With their versions; the first is the client itself."""
    source: Source = Source.PYPI
    heavy: bool = False
    program: str = ""
    """The file below `programs/` that runs it."""
    dialects: tuple[Dialect, ...] = ()
    """For a program: the dialects whose checks it carries out."""
    checks: tuple[str, ...] = ()
    """For a program: what is checked in each dialect that `only` does not name."""
    only: dict[Dialect, tuple[str, ...]] = field(default_factory=dict)
    """The checks of a dialect in which the client can do less, or more."""
    wrong_model: dict[Dialect, str] = field(default_factory=dict)
    """The class of what the client raises when the model is not there, by dialect."""
    wrong_key: dict[Dialect, str] = field(default_factory=dict)
    """The same for a key that the gateway does not know."""
    tests: tuple[str, ...] = ()
    """Beginnings of the ids, below `tests/clients/`, of the tests of its own that prove it."""

    @property
    def slug(self) -> str:
        """The client's name as a folder and a test have it."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower().replace("'s", "")).strip("-")

    @property
    def proofs(self) -> tuple[str, ...]:
        """Beginnings of the ids of its tests."""
        shared = (f"test_each_client.py::test_each_check[{self.slug}]",) if self.program else ()
        return (*shared, *self.tests)

    def checked(self, dialect: Dialect, model: str) -> tuple[str, ...]:
        """Return the checks of one way to ask."""
        wrong = [
            name
            for name, of in ((WRONG_MODEL, self.wrong_model), (WRONG_KEY, self.wrong_key))
            if dialect in of
        ]
        wanted = (*self.only.get(dialect, self.checks), *wrong)
        cannot = {"demo": NEEDS_TOOLS, "scripted-ollama": FORCES_TOOLS}.get(model, frozenset())
        return tuple(check for check in wanted if check not in cannot)


CHAT, RESPONSES, MESSAGES, OLLAMA, GEMINI = Dialect
_USUAL = (WHOLE, STREAM, TOOL, TOOL_STREAM, STRUCTURED)
_AI_SDK = (
    "ai@7.0.173",
    "@ai-sdk/openai-compatible@3.0.92",
    "@ai-sdk/openai@4.0.118",
    "@ai-sdk/anthropic@4.0.105",
    "zod@4.6.7",
)

CLAUDE_CODE: Final = Client(
    "Claude Code", ("@anthropic-ai/claude-code@2.1.332",), Source.NPM, tests=("test_claude_code.py",)
)
CODEX: Final = Client("Codex", ("@openai/codex@0.171.0",), Source.NPM, tests=("test_codex.py",))
OLD_ANTHROPIC: Final = Client(
    "Anthropic's SDK for Python, an old one",
    ("anthropic==0.40.0", "httpx<0.28"),
    program="anthropic_client.py",
    dialects=(MESSAGES,),
    checks=(WHOLE, STREAM, TOOL, TOOL_STREAM),
    wrong_model={MESSAGES: "NotFoundError"},
    wrong_key={MESSAGES: "AuthenticationError"},
    tests=("test_anthropic_sdks.py::test_an_old_sdk",),
)
ANTHROPIC_NPM: Final = Client(
    "Anthropic's SDK for JavaScript",
    ("@anthropic-ai/sdk@1.14.0", "zod@4.6.7"),
    Source.NPM,
    program="anthropic_npm.mjs",
    dialects=(MESSAGES,),
    checks=(*_USUAL, MODELS),
    wrong_model={MESSAGES: "NotFoundError"},
    wrong_key={MESSAGES: "AuthenticationError"},
    tests=("test_anthropic_sdks.py::test_the_sdk_for_javascript",),
)
PAGE_SDKS: Final = Client(
    "Three SDKs in a page in headless Chromium",
    ("openai@7.59.0", "@anthropic-ai/sdk@1.14.0", "ollama@0.6.4", "esbuild@0.28.2"),
    Source.NPM,
    tests=("test_browser.py::test_the_sdks_in_a_page",),
)
GUIDELLM: Final = Client(
    "GuideLLM", ("guidellm==0.8.1", "torch==2.13.0"), heavy=True, tests=("test_guidellm.py",)
)
OPEN_WEBUI: Final = Client(
    "Open WebUI", ("open-webui==0.12.4", "torch==2.13.0"), heavy=True, tests=("test_open_webui.py",)
)
AIDER: Final = Client("aider", ("aider-chat==0.86.2",), heavy=True, tests=("test_aider.py",))
OPENCODE: Final = Client(
    "OpenCode", ("opencode-ai@1.18.33",), Source.NPM, heavy=True, tests=("test_opencode.py",)
)
GEMINI_CLI: Final = Client(
    "Gemini CLI", ("@google/gemini-cli@0.61.0",), Source.NPM, heavy=True, tests=("test_gemini_cli.py",)
)

CLIENTS: Final = (
    Client(
        "OpenAI's SDK for Python",
        ("openai==3.57.0",),
        program="openai_client.py",
        dialects=(CHAT, RESPONSES),
        checks=_USUAL,
        only={CHAT: (*_USUAL, MODELS)},
        wrong_model=dict.fromkeys((CHAT, RESPONSES), "NotFoundError"),
        wrong_key=dict.fromkeys((CHAT, RESPONSES), "AuthenticationError"),
        tests=("test_openai_", "test_kept_responses.py"),
    ),
    Client(
        "Anthropic's SDK for Python",
        ("anthropic==2.14.0",),
        program="anthropic_client.py",
        dialects=(MESSAGES,),
        checks=(*_USUAL, MODELS),
        wrong_model={MESSAGES: "NotFoundError"},
        wrong_key={MESSAGES: "AuthenticationError"},
    ),
    OLD_ANTHROPIC,
    ANTHROPIC_NPM,
    Client(
        "OpenAI's SDK for JavaScript",
        ("openai@7.59.0", "zod@4.6.7"),
        Source.NPM,
        program="openai_npm.mjs",
        dialects=(CHAT, RESPONSES),
        checks=_USUAL,
        only={CHAT: (*_USUAL, MODELS)},
        wrong_model={CHAT: "NotFoundError", RESPONSES: "NotFoundError"},
        wrong_key={CHAT: "AuthenticationError", RESPONSES: "AuthenticationError"},
    ),
    Client(
        "Ollama's client for Python",
        ("ollama==0.6.3",),
        program="ollama_client.py",
        dialects=(OLLAMA,),
        checks=(*_USUAL, MODELS),
        wrong_model={OLLAMA: "ResponseError"},
        wrong_key={OLLAMA: "ResponseError"},
    ),
    Client(
        "Ollama's client for JavaScript",
        ("ollama@0.6.4",),
        Source.NPM,
        program="ollama_npm.mjs",
        dialects=(OLLAMA,),
        checks=(*_USUAL, MODELS),
        wrong_model={OLLAMA: "ResponseError"},
        wrong_key={OLLAMA: "ResponseError"},
    ),
    Client(
        "Google's SDK for Python",
        ("google-genai==3.6.1",),
        program="google_client.py",
        dialects=(GEMINI,),
        checks=(*_USUAL, RESULT, MODELS, COUNT, EMBEDDINGS),
        wrong_model={GEMINI: "ClientError"},
        wrong_key={GEMINI: "ClientError"},
    ),
    Client(
        "Google's SDK for JavaScript",
        ("@google/genai@3.3.0",),
        Source.NPM,
        program="google_npm.mjs",
        dialects=(GEMINI,),
        checks=(*_USUAL, MODELS, COUNT, EMBEDDINGS),
        wrong_model={GEMINI: "ApiError"},
        wrong_key={GEMINI: "ApiError"},
    ),
    Client(
        "genai for Rust, as a package for Python",
        ("genai-pyo3==0.7.1",),
        program="genai_client.py",
        dialects=(CHAT, RESPONSES, MESSAGES, OLLAMA),
        checks=(*_USUAL, MODELS),
        wrong_model=dict.fromkeys(Dialect, "BadRequestError"),
        wrong_key=dict.fromkeys(Dialect, "BadRequestError"),
    ),
    Client(
        "LangChain for OpenAI",
        ("langchain-openai==1.7.4",),
        program="langchain_openai_client.py",
        dialects=(CHAT, RESPONSES),
        checks=_USUAL,
        wrong_model=dict.fromkeys((CHAT, RESPONSES), "OpenAIModelNotFoundError"),
        wrong_key=dict.fromkeys((CHAT, RESPONSES), "OpenAIAuthenticationError"),
        tests=("test_langchain.py",),
    ),
    Client(
        "LangChain for Anthropic",
        ("langchain-anthropic==1.7.10",),
        program="langchain_anthropic_client.py",
        dialects=(MESSAGES,),
        checks=_USUAL,
        wrong_model={MESSAGES: "AnthropicModelNotFoundError"},
        wrong_key={MESSAGES: "AnthropicAuthenticationError"},
    ),
    Client(
        "LangChain for Ollama",
        ("langchain-ollama==1.1.0",),
        program="langchain_ollama_client.py",
        dialects=(OLLAMA,),
        checks=_USUAL,
        wrong_model={OLLAMA: "ResponseError"},
        wrong_key={OLLAMA: "ResponseError"},
    ),
    Client(
        "LlamaIndex",
        ("llama-index-llms-openai-like==0.8.1",),
        program="llama_index_client.py",
        dialects=(CHAT,),
        checks=(WHOLE, STREAM, TOOL, TOOL_STREAM, BY_TOOL),
        wrong_model={CHAT: "NotFoundError"},
        wrong_key={CHAT: "AuthenticationError"},
    ),
    Client(
        "Instructor",
        ("instructor==1.17.0", "anthropic==2.14.0"),
        program="instructor_client.py",
        dialects=(CHAT, MESSAGES),
        checks=(STRUCTURED, BY_TOOL, STRUCTURED_STREAM),
        only={MESSAGES: (BY_TOOL, STRUCTURED_STREAM)},
        wrong_model=dict.fromkeys((CHAT, MESSAGES), "InstructorRetryException"),
        wrong_key=dict.fromkeys((CHAT, MESSAGES), "InstructorRetryException"),
    ),
    Client(
        "Pydantic AI",
        ("pydantic-ai-slim[openai,anthropic]==2.68.0",),
        program="pydantic_ai_client.py",
        dialects=(CHAT, RESPONSES, MESSAGES),
        checks=(WHOLE, STREAM, RESULT, RESULT_STREAM, STRUCTURED, BY_TOOL),
        only={MESSAGES: (WHOLE, STREAM, RESULT, RESULT_STREAM, BY_TOOL)},
        wrong_model=dict.fromkeys((CHAT, RESPONSES, MESSAGES), "ModelNotFoundError"),
        wrong_key=dict.fromkeys((CHAT, RESPONSES, MESSAGES), "ModelAuthenticationError"),
    ),
    Client(
        "LiteLLM as a client",
        ("litellm==1.110.2",),
        program="litellm_client.py",
        dialects=(CHAT, RESPONSES, MESSAGES, OLLAMA),
        checks=_USUAL,
        only={RESPONSES: (WHOLE, STREAM), MESSAGES: (WHOLE, STREAM, TOOL, TOOL_STREAM, BY_TOOL)},
        wrong_model=dict.fromkeys(Dialect, "NotFoundError"),
        wrong_key=dict.fromkeys(Dialect, "AuthenticationError"),
    ),
    Client(
        "Vercel's AI SDK",
        _AI_SDK,
        Source.NPM,
        program="ai_sdk.mjs",
        dialects=(CHAT, RESPONSES, MESSAGES),
        checks=(WHOLE, STREAM, TOOL, TOOL_STREAM, RESULT, STRUCTURED),
        only={MESSAGES: (WHOLE, STREAM, TOOL, TOOL_STREAM, RESULT, BY_TOOL)},
        wrong_model=dict.fromkeys((CHAT, RESPONSES, MESSAGES), "APICallError"),
        wrong_key=dict.fromkeys((CHAT, RESPONSES, MESSAGES), "APICallError"),
    ),
    Client(
        "Effect's AI packages",
        (
            "@effect/ai@0.37.0",
            "@effect/ai-openai@0.41.0",
            "@effect/ai-anthropic@0.27.0",
            "@effect/platform@0.97.2",
            "@effect/experimental@0.61.0",
            "@effect/rpc@0.76.0",
            "effect@3.22.2",
        ),
        Source.NPM,
        program="effect_ai.mjs",
        dialects=(RESPONSES, MESSAGES),
        checks=_USUAL,
        only={MESSAGES: (WHOLE, STREAM, TOOL, TOOL_STREAM, BY_TOOL)},
        wrong_model=dict.fromkeys((RESPONSES, MESSAGES), "HttpResponseError"),
        wrong_key=dict.fromkeys((RESPONSES, MESSAGES), "HttpResponseError"),
    ),
    Client(
        "LangChain for JavaScript",
        (
            "@langchain/core@1.4.0",
            "@langchain/openai@1.6.0",
            "@langchain/anthropic@1.5.11",
            "@langchain/ollama@1.3.0",
            "zod@4.6.7",
        ),
        Source.NPM,
        program="langchain_js.mjs",
        dialects=(CHAT, RESPONSES, MESSAGES, OLLAMA),
        checks=_USUAL,
        wrong_model=dict.fromkeys((CHAT, RESPONSES, MESSAGES), "NotFoundError") | {OLLAMA: "ResponseError"},
        wrong_key=dict.fromkeys((CHAT, RESPONSES, MESSAGES), "AuthenticationError")
        | {OLLAMA: "ResponseError"},
    ),
    Client(
        "llm",
        ("llm==0.36", "llm-ollama==0.19.1"),
        program="llm_client.py",
        dialects=(CHAT, OLLAMA),
        checks=(WHOLE, STREAMED, RESULT, STRUCTURED),
        wrong_model={CHAT: "CommandFailed", OLLAMA: "CommandFailed"},
        wrong_key={CHAT: "CommandFailed"},
    ),
    CLAUDE_CODE,
    CODEX,
    OPENCODE,
    GEMINI_CLI,
    AIDER,
    OPEN_WEBUI,
    GUIDELLM,
    Client(
        "A page in headless Chromium", (), Source.HERE, tests=("test_browser.py::test_a_page_whose_origin",)
    ),
    PAGE_SDKS,
    Client("curl", (), Source.HERE, tests=("test_curl.py",)),
)
