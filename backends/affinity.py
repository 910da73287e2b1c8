"""Which endpoint suits a request that should meet the same server again.

Rendezvous hashing (Thaler and Ravishankar, 1998): each request's key ranks the endpoints, so that
one that comes or goes moves only its own share of the keys. A server's prefix cache is worth a
short wait, not a long one: where the preferred endpoint has `SLACK` requests more than the least
loaded one, the next in the ranking is asked.
"""

from collections.abc import Sequence
from hashlib import blake2b

from backends.endpoint import Endpoint

SLACK = 8.0  # requests per unit of weight


def preferred(endpoints: Sequence[Endpoint], key: str) -> Endpoint:
    """The one of those with room that the key prefers; `endpoints` is not empty."""
    bound = min(endpoint.load for endpoint in endpoints) + SLACK
    return max((e for e in endpoints if e.load <= bound), key=lambda e: _rank(key, e))


def _rank(key: str, endpoint: Endpoint) -> bytes:
    return blake2b(f"{endpoint.id}\0{key}".encode(errors="replace"), digest_size=8).digest()
