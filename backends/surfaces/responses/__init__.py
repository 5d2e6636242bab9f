"""OpenAI's Responses API as clients speak it, and how it is said in OpenAI's chat for engines that lack it."""
