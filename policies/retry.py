"""Whether an answer that failed before its first byte is worth another attempt elsewhere."""

from typing import Literal

Verdict = Literal["relay", "elsewhere"]


def judge_status(status: int, elsewhere: bool) -> Verdict:
    """What to do with an answer by its status.

    A 4xx is the caller's own and is relayed, but 429 when another endpoint has room; a 5xx is
    tried elsewhere if `elsewhere`: attempts are left and another endpoint has room. With nowhere
    else to go the backend's own words reach the caller, who knows best what to do with them.
    """
    if status < 500 and status != 429:
        return "relay"
    return "elsewhere" if elsewhere else "relay"


def counts_against_health(status: int) -> bool:
    """Whether a status says that the endpoint is ill. 501 and 505 say what it cannot do."""
    return status >= 500 and status not in (501, 505)
