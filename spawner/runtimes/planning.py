"""What every runtime tells its agents in the same words: the checkout, and the names of folders.

For: runtimes that start `spawner.agent`.
Promises: pure; a name that was accepted can be one folder's name and nothing more.
Must not know: how an agent is started.
"""

import re

from spawner.agent.plan import CheckoutPlan
from spawner.ports import Checkout, RefKind

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.IGNORECASE)


def is_name(text: str) -> bool:
    """Say whether a text can be one folder's name and nothing more."""
    return _NAME.fullmatch(text) is not None


def folder_name(project: str) -> str:
    """Return the name of a project's folder in the workspace."""
    name = project.rpartition("/")[2]
    return name if is_name(name) else "project"


def checkout_plan(checkout: Checkout, *, budget_seconds: float) -> CheckoutPlan:
    """Return what Git has to do: the forge's own address as `origin`, led to the relay by `insteadOf`."""
    relay = checkout.relay_url.removesuffix(".git")
    prefix = checkout.relay_url.removesuffix(f"{checkout.project}.git")
    web = [address for address in checkout.replaces if address.startswith(("https://", "http://"))]
    return CheckoutPlan(
        origin_url=f"{web[0]}.git" if web else checkout.relay_url,
        relay_prefix=prefix,
        # Git compares beginnings: the bare path would take every project whose path begins with it to the relay.
        rewrites=tuple((f"{relay}{end}", f"{address}{end}") for address in checkout.replaces for end in (".git", "/")),
        branch=checkout.branch,
        is_tag=checkout.ref_kind is RefKind.TAG,
        sha=checkout.sha,
        author_name=checkout.author_name,
        author_email=checkout.author_email,
        fetch_lfs=checkout.fetch_lfs,
        budget_seconds=budget_seconds,
    )
