"""Brokers of a measurement's own: each on a port that nothing else uses, without anything on disk that stays."""

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping

from environments import Unavailable

HOST = "127.0.0.1"
PROGRAMS = {
    "redis": ("redis-server", "redis-server"),
    "nats": ("nats-server", "nats-server"),
    "amqp": ("rabbitmq-server", "rabbitmq-server"),
}
"""The program, and the Debian package that has it."""
HOME = "/usr/lib/rabbitmq/bin"
"""Where RabbitMQ's script is that does not change the user."""


def command(kind: str, port: int, home: str) -> list[str]:
    """How it is started, in the foreground.

    Raises:
        Unavailable: it is not installed.
    """
    program, package = PROGRAMS[kind]
    if (found := shutil.which(program, path=os.pathsep.join((HOME, os.environ.get("PATH", ""))))) is None:
        raise Unavailable(f"no {program}: apt-get install {package}")
    if kind == "nats":
        return [found, "--addr", HOST, "--port", str(port)]
    if kind == "amqp":
        return [found, "-noinput"]
    return [
        *(found, "--bind", HOST, "--port", str(port), "--dir", home),
        *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
    ]


def environment(kind: str, port: int, home: str) -> dict[str, str]:
    """What a broker reads that takes no arguments."""
    if kind != "amqp":
        return {}
    return {
        "HOME": home,
        "ERL_EPMD_PORT": str(_free_port()),
        "RABBITMQ_NODENAME": f"bench-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": HOST,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(_free_port()),
        "RABBITMQ_MNESIA_BASE": f"{home}/data",
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONFIG_FILE": f"{home}/none",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/plugins",
        "RABBITMQ_ALLOW_INPUT": "1",
    }


def leave(kind: str, environment: Mapping[str, str]) -> None:
    """End what a broker has left running: the one daemon of Erlang's that makes a session of its own."""
    epmd = shutil.which("epmd") if kind == "amqp" else None
    if epmd is not None:
        subprocess.run([epmd, "-kill"], env=environment, capture_output=True, timeout=10, check=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def url(kind: str, port: int) -> str:
    return f"amqp://guest:guest@{HOST}:{port}//" if kind == "amqp" else f"{kind}://{HOST}:{port}"
