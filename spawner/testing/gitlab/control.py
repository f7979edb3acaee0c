"""The stand-in's own face, `/-/stand-in/…` and the health pages: what a test or a demo turns and reads.

Promises: it needs no sign-in, so a stand-in listens on loopback only unless it is told otherwise.
Must not know: GitLab's API.
"""

from __future__ import annotations

import flask

from spawner.testing.gitlab import faults
from spawner.testing.gitlab.ci import lifecycle
from spawner.testing.gitlab.records import Job, Runner, Status
from spawner.testing.gitlab.web import answer, here, parameters

blueprint = flask.Blueprint("control", __name__)

_HELD = (Status.PREPARING, Status.WAITING_FOR_CALLBACK, Status.PENDING)


@blueprint.get("/-/readiness")
@blueprint.get("/-/liveness")
@blueprint.get("/-/health")
def ready() -> flask.Response:
    """Answer that the stand-in works."""
    return answer({"status": "ok", "master_check": [{"status": "ok"}]})


@blueprint.get("/-/stand-in/requests")
def requests() -> flask.Response:
    """Answer how often each route was called since the start; with `project`, by whom (`client`) about that one."""
    counts = dict(here().switches.counts)
    project, client = flask.request.args.get("project"), flask.request.args.get("client")
    if project:
        counts = {}
        for (about, by, route), count in list(here().switches.project_counts.items()):
            if about == project and client in {None, by}:
                counts[route] = counts.get(route, 0) + count
    return answer({route: counts[route] for route in sorted(counts)})


@blueprint.get("/-/stand-in/targets")
def targets() -> flask.Response:
    """Answer the last requests, method and target as they were sent: what an access log of GitLab holds."""
    return answer(list(here().switches.targets))


@blueprint.get("/-/stand-in/runner")
def runner() -> flask.Response:
    """Answer whether the runners get jobs."""
    rows = here().store.all(Runner)
    return answer({"paused": any(row.paused for row in rows), "contacted": any(row.contacted_at for row in rows)})


@blueprint.post("/-/stand-in/runner")
def pause() -> flask.Response:
    """Keep jobs from the runners, or give them again."""
    paused = parameters().get("paused")
    if not isinstance(paused, bool):
        return answer({"error": 'The body must be {"paused": true} or {"paused": false}.'}, 400)
    with here().store as store:
        for row in store.all(Runner):
            store.change(row, paused=paused)
    return runner()


@blueprint.post("/-/stand-in/jobs/<int:job>")
def hold(job: int) -> flask.Response:
    """Keep a job in a state that GitLab alone puts jobs in, or let it go on with `pending`."""
    found, status = here().store.get(Job, job), parameters().get("status")
    if found is None or status not in _HELD:
        return answer(
            {"error": f'The body must be {{"status": …}}, one of {", ".join(_HELD)}, of a job that is there.'}, 400
        )
    try:
        held = lifecycle.hold(here(), found, Status(status))
    except lifecycle.WrongStateError:
        return answer({"error": f"Job {job} is {found.status}: a runner has it, or it has ended."}, 409)
    return answer({"id": job, "status": held.status})


@blueprint.get("/-/stand-in/faults")
def list_faults() -> flask.Response:
    """Answer the faults that can still happen."""
    return answer([faults.shape(row) for row in faults.armed(here())])


@blueprint.post("/-/stand-in/faults")
def arm_fault() -> flask.Response:
    """Set a fault."""
    given = parameters()
    times, seconds = given.get("times"), given.get("seconds")
    if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
        return answer({"error": "times must be a whole number of at least 1."}, 400)
    if seconds is not None and (not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0):
        return answer({"error": "seconds must be a number of at least 0."}, 400)
    try:
        faults.arm(here(), fault=str(given.get("fault")), project=given.get("project"), times=times, seconds=seconds)
    except faults.UnknownFaultError as exc:
        return answer({"error": str(exc)}, 400)
    return list_faults()


@blueprint.delete("/-/stand-in/faults")
def clear_faults() -> flask.Response:
    """Forget all faults, or those of one name."""
    faults.clear(here(), fault=parameters().get("fault"))
    return list_faults()
