import logging
import sys

import pytest

from offloop import Job
from offloop.errors import UsageError
from offloop.graph.program import Program
from tests.unit.graph.programs import Heard, module_of

PROGRAM = """
events = []
class Engine:
    number = 7
class Unused: ...
class Session:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
class Services(Provider):
    @provide(scope=Scope.APP)
    def engine(self) -> Iterator[Engine]:
        events.append("engine up")
        yield Engine()
        events.append("engine down")
    @provide(scope=Scope.APP)
    def unused(self) -> Unused:
        events.append("unused")
        return Unused()
    @provide(scope=Scope.REQUEST)
    def session(self, engine: Engine) -> Iterator[Session]:
        events.append("session up")
        failure = yield Session(engine)
        events.append(f"session down {failure!r}")

@endpoint
def plain(a: A) -> B: return B(a.n)
@endpoint
def engined(a: A, engine: FromDishka[Engine]) -> B: return B(engine.number)
@endpoint
def sessioned(a: A, job: Job, session: FromDishka[Session]) -> B:
    if a.n: raise ZeroDivisionError
    return B(session.engine.number + int(job.rid))
"""


def ask(services, name, message, **fake):
    route, out = services.route(name), Heard()
    if not route.uses_services:
        route.run(message, Job.fake(**fake), None, out)
    else:
        with services.request() as scope:
            route.run(message, Job.fake(**fake), scope, out)
    return out.replies


def test_app_services_are_built_before_the_worker_is_ready_if_they_are_used(load):
    program = load(PROGRAM)
    user, services = module_of(program), program.services()
    assert user.events == []

    services.open()
    assert user.events == ["engine up"]
    assert not services.route("engined").uses_services
    assert ask(services, "engined", user.A()) == [user.B(7)]
    assert ask(services, "plain", user.A(3)) == [user.B(3)]

    services.close()
    services.close()
    assert user.events == ["engine up", "engine down"]


def test_a_worker_of_some_endpoints_builds_only_what_those_need(load):
    program = load(PROGRAM)
    user, services = module_of(program), program.services("plain")
    services.open()
    assert user.events == []
    assert ask(services, "plain", user.A(3)) == [user.B(3)]
    services.close()


def test_request_services_live_for_one_request(load):
    program = load(PROGRAM)
    user, services = module_of(program), program.services()
    services.open()

    assert services.route("sessioned").uses_services
    assert ask(services, "sessioned", user.A(), rid="1") == [user.B(8)]
    with pytest.raises(ZeroDivisionError):
        ask(services, "sessioned", user.A(1), rid="1")

    assert user.events[1:] == ["session up", "session down None", "session up", "session down ZeroDivisionError()"]


def test_a_route_without_services_in_place_asks_for_them_all(load):
    program = load(PROGRAM)
    user, services, out = module_of(program), program.services(), Heard()
    services.open()
    route = program.route("engined")

    assert route.uses_services
    assert not program.route("plain").uses_services
    with services.request() as scope:
        route.run(user.A(), Job.fake(), scope, out)
    assert out.replies == [user.B(7)]


def test_services_may_be_opened_again(load):
    program = load(PROGRAM)
    services = program.services()
    services.open()
    services.close()
    services.open()

    assert module_of(program).events == ["engine up", "engine down", "engine up"]


def test_nothing_can_be_asked_of_services_that_are_not_open(load):
    services = load(PROGRAM).services()

    with pytest.raises(UsageError, match="call open"):
        services.route("plain")
    with pytest.raises(UsageError, match="call open"):
        services.request()


FAILING = """
events = []
class Good: ...
class Bad: ...
class Services(Provider):
    scope = Scope.APP
    @provide
    def good(self) -> Iterator[Good]:
        failure = yield Good()
        events.append(f"down {failure!r}")
        raise OSError("teardown")
    @provide
    def bad(self, good: Good) -> Bad:
        raise KeyError("mine")
@endpoint
def work(a: A, good: FromDishka[Good], bad: FromDishka[Bad]) -> B: ...
"""


def test_a_provider_that_fails_leaves_nothing_built_and_raises_its_own_error(load, caplog):
    program = load(FAILING)
    services = program.services()

    with pytest.raises(KeyError, match="mine"):
        services.open()

    assert module_of(program).events == ["down KeyError('mine')"]
    assert [(record.name, record.levelno) for record in caplog.records] == [("offloop.services", logging.ERROR)]
    with pytest.raises(UsageError):
        services.request()


def test_a_request_service_that_fails_at_its_end_is_logged_and_changes_nothing(load, caplog):
    program = load(
        """
        class Services(Provider):
            scope = Scope.REQUEST
            @provide
            def b(self) -> Iterator[B]:
                yield B(5)
                raise OSError("teardown")
        @endpoint
        def work(a: A, b: FromDishka[B]) -> B:
            if a.n: raise KeyError("mine")
            return b
        """
    )
    user, services = module_of(program), program.services()
    services.open()

    assert ask(services, "work", user.A()) == [user.B(5)]
    with pytest.raises(KeyError, match="mine"):
        ask(services, "work", user.A(1))
    assert [record.message for record in caplog.records] == ["a service of a request failed at its end"] * 2


def test_a_program_without_providers_has_services_too(load):
    services = load("@endpoint\ndef work(a: A) -> B: ...").services()

    services.open()
    with services.request():
        pass
    services.close()


class Stub:
    uses_services = False

    def __init__(self, answer):
        self.answer = answer

    def run(self, message, job, services, out):
        out.reply(self.answer, last=True)


def test_what_stands_in_for_a_route_is_run_in_its_place_also_by_services_that_are_open(load):
    program = load(PROGRAM)
    user, services = module_of(program), program.services()
    services.open()

    with program.stand_in({"plain": Stub(1)}):
        with program.stand_in({"plain": Stub(2), "engined": Stub(3)}):
            assert [ask(services, name, user.A()) for name in ("plain", "engined")] == [[2], [3]]
        assert [ask(services, name, user.A()) for name in ("plain", "engined")] == [[1], [user.B(7)]]
    assert ask(services, "plain", user.A(4)) == [user.B(4)]


def test_an_override_wins_for_services_made_within_it(load, write):
    program: Program = load(PROGRAM)
    user = module_of(program)
    other = sys.modules[user.__name__].Provider

    class Fake(other):
        @user.provide(scope=user.Scope.APP)
        def engine(self) -> user.Engine:
            engine = user.Engine()
            engine.number = 99
            return engine

    before = program.services()
    before.open()
    for provider in (Fake, Fake()):
        with program.override(provider):
            inside = program.services()
        inside.open()
        assert ask(inside, "engined", user.A()) == [user.B(99)]
    after = program.services()
    after.open()

    assert ask(before, "engined", user.A()) == ask(after, "engined", user.A()) == [user.B(7)]
