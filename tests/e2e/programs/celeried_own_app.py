"""A Celery app as people have them, with a result backend, routes, a serializer and tasks of its own; and offloop's.

`TEST_CELERY` is its broker and, as another database of the same server, its result backend.
"""

import json
import os

from celery import Celery
from kombu.serialization import register as serializer

from offloop.celery import register

BROKER = os.environ["TEST_CELERY"]
RESULTS = BROKER.rpartition("/")[0] + "/7"

SPOKEN = "application/x-shop"
serializer("shop", lambda what: f"shop{json.dumps(what)}", lambda text: json.loads(text[4:]), SPOKEN, "utf-8")

app = Celery("shop", broker=BROKER, backend=RESULTS)
app.conf.update(
    task_serializer="shop",
    result_serializer="shop",
    accept_content=["json", "shop"],
    task_routes={"shop.slow": {"queue": "slow"}},
    task_default_queue="shop",
    task_track_started=True,
    # What would be harm to a task of ours, and is nothing to us.
    task_ignore_result=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure_or_timeout=False,
    task_default_rate_limit="100/s",
    broker_connection_retry_on_startup=True,
)


@app.task(name="shop.add", ignore_result=False, rate_limit=None)
def add(one: int, other: int) -> int:
    return one + other


@app.task(name="shop.slow", ignore_result=False)
def slow(word: str) -> str:
    return word.upper()


@app.task(name="shop.fail", ignore_result=False)
def fail() -> None:
    raise ValueError("as it is meant to")


register(app, "tests.e2e.programs.clustered", "tests.e2e.programs.celeried")
