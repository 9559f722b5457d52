from typing import Annotated

import pytest
from dishka import DependencyKey, FromComponent, Provider, Scope, decorate, provide

from offloop.graph.discovery import discover
from offloop.graph.wiring import Wiring, container_of, faults_of
from tests.unit.graph.programs import FIRST_LINE


class Engine: ...


class Pool:
    def __init__(self, engine: Engine) -> None: ...


class Session:
    def __init__(self, pool: Pool) -> None: ...


class Report:
    def __init__(self, session: Session, session_again: Session) -> None: ...


def key(cls, component=""):
    return DependencyKey(cls, component)


class Given(Provider):
    app = provide(Engine, scope=Scope.APP)
    pool = provide(Pool, scope=Scope.APP)
    session = provide(Session, scope=Scope.REQUEST)
    report = provide(Report, scope=Scope.REQUEST)


def test_what_a_request_needs_of_app_scope_is_found_however_deep():
    wiring = Wiring(container_of([Given()]))

    assert wiring.once_per_worker([key(Report), key(Engine), key(int)]) == [key(Engine), key(Pool)]
    assert wiring.provides(key(Session))
    assert not wiring.provides(key(Session, "other"))


def test_a_decorated_service_is_asked_for_by_its_outermost_layer():
    class Decorated(Provider):
        @decorate
        def engine(self, inner: Engine) -> Engine:
            return inner

    wiring = Wiring(container_of([Given(), Decorated()]))

    assert wiring.once_per_worker([key(Engine)]) == [key(Engine)]


class Step(Provider):
    number = provide(Engine, scope=Scope.STEP)


def test_a_scope_that_is_never_entered_provides_nothing():
    assert not Wiring(container_of([Step()])).provides(key(Engine))


def faults(write, source):
    found = discover(write(source))
    assert found.faults == []
    return faults_of(found.providers, found.nodes)


def test_a_service_that_nobody_provides_names_the_node_and_the_type(write):
    (fault,) = faults(write, "@node\ndef work(a: A, given: FromDishka[B]) -> C: ...")

    assert ".work (" in fault
    assert f".py:{FIRST_LINE}): its parameter 'given' is the service B, which nobody provides. Provide it" in fault


def test_a_service_of_a_component_is_told_by_it(write):
    (fault,) = faults(
        write,
        """
        from dishka import FromComponent
        @node
        def work(a: A, given: Annotated[B, FromComponent("spare")]) -> C: ...
        """,
    )

    assert "the service B of component 'spare'" in fault


def test_every_service_that_providers_lack_is_told_at_once(write):
    found = faults(
        write,
        """
        class Engine:
            def __init__(self, a: A) -> None: ...
        class Services(Provider):
            scope = Scope.APP
            engine = provide(Engine)
            @provide
            def d(self, b: B) -> D: ...
            @provide(scope=Scope.REQUEST)
            def b(self) -> B: ...
        """,
    )

    assert len(found) == 2
    assert "Engine (" in found[0] or "Engine (" in found[1]
    assert any("Services.d (" in fault and "needs the service B" in fault for fault in found)


def test_asynchronous_providers_are_refused(write):
    found = faults(
        write,
        """
        from dishka import decorate
        class Services(Provider):
            scope = Scope.APP
            @provide
            async def b(self) -> B: ...
            @provide
            async def c(self) -> Iterator[C]: yield C()
            @provide
            def d(self) -> D: ...
            @decorate
            async def decorated(self, d: D) -> D: ...
        """.replace("Iterator[C]", "AsyncIterator[C]").replace(
            "from dishka import decorate",
            "from collections.abc import AsyncIterator\n        from dishka import decorate",
        ),
    )

    assert [fault.split(" ")[0].rpartition(".")[2] for fault in found] == ["b", "c", "decorated"]
    assert all("it is `async`" in fault for fault in found)


def test_services_that_go_in_circles_cannot_be_wired(write):
    (fault,) = faults(
        write,
        """
        class Services(Provider):
            scope = Scope.APP
            @provide
            def b(self, c: C) -> B: ...
            @provide
            def c(self, b: B) -> C: ...
        """,
    )

    assert "the services cannot be wired: Cycle" in fault


def test_later_providers_win():
    class One(Provider):
        @provide(scope=Scope.APP)
        def number(self) -> int:
            return 1

    class Two(Provider):
        @provide(scope=Scope.APP)
        def number(self) -> int:
            return 2

    assert container_of([One(), Two()]).get(int) == 2


def test_a_factory_may_ask_its_container_for_more():
    from dishka import Container

    class Asking(Provider):
        @provide(scope=Scope.APP)
        def number(self, container: Container) -> int:
            return len(container.get(str))

        @provide(scope=Scope.APP)
        def word(self) -> str:
            return "four"

    assert container_of([Asking()]).get(int) == 4


@pytest.mark.parametrize("component", ["", "spare"])
def test_services_are_found_by_their_component(component):
    class Spare(Provider):
        number = provide(Engine, scope=Scope.APP)

    wiring = Wiring(container_of([Spare(component="spare")]))

    assert wiring.provides(key(Engine, component)) == (component == "spare")
    assert Annotated[Engine, FromComponent("spare")]
