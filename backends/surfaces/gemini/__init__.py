"""Google's Gemini API as clients speak it, and how it is said in OpenAI's chat, counts and embeddings."""
