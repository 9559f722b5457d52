"""A Celery app as people have them on a RabbitMQ, with results by `rpc://`, tasks of its own, and offloop's.

`TEST_CELERY` is its broker.
"""

import os

from celery import Celery

from offloop.celery import register

app = Celery("shop", broker=os.environ["TEST_CELERY"], backend="rpc://")
app.conf.update(
    task_routes={"rpc.*": {"queue": os.environ.get("TEST_QUEUE", "shop")}},
    broker_connection_retry_on_startup=True,
)


@app.task(name="rpc.add")
def add(one: int, other: int) -> int:
    return one + other


@app.task(name="rpc.fail")
def fail() -> None:
    raise ValueError("as it is meant to")


register(app, "tests.e2e.programs.clustered", "tests.e2e.programs.celeried")
