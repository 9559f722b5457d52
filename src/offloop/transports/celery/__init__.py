"""Requests as tasks of a Celery that people already run: `web` and `worker` on whichever broker, `redis` or `amqp`.

Celery carries a request to one of its workers, and has it run there. What comes back does not take Celery's way: it is
pushed into the inbox of the web process that asked, over connections of ours.
"""
