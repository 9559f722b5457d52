"""The same Celery app, of which offloop knows: what its workers import."""

from celery_tasks import tasks
from offloop.celery import register

register(tasks, "offloop_nodes")
