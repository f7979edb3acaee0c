"""The services, as the edges receive them: one frozen dataclass, nothing more.

Must not know: any adapter; `spawner.wiring` fills it in, tests use `dataclasses.replace`.
"""

from dataclasses import dataclass

from spawner.images.badges import Badges
from spawner.images.service import ImageService
from spawner.ports import Clock, Dispatcher, Doors, Forge
from spawner.sessions.agents import AgentService
from spawner.sessions.service import SessionService
from spawner.users.service import UserService


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What an edge may call."""

    sessions: SessionService
    agents: AgentService
    images: ImageService
    badges: Badges
    users: UserService
    forge: Forge
    doors: Doors
    dispatcher: Dispatcher
    clock: Clock
