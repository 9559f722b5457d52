"""Celery as the engine: `register` adds offloop's task to an app that people have, `worker_app` makes one.

Owns what users call. What is done when a worker of theirs starts is in `worker`, how a request travels in
`transports/celery`; the app's own tasks, routes, serializers and result backend stay as they are.
"""

from celery import Celery

from offloop import errors
from offloop.celery import worker
from offloop.settings import Settings
from offloop.transports.celery.broker import MARK, broker_at


def register(celery_app: Celery, *packages: str, settings: Settings | None = None) -> None:
    """Have the workers of a Celery app run the requests of a program.

    It adds one task, `<namespace>.run`, on the queue `<namespace>` (and `<namespace>.<pool>` for endpoints with a
    pool), when the app is finalized: until then nothing is read of the app, and whatever listens to it still may. A
    worker that is started without `-Q` takes from them, too; with `-Q` from those that are named.

    Args:
        celery_app: yours. Its broker is where the web processes' `OFFLOOP_BROKER_URL` points.
        packages: as for `Offloop(...)`. They are imported when a worker starts that takes from these queues, and never
            by whoever sends tasks.
        settings: otherwise read from the environment.

    Raises:
        SettingsError: a setting is malformed.
        UsageError: the app has been registered before, or there is no package.

    Example:
        >>> from celery import Celery
        >>> app = Celery("mine", broker="redis://localhost:6379/0")
        >>> register(app, "documents.nodes")
    """
    if not packages:
        raise errors.UsageError("register(celery_app, *packages) was given no package: name the module of your nodes")
    if celery_app in worker.registered:
        raise errors.UsageError(f"{celery_app.main or 'this app'} was registered before: name all packages at once")
    worker.registered[celery_app] = worker.Part(celery_app, packages, settings or Settings())
    worker.connect()
    if celery_app.finalized:
        worker.add_task(celery_app)


def worker_app(*packages: str, settings: Settings | None = None) -> Celery:
    """A Celery app for those who have none: `celery -A its_module worker`.

    Its broker is `OFFLOOP_BROKER_URL`; it takes from the queues of all endpoints, one request at a time for each
    process or thread of the pool.

    Raises:
        SettingsError: as `register`, or no broker is named.

    Example:
        >>> import os; os.environ["OFFLOOP_BROKER_URL"] = "celery+redis://localhost:6379/0"
        >>> app = worker_app("documents.nodes")
        >>> app.conf.worker_prefetch_multiplier
        1
    """
    settings = settings or Settings()
    url = settings.broker_url or ""
    if not url.startswith(MARK):
        raise errors.SettingsError(
            "OFFLOOP_BROKER_URL is not set to a broker of Celery's, such as celery+redis://localhost:6379/0 or "
            "celery+amqp://guest:guest@localhost:5672//"
        )
    app = Celery(settings.namespace, set_as_current=False)
    broker = broker_at(url, settings.namespace)
    app.conf.update(
        broker_url=broker.url,
        broker_transport_options=broker.options,
        task_default_queue=settings.namespace,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    register(app, *packages, settings=settings)
    return app
