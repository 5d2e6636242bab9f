"""The dialects that clients speak: read a request, write an answer, a stream and an error. Pure, like the engines."""
