"""A real RabbitMQ of a test's own, on ports that the system chose: stopped, started again, paused, short of memory.

What is durable outlives a restart, as with any; all is gone with the folder. Never the one that a machine may have
anyway, nor its epmd: the Erlang VM finds its own by another port.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import amqp

from offloop.transports.celery.amqp_wire import address_of
from tests.support.daemon import Daemon, free_port

DEADLINE = 50.0
"""Seconds: an Erlang VM is slow to start, and more so on a busy machine."""
HOMES = ("/usr/lib/rabbitmq/bin", "/usr/local/lib/rabbitmq/bin", "/opt/rabbitmq/sbin")
"""Where the scripts are that do not change the user: those on the PATH may be wrapped by a distribution."""


def script(name: str) -> str:
    """The path of one of RabbitMQ's programs."""
    found = shutil.which(name, path=os.pathsep.join((*HOMES, os.environ.get("PATH", ""))))
    assert found is not None, f"{name} is not installed; `make test` sees to that"
    return found


class Rabbit(Daemon):
    """A `rabbitmq-server`, whose pid is the Erlang VM's. Started by `start`; what `rabbit()` gives is started already.

    Args:
        folder: where it keeps everything.
    """

    name, up, deadline = "rabbitmq-server", "Server startup complete", DEADLINE

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def _settle_down(self) -> None:
        """On ports and in folders of its own."""
        self.port, distribution, epmd = free_port(), free_port(), free_port()
        self._environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),  # where the cookie is made that lets rabbitmqctl in
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_BYTES": "0",
            "RABBITMQ_NODENAME": f"offloop-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"), "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "environment"),
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the VM, whose pid is known then: no shell is left behind
        }  # fmt: skip
        (self.folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 1MB\n")
        (self.folder / "plugins").write_text("[].\n")

    def _command(self) -> list[str]:
        return [script(self.name), "-noinput"]

    def _port_was_taken(self) -> bool:
        return "eaddrinuse" in "\n".join(self.log)

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints. It takes seconds."""
        done = subprocess.run(
            [script("rabbitmqctl"), "--quiet", *arguments], env=self._environment, cwd=self.folder, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def short_of_memory(self, short: bool) -> None:
        """Whether it takes messages at all: those who publish are blocked."""
        self.ctl("set_vm_memory_high_watermark", "0" if short else "0.9")

    def close(self) -> None:
        """Nothing of it is left, whatever state it is in."""
        self.kill()
        epmd = shutil.which("epmd")
        if epmd is not None and self._environment:
            with suppress(subprocess.TimeoutExpired):  # the one that this VM has started, by its port
                subprocess.run(
                    [epmd, "-kill"], env=self._environment, stdin=subprocess.DEVNULL, capture_output=True,
                    timeout=DEADLINE, check=False,
                )  # fmt: skip


@contextmanager
def rabbit() -> Iterator[Rabbit]:
    """One that is up; ended at the end, whatever state it is in."""
    with tempfile.TemporaryDirectory(prefix="offloop-rabbit-") as folder:
        one = Rabbit(Path(folder))
        try:
            one.start()
            yield one
        finally:
            one.close()


_shared = ExitStack()
_urls: list[str] = []


@contextmanager
def anywhere() -> Iterator[str]:
    """The URL of one that all tests of a run share, started for the first who asks: never the machine's own.

    For tests that clean up after themselves, and stop nothing.
    """
    if not _urls:
        _urls.append(_shared.enter_context(rabbit()).url)
    yield _urls[0]


def end_shared() -> None:
    """At the end of a run."""
    _shared.close()
    _urls.clear()


def swept(url: str, namespace: str) -> None:
    """What of a namespace outlives its web processes and workers is gone: a shared RabbitMQ is left as it was."""
    address = address_of(url)
    with amqp.Connection(f"{address.host}:{address.port}") as connection:
        channel = connection.channel()
        channel.queue_delete(namespace)
        for exchange in (namespace, f"{namespace}:gate", f"{namespace}:withdrawn"):
            channel.exchange_delete(exchange)
