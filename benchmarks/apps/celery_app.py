"""The same work behind Celery alone: a `def` route sends a task, and waits for its result with `.get()`."""

from fastapi import FastAPI

from celery_tasks import echo_task
from work import Reply, Req

app = FastAPI()


@app.post("/echo")
def echo(req: Req) -> Reply:
    sent = echo_task.apply_async((req.model_dump(),))
    return Reply.model_validate(sent.get(timeout=15))
