"""A Celery app for those who have none. `TEST_PROGRAM` may name other packages than its own."""

import os

from offloop.celery import worker_app

app = worker_app(*os.environ.get("TEST_PROGRAM", "tests.e2e.programs.clustered,tests.e2e.programs.celeried").split(","))
