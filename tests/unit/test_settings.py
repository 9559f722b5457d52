import logging
import os
from pathlib import Path

import pytest

from offloop.cpus import spare_cpus, usable_cpus
from offloop.errors import SettingsError
from offloop.settings import Settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for variable in os.environ:
        if variable.upper().startswith("OFFLOOP_"):
            monkeypatch.delenv(variable)


def fault_of(**values) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    return caught.value.detail


def test_the_defaults_are_those_of_the_contract():
    settings = Settings()
    assert settings.model_dump(exclude={"workers"}) == {
        "mode": "thread",
        "broker_url": None,
        "threads": None,
        "queue_limit": 100,
        "queue_bytes": 256 * 2**20,
        "max_reply": 16 * 2**20,
        "drain_timeout": 20.0,
        "drain_delay": 0.0,
        "kill_grace": 5.0,
        "max_requests": 0,
        "max_deliveries": 3,
        "ws_in_flight": 16,
        "ws_origins": (),
        "gc_freeze": True,
        "switch_interval": 0.0005,
        "namespace": "offloop",
        "event_log": None,
        "signing_key": (),
        "debug": False,
    }
    assert settings.workers == usable_cpus()


def test_an_argument_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("OFFLOOP_QUEUE_LIMIT", "7")
    assert Settings().queue_limit == 7
    assert Settings(queue_limit=9).queue_limit == 9


def test_thread_mode_has_four_loops_and_the_others_one_unless_it_is_said():
    assert [Settings().threads_in(mode) for mode in ("thread", "process", "cluster")] == [4, 1, 1]
    assert Settings(threads=2).threads_in("process") == 2


@pytest.mark.parametrize(
    ("variable", "value", "may_be"),
    [
        ("OFFLOOP_MODE", "Thread", "thread, process, cluster"),
        ("OFFLOOP_QUEUE_LIMIT", "many", "a whole number, 1 or more"),
        ("OFFLOOP_QUEUE_LIMIT", "0", "a whole number, 1 or more"),
        ("OFFLOOP_THREADS", "1.5", "a whole number, 1 or more"),
        ("OFFLOOP_DRAIN_TIMEOUT", "nan", "a number of seconds, 0 or more"),
        ("OFFLOOP_DRAIN_TIMEOUT", "inf", "a number of seconds, 0 or more"),
        ("OFFLOOP_DRAIN_TIMEOUT", "", "a number of seconds, 0 or more"),
        ("OFFLOOP_SWITCH_INTERVAL", "0", "a number of seconds, more than 0"),
        ("OFFLOOP_DEBUG", "perhaps", "true or false"),
        ("OFFLOOP_NAMESPACE", "a b", "letters, digits"),
        ("OFFLOOP_NAMESPACE", "", "letters, digits"),
        ("OFFLOOP_EVENT_LOG", "/var/log/{user}.log", "{host} and {pid}"),
        ("OFFLOOP_EVENT_LOG", "/var/log/{", "{host} and {pid}"),
        ("OFFLOOP_EVENT_LOG", "", "a path"),
        ("OFFLOOP_WS_ORIGINS", "https://a.example/path", "without a path"),
        ("OFFLOOP_WS_ORIGINS", "a.example", "https://example.org"),
    ],
)
def test_a_malformed_value_is_one_line_that_names_variable_value_and_what_it_may_be(
    monkeypatch, variable, value, may_be
):
    monkeypatch.setenv(variable, value)
    fault = fault_of()
    assert fault.startswith(f"{variable} is {value!r}: ")
    assert may_be in fault
    assert "\n" not in fault


def test_a_malformed_argument_is_named_as_such_even_beside_a_good_variable(monkeypatch):
    monkeypatch.setenv("OFFLOOP_QUEUE_LIMIT", "7")
    assert fault_of(queue_limit=-1) == "queue_limit is -1: it may be a whole number, 1 or more"


def test_several_faults_are_told_at_once_on_one_line():
    fault = fault_of(queue_limit=0, threads="x")
    assert "queue_limit" in fault
    assert "threads" in fault
    assert "\n" not in fault


def test_an_unknown_argument_is_refused_with_the_nearest_name():
    assert fault_of(quue_limit=3) == "quue_limit is not a setting; did you mean queue_limit?"


def test_words_come_by_commas_from_the_environment_and_as_a_tuple_from_the_program(monkeypatch):
    monkeypatch.setenv("OFFLOOP_WS_ORIGINS", "https://a.example, http://b.example:8000")
    monkeypatch.setenv("OFFLOOP_SIGNING_KEY", "new,old")
    assert Settings().ws_origins == ("https://a.example", "http://b.example:8000")
    assert Settings().signing_key == ("new", "old")
    assert Settings(ws_origins=("*",)).ws_origins == ("*",)


@pytest.mark.parametrize("value", ["", ",", "first-secret,"])
def test_an_empty_key_is_refused_because_it_would_sign_nothing(monkeypatch, value):
    monkeypatch.setenv("OFFLOOP_SIGNING_KEY", value)
    assert fault_of().startswith("OFFLOOP_SIGNING_KEY: it may be a key")


def test_no_message_and_no_repr_shows_a_secret(monkeypatch):
    monkeypatch.setenv("OFFLOOP_SIGNING_KEY", "hunter2")
    monkeypatch.setenv("OFFLOOP_BROKER_URL", "redis://me:hunter3@host/0")
    settings = Settings()
    assert "hunter" not in f"{settings!r} {settings!s}"
    monkeypatch.setenv("OFFLOOP_SIGNING_KEY", "hunter2,")
    monkeypatch.setenv("OFFLOOP_BROKER_URL", "amqp://me:hunter3@host/0")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert "hunter" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "url",
    ["redis://h", "rediss://h:1/0", "redis+unix:///run/redis.sock", "celery+redis://h", "celery+amqp://u:p@h//"],
)
def test_every_scheme_of_the_contract_is_known(url):
    assert Settings(mode="cluster", broker_url=url).broker_url == url


def test_an_unknown_scheme_is_refused_with_those_that_are_known():
    fault = fault_of(broker_url="amqp://u:p@h")
    assert fault.startswith("broker_url: it begins with one of redis://, ")
    assert "celery+amqp://" in fault


def test_cluster_mode_needs_a_broker():
    assert fault_of(mode="cluster").startswith("OFFLOOP_MODE is cluster, which needs OFFLOOP_BROKER_URL")


def test_settings_do_not_change_once_read():
    with pytest.raises(Exception, match="frozen"):
        Settings().queue_limit = 3


def test_an_unknown_variable_is_a_warning_with_the_nearest_name(monkeypatch, caplog):
    monkeypatch.setenv("OFFLOOP_QUEUE_LIMITS", "3")
    monkeypatch.setenv("OFFLOOP_XYZZY", "3")
    with caplog.at_level(logging.WARNING, "offloop"):
        Settings()
    assert sorted(record.getMessage() for record in caplog.records) == [
        "OFFLOOP_QUEUE_LIMITS is not a setting of offloop; did you mean OFFLOOP_QUEUE_LIMIT?",
        "OFFLOOP_XYZZY is not a setting of offloop",
    ]


def test_what_kubernetes_injects_and_what_we_set_ourselves_is_passed_over(monkeypatch, caplog):
    for variable in [
        "OFFLOOP_SERVICE_HOST",
        "OFFLOOP_SERVICE_PORT",
        "OFFLOOP_SERVICE_PORT_HTTP",
        "OFFLOOP_PORT",
        "OFFLOOP_PORT_8000_TCP",
        "OFFLOOP_PORT_8000_TCP_ADDR",
        "OFFLOOP_PORT_8000_TCP_PORT",
        "OFFLOOP_PORT_8000_TCP_PROTO",
        "OFFLOOP_WEB_SERVICE_HOST",
        "OFFLOOP_WORKER_INDEX",
    ]:
        monkeypatch.setenv(variable, "tcp://10.0.0.1:8000")
    with caplog.at_level(logging.WARNING, "offloop"):
        Settings()
    assert caplog.records == []


# ---- the CPUs it may use


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("affinity")
def test_without_control_groups_it_is_the_affinity(tmp_path):
    assert usable_cpus(tmp_path) == 8


@pytest.mark.usefixtures("affinity")
@pytest.mark.parametrize(("quota", "cpus"), [("max 100000", 8), ("150000 100000", 2), ("20000 100000", 1)])
def test_a_quota_of_version_2_is_rounded_up(tmp_path, quota, cpus):
    assert usable_cpus(written(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})) == cpus


@pytest.mark.usefixtures("affinity")
def test_a_parents_quota_holds_for_its_children(tmp_path):
    files = {
        "proc/self/cgroup": "0::/pod/web\n",
        "sys/fs/cgroup/pod/web/cpu.max": "max 100000",
        "sys/fs/cgroup/pod/cpu.max": "300000 100000",
    }
    assert usable_cpus(written(tmp_path, files)) == 3


@pytest.mark.usefixtures("affinity")
def test_inside_a_container_the_top_is_read_where_the_hosts_path_is_not_mounted(tmp_path):
    files = {"proc/self/cgroup": "0::/host/path\n", "sys/fs/cgroup/cpu.max": "200000 100000"}
    assert usable_cpus(written(tmp_path, files)) == 2


@pytest.mark.usefixtures("affinity")
@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("250000", 3)])
def test_a_quota_of_version_1(tmp_path, quota, cpus):
    files = {
        "proc/self/cgroup": "12:memory:/app\n3:cpu,cpuacct:/app\n0::/\n",
        "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000",
    }
    assert usable_cpus(written(tmp_path, files)) == cpus


@pytest.mark.usefixtures("affinity")
@pytest.mark.parametrize(("quota", "spare"), [("max 100000", 7), ("400000 100000", 0)])
def test_where_use_is_counted_no_cpu_is_there_to_be_kept_busy(tmp_path, quota, spare):
    assert spare_cpus(written(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})) == spare


def test_one_cpu_is_for_the_event_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert spare_cpus(tmp_path) == 0


def test_a_platform_without_affinity_counts_its_cpus(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(tmp_path) == 1
