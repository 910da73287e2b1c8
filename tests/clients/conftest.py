"""The JavaScript client for the tests of this folder."""

from tests.clients.fixtures import js_client

__all__ = ["js_client"]
