"""The same work as a Celery task, in an app as people write one; its workers and whoever sends tasks import this."""

import os
from typing import Any

from celery import Celery

from work import Req, echoed

URL = os.environ["BENCH_BROKER"]

tasks = Celery("bench", broker=URL, backend=URL if URL.startswith("redis") else "rpc://")
# Nobody asks for a result twice: kept for a day, as it comes, they would fill the broker.
tasks.conf.result_expires = 60


@tasks.task
def echo_task(given: dict[str, Any]) -> dict[str, Any]:
    return echoed(Req.model_validate(given)).model_dump()
