import pytest

from offloop.errors import UsageError
from offloop.graph.discovery import discover
from tests.unit.graph.programs import FIRST_LINE


def names(found):
    return [node.function.__name__ for node in found.nodes]


def test_a_module_is_looked_through_in_the_order_of_its_lines(write):
    found = discover(
        write(
            """
            late = Endpoint("late", A, B)
            @node
            def second(a: A) -> B: ...
            @endpoint
            def third(b: B) -> C: ...
            first = Endpoint("after", A, C)
            """
        )
    )

    assert names(found) == ["second", "third"]
    assert [endpoint.name for endpoint in found.endpoints] == ["late", "third", "after"]
    assert found.endpoints[0].line == FIRST_LINE
    assert found.nodes[0].line == FIRST_LINE + 1
    assert found.faults == []


def test_a_package_is_imported_with_all_its_modules_but_main(write):
    name = write(
        z="@node\ndef last(a: A) -> B: ...",
        **{"inner/a": "@node\ndef first(a: A) -> B: ...", "inner/__main__": "raise SystemExit"},
        __main__="raise SystemExit",
    )

    assert names(discover(name)) == ["first", "last"]


def test_packages_count_in_the_order_they_are_given_and_once(write):
    first, second = (write(f"@node\ndef work_{n}(a: A) -> B: ...") for n in (1, 2))

    assert names(discover(second, first, second)) == ["work_2", "work_1"]


def test_what_several_modules_hold_counts_once_where_it_is_written(write):
    name = write(
        a="from .z import *",
        z="""
        @node
        def work(a: A) -> B: ...
        again = work
        asked = Endpoint("asked", A, B)
        class Given(Provider): scope = Scope.APP
        given = Given()
        """,
    )

    found = discover(name)

    assert names(found) == ["work"]
    assert found.nodes[0].module == f"{name}.z"
    assert len(found.endpoints) == 1
    assert len(found.providers) == 1


def test_a_node_imported_from_elsewhere_does_not_count_but_an_endpoint_does(write):
    library = write(
        """
        @node
        def work(a: A) -> B: ...
        class Given(Provider): scope = Scope.APP
        asked = Endpoint("asked", A, B)
        """
    )
    program = write(f"from {library} import work, Given, asked")

    found = discover(program)

    assert names(found) == []
    assert found.providers == []
    assert [endpoint.name for endpoint in found.endpoints] == ["asked"]


def test_what_a_factory_elsewhere_makes_counts_where_it_is_held(write):
    library = write(
        """
        def reader():
            @node
            def work(a: A) -> B: ...
            return work
        """
    )
    program = write(f"import {library}\nread = {library}.reader()\nread.__module__ = {library!r}")
    gone = write(f"import {library}\nread = {library}.reader()\nread.__module__ = 'nowhere'")

    assert names(discover(program)) == ["work"]
    assert names(discover(gone)) == ["work"]


def test_two_programs_may_share_a_module(write):
    name = write("@endpoint\ndef work(a: A) -> B: ...")

    first, second = discover(name), discover(name)

    assert first.nodes[0].function is second.nodes[0].function
    assert first.endpoints[0] is not second.endpoints[0]


def test_provider_classes_are_made_and_instances_taken_in_their_order(write):
    found = discover(
        write(
            """
            class First(Provider): scope = Scope.APP
            class Second(Provider):
                scope = Scope.APP
                def __init__(self, url):
                    super().__init__()
                    self.url = url
            second = Second("x")
            third = Provider(scope=Scope.APP)
            """
        )
    )

    assert [type(provider).__name__ for provider in found.providers] == ["First", "Second", "Provider"]
    assert found.faults == []


def test_a_provider_class_that_needs_arguments_is_a_fault(write):
    name = write(
        """
        class Needy(Provider):
            def __init__(self, url): ...
        """
    )

    (fault,) = discover(name).faults

    assert f"{name}.Needy (" in fault
    assert f"{name}.py:{FIRST_LINE})" in fault
    assert "hold an instance of it at module level" in fault


def test_proxies_at_module_level_are_not_touched(write):
    name = write(
        """
        class Proxy:
            @property
            def __class__(self): raise RuntimeError("too early")
            def __getattr__(self, name): raise RuntimeError("too early")
        proxy = Proxy()
        """
    )

    assert discover(name).faults == []


def test_an_endpoint_whose_stream_cannot_be_told_is_a_fault(write):
    name = write("@endpoint(stream=list[A] | list[B])\ndef work(a: A) -> B: ...")

    (fault,) = discover(name).faults

    assert "its stream cannot be told" in fault


def test_a_function_that_cannot_be_read_makes_no_endpoint(write):
    found = discover(write("@endpoint\nasync def work(a: A) -> B: ...\n@endpoint\ndef other(a) -> B: ..."))

    assert found.endpoints == []
    assert len(found.faults) == 2


def test_a_program_needs_a_package():
    with pytest.raises(UsageError, match="name at least one"):
        discover()


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.nodes", "offloop.no_such_module"])
def test_a_package_that_does_not_exist_is_wrong_use(name):
    with pytest.raises(UsageError, match=f"there is no package '{name}'"):
        discover(name)


def test_an_import_that_fails_surfaces_as_itself_and_names_the_module(write):
    name = write(inner="raise ZeroDivisionError('mine')")

    with pytest.raises(ZeroDivisionError, match="mine") as raised:
        discover(name)

    assert raised.value.__notes__ == [f"while offloop was importing '{name}.inner'"]


@pytest.mark.parametrize("source", ["import no_such_package", "raise ModuleNotFoundError('bare')"])
def test_a_missing_module_that_a_package_imports_is_not_taken_for_the_package(write, source):
    with pytest.raises(ModuleNotFoundError):
        discover(write(source))
