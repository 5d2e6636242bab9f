"""OpenAI's JSON and streams: reading, editing and converting them."""
