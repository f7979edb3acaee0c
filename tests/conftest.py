"""What every suite shares: with `CI=true` a skip is a failure.

A suite that lacks its part says which part and how to get it, by skipping; where nobody reads that, it must not
pass. Excepted are the tests marked `gitlab_openapi`: they compare with GitLab's own document, which we do not ship.
"""

import os
from collections.abc import Generator

import pytest

_MAY_SKIP = "gitlab_openapi"

pytest_plugins = [
    "tests.servers",  # real PostgreSQL and Redis, started when a test asks for them
    "tests.surroundings",  # a GitLab stand-in, the same way
    "tests.containers.fixtures",  # base images, a guarded registry and a Docker daemon, the same way
]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],  # noqa: ARG001 - pytest passes it by name
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where `CI` is set."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if item.get_closest_marker(_MAY_SKIP) is None:
            report.outcome = "failed"
            report.longrepr = f"{reason}. With CI=true a skip is a failure: install what it names."
    return report
