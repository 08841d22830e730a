"""A1111's tasks: clients name a call (`force_task_id`) and ask where that one stands, whoever else
draws meanwhile."""

import base64
from collections.abc import Mapping

from safelight.server.jobs import Job, Owner, State
from safelight.server.refusals import NotAllowed
from safelight.server.service import Service

Json = dict[str, object]


def task_progress(service: Service, owner: Owner, given: Mapping[str, object]) -> Json:
    """Where a call stands that its client named. Raises NotAllowed for a name that is none.

    A name that is not known is neither active, queued nor completed: it may yet come.
    """
    name = given.get("id_task")
    if not isinstance(name, str):
        raise NotAllowed("id_task must be the text that was sent as force_task_id.")
    job = service.tagged(name, owner)
    told: Json = {
        "active": job is not None and job.state is State.RUNNING,
        "queued": job is not None and job.state is State.QUEUED,
        "completed": job is not None and job.state.over,
        "progress": None,
        "eta": None,
        "live_preview": None,
        "id_live_preview": given.get("id_live_preview", -1),
        "textinfo": "Waiting...",
    }
    if job is None or job.state.over:
        return told
    if job.state is State.QUEUED:
        waiting = len(service.snapshot(owner).waiting)
        return told | {"textinfo": f"In queue: {job.position}/{max(waiting, job.position)}"}
    running: Json = {"progress": min(job.progress, 1.0), "eta": job.eta, "textinfo": None}
    return told | running | _preview(service, owner, job, given)


def pending_tasks(service: Service, owner: Owner) -> Json:
    """The names of the calls that wait, in order; those without one go by their job's id."""
    tasks = [job.tag or job.id for job in service.snapshot(owner).waiting]
    return {"size": len(tasks), "tasks": tasks}


def _preview(service: Service, owner: Owner, job: Job, given: Mapping[str, object]) -> Json:
    """The newest preview, if the client wants one and does not have it yet; told by its step."""
    if given.get("live_preview", True) is False or given.get("id_live_preview") == job.step:
        return {}
    data = service.preview(job.id, owner)
    if data is None:
        return {}
    text = base64.b64encode(data).decode()
    return {"live_preview": f"data:image/jpeg;base64,{text}", "id_live_preview": job.step}
