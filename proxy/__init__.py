"""The edge and the composition root: ASGI, the OpenAI wire format, SSE, admin, metrics, CLI."""
