"""The gateway: one OpenAI-compatible URL in front of every engine."""
