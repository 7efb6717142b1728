"""Downlinks: how workers come to hold the newest model. A new one is a file, and a line in :data:`DOWNLINKS`.

The constructor's parameters are the keys of the config's ``[downlink]`` table.
"""

from collections.abc import Callable

from gcdl.downlinks.array_bytes import most_state_bytes
from gcdl.downlinks.base import UNKNOWN, Content, Downlink, Ends, Follower, Publisher, Steps
from gcdl.downlinks.gradients import Replies, Votes
from gcdl.downlinks.sign import SignUpdates
from gcdl.downlinks.update_log import UpdateLog
from gcdl.downlinks.whole import WholeContent, WholeModel, WholePublisher

DOWNLINKS: dict[str, Callable[..., Downlink]] = {
    "model": WholeModel,
    "votes": Votes,
    "replies": Replies,
    "sign": SignUpdates,
}

__all__ = [
    "DOWNLINKS",
    "UNKNOWN",
    "Content",
    "Downlink",
    "Ends",
    "Follower",
    "Publisher",
    "Replies",
    "SignUpdates",
    "Steps",
    "UpdateLog",
    "Votes",
    "WholeContent",
    "WholeModel",
    "WholePublisher",
    "most_state_bytes",
]
