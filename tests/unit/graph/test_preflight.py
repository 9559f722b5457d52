"""What preflight refuses: one small program a fault, each with the one text that it gets."""

import pytest

from offloop.graph.program import Program
from tests.unit.graph.programs import FIRST_LINE

NODE = "@node\ndef work(a: A) -> B: ...\n"

REFUSED = {
    "a request that several nodes could answer": (
        "@node\ndef one(a: A) -> B: ...\n@node\ndef two(a: A) -> B: ...\nask = Endpoint('ask', A, B)",
        ["several nodes could take its A", "Say which: `to=`"],
    ),
    "a request of no reply that several nodes could take": (
        "@node\ndef one(a: A) -> B: ...\n@node\ndef two(a: A) -> C: ...\nask = Endpoint('ask', A, None)",
        ["several nodes could take its A"],
    ),
    "a request that nobody takes": (
        NODE + "ask = Endpoint('ask', C, B)\nother = Endpoint('other', A, B)",
        ["no node that consumes C leads to B"],
    ),
    "a request of no reply that nobody takes": (
        NODE + "ask = Endpoint('ask', C, None)\nother = Endpoint('other', A, B)",
        ["no node that consumes C exists"],
    ),
    "a request that its node does not consume": (
        NODE + "ask = Endpoint('ask', C, B, to=work)\nother = Endpoint('other', A, B)",
        ["its `to`, ", "consumes A, not C"],
    ),
    "a reply that cannot be reached": (
        NODE + "ask = Endpoint('ask', A, C, to=work)",
        ["its reply C cannot be reached from ", ".work ("],
    ),
    "one of two replies that cannot be reached": (
        NODE + "ask = Endpoint('ask', A, B | C)",
        ["its reply C cannot be reached"],
    ),
    "a stream type that nobody emits": (
        NODE + "ask = Endpoint('ask', A, B, stream=C)",
        ["emits its stream type C"],
    ),
    "a stream type that is the reply": (
        NODE + "ask = Endpoint('ask', A, B, stream=B)",
        ["B is both its reply and its stream type"],
    ),
    "a consumed type that nobody emits or requests": (
        NODE + "ask = Endpoint('ask', A, B)\n@node\ndef idle(c: C) -> None: ...",
        [".idle (", "nobody emits C, and no endpoint requests it"],
    ),
    "a builtin between nodes": (
        ("@node\ndef one(a: A) -> str: ...\n@node\ndef two(text: str) -> B: ...\n"
        "@endpoint\ndef ask(a: A) -> C: ...\n@endpoint\ndef other(c: C) -> B: ..."),
        [".one (", "it emits str, which is no endpoint's reply. A builtin says nothing"],
        [".two (", "nobody emits str, and no endpoint requests it. A builtin says nothing"],
    ),
    "two endpoints of one name": (
        NODE + "ask = Endpoint('ask', A, B)\nagain = Endpoint('ask', A, B)",
        [f":{FIRST_LINE + 3})", "the name 'ask' is taken by endpoint 'ask'"],
    ),
    "two nodes of one name": (
        ("@node(name='x')\ndef one(a: A) -> B: ...\n@node(name='x')\ndef two(b: B) -> C: ...\n"
        "ask = Endpoint('ask', A, C)"),
        [".two (", "the name 'x' is taken by"],
    ),
    "two endpoints of one path": (
        "@endpoint(http='POST /x')\ndef one(a: A) -> B: ...\n@endpoint(http='POST /x')\ndef two(a: A) -> B: ...",
        ["endpoint 'two'", "POST /x is taken by endpoint 'one'"],
    ),
    "two paths that differ in the names of their fields only": (
        ("@dataclass\nclass E: n: int = 0; m: int = 0\n"
        "@endpoint(http='GET /x/{n}')\ndef one(e: E) -> B: ...\n@endpoint(http='GET /x/{m}')\ndef two(e: E) -> B: ..."),
        ["GET /x/{} is taken by endpoint 'one'"],
    ),
    "two sockets of one path": (
        "@endpoint(websocket='/x')\ndef one(a: A) -> B: ...\n@endpoint(websocket='/x')\ndef two(a: A) -> B: ...",
        ["endpoint 'two'", "websocket /x is taken by endpoint 'one'"],
    ),
    "a path field of a socket that the model lacks": (
        "@endpoint(websocket='/x/{other}')\ndef ask(a: A) -> B: ...",
        ["endpoint 'ask'", "websocket='/x/{other}': the path has a field {other}", "A has none of that name"],
    ),
    "a path field of a socket of bytes": (
        "@endpoint(websocket='/x/{n}')\ndef ask(blob: Blob) -> B: ...",
        ["endpoint 'ask'", "websocket='/x/{n}'", "Blob has no fields"],
    ),
    "a socket's path that is none": (
        "@endpoint(websocket='/x/{n:int}')\ndef ask(a: A) -> B: ...",
        ["endpoint 'ask'", "websocket='/x/{n:int}': the path begins with '/'"],
    ),
    "a socket for a model with a Blob": (
        ("@dataclass\nclass E:\n    page: Blob\n    n: int = 0\n"
        "@endpoint(http='POST /x', websocket='/x')\ndef ask(e: E) -> B: ..."),
        [f":{FIRST_LINE + 4})", "websocket='/x': E.page is a Blob", "or leave websocket= out"],
    ),
    "a socket for a model that may have a Blob": (
        ("@dataclass\nclass E:\n    page: Blob | None = None\n"
        "@endpoint(websocket='/x')\ndef ask(e: E) -> B: ..."),
        ["endpoint 'ask'", "E.page is a Blob"],
    ),
    "a path field that the model lacks": (
        "@endpoint(http='POST /x/{other}')\ndef ask(a: A) -> B: ...",
        ["endpoint 'ask'", "other"],
    ),
    "an unannotated parameter": (
        "@endpoint\ndef ask(a) -> B: ...",
        [".ask (", "first parameter 'a' has no annotation"],
    ),
    "a union of lists": (
        "@node\ndef work(a: A) -> list[B] | list[C]: ...\nask = Endpoint('ask', A, list[B] | list[C], to=work)",
        ["it cannot emit list", "cannot be told apart"],
        ["its reply cannot be told: list", "cannot be told apart"],
    ),
    "a service that nobody provides": (
        "@endpoint\ndef ask(a: A, given: FromDishka[C]) -> B: ...",
        [".ask (", "the service C, which nobody provides"],
    ),
    "an asynchronous provider": (
        "class Services(Provider):\n    scope = Scope.APP\n    @provide\n    async def c(self) -> C: ...\n" + NODE
        + "ask = Endpoint('ask', A, B)",
        ["Services.c (", "it is `async`"],
    ),
    "a type that cannot travel": (
        "class Plain:\n    def __init__(self, x): ...\n@endpoint\ndef ask(a: A) -> Plain: ...",
        ["its reply, Plain, cannot travel"],
    ),
    "a request of None": (NODE + "ask = Endpoint('ask', None, B)\nother = Endpoint('other', A, B)",
        ["its request is None"]),
    "a reply that may be None": (
        NODE + "ask = Endpoint('ask', A, B | None)",
        ["its reply may be None"],
    ),
    "a `to` that is no node": (
        "def plain(a: A) -> B: ...\nask = Endpoint('ask', A, B, to=plain)",
        ["its `to`, plain, is no node of this program"],
    ),
    "a `to` that names nothing": (
        NODE + "ask = Endpoint('ask', A, B, to='elsewhere:work')\nother = Endpoint('other', A, B)",
        ["its `to`, elsewhere:work, is no node"],
    ),
    "an async function": (
        "@node\nasync def work(a: A) -> B: ...",
        [".work (", "no async runner yet"],
    ),
    "a name": (NODE + "ask = Endpoint('two words', A, B)", ["its name is 'two words'"]),
    "a timeout": (NODE + "ask = Endpoint('ask', A, B, timeout=0)", ["its timeout is 0", "above 0"]),
    "an endless timeout": (NODE + "ask = Endpoint('ask', A, B, timeout=float('inf'))", ["its timeout is inf"]),
    "a timeout in words": (NODE + "ask = Endpoint('ask', A, B, timeout='2s')", ["its timeout is '2s'"]),
    "max_in_flight": (NODE + "ask = Endpoint('ask', A, B, max_in_flight=0)", ["its max_in_flight is 0"]),
    "max_in_flight in words": (NODE + "ask = Endpoint('ask', A, B, max_in_flight=True)", ["its max_in_flight is True"]),
    "max_body": (NODE + "ask = Endpoint('ask', A, B, max_body=1.5)", ["its max_body is 1.5"]),
    "idempotent": (NODE + "ask = Endpoint('ask', A, B, idempotent=1)", ["its idempotent is 1"]),
    "a status": (NODE + "ask = Endpoint('ask', A, B, status=404)", ["its status is 404", "raising a Problem"]),
    "a status without a body": (NODE + "ask = Endpoint('ask', A, B, status=204)", ["status 204 has no body"]),
    "on_disconnect": (NODE + "ask = Endpoint('ask', A, B, on_disconnect='stop')", ["its on_disconnect is 'stop'"]),
    "a pool": (NODE + "ask = Endpoint('ask', A, B, pool='')", ["its pool is ''"]),
    "a websocket path": (NODE + "ask = Endpoint('ask', A, B, websocket='x')", ["its websocket is 'x'"]),
    "media types of what is no Blob": (
        NODE + "ask = Endpoint('ask', A, B, media_types=('a/b',))",
        ["its media_types are for a Blob, but its request is A"],
    ),
    "media types that are none": (
        "@endpoint(media_types='application/pdf')\ndef ask(blob: Blob) -> B: ...",
        ["its media_types is 'application/pdf'"],
    ),
    "a media type that is none": (
        "@endpoint(media_types=('pdf',))\ndef ask(blob: Blob) -> B: ...",
        ["its media_types is ('pdf',)"],
    ),
    "problems that are not several": (
        "class Bad(Problem): ...\n@endpoint(problems=Bad)\ndef ask(a: A) -> B: ...",
        ["its problems is <class"],
    ),
    "a problem that is none": (
        "@endpoint(problems=(OSError, Problem, 3))\ndef ask(a: A) -> B: ...",
        ["among its problems is <class 'OSError'>"],
        ["among its problems is <class 'offloop.errors.Problem'>"],
        ["among its problems is 3"],
    ),
    "a problem of a reason that is taken": (
        "class QueueFull(Problem): ...\n@endpoint(problems=(QueueFull,))\ndef ask(a: A) -> B: ...",
        ["the reason of its problem QueueFull, 'queue-full', is one of offloop's own"],
    ),
    "two problems of one reason": (
        ("class Bad(Problem): ...\nclass Worse(Problem): reason = 'bad'\n"
        "@endpoint(problems=(Bad, Worse, Bad))\ndef ask(a: A) -> B: ..."),
        ["its problems Bad and Worse have the same reason, 'bad'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(faults, what):
    source, *expected = REFUSED[what]

    found = faults(source)

    assert len(found) == len(expected), "\n".join(found)
    for fault, says in zip(found, expected, strict=True):
        assert all(text in fault for text in says), fault


def test_every_fault_is_told_at_once_with_its_place(write):
    from offloop.errors import PreflightError

    name = write(
        """
        @node
        def one(a) -> B: ...
        @node
        async def two(b: B) -> C: ...
        ask = Endpoint("ask", A, D, timeout=-1)
        """
    )

    with pytest.raises(PreflightError) as refused:
        Program.load(name)

    text = str(refused.value)
    assert text.startswith(f"preflight found {len(refused.value.faults)} faults:")
    assert len(refused.value.faults) >= 4
    for place in (f"{name}.one (", f"{name}.two (", f"endpoint 'ask' of {name} ("):
        assert place in text
    assert f"{name}.py:{FIRST_LINE})" in text


@pytest.mark.parametrize(
    "source",
    [
        "@endpoint(media_types=('application/pdf',))\ndef ask(blob: Blob) -> B: ...",
        (
            "@dataclass\nclass Upload:\n    file: Blob\n    n: int = 0\n"
            "@endpoint(media_types=['a/b'])\ndef ask(upload: Upload) -> B: ..."
        ),
        "@node\ndef work(a: A) -> None: ...\nask = Endpoint('ask', A, None)",
        NODE + "ask = Endpoint('ask', A, B, to=work)\nother = Endpoint('other', A, B, to=__name__ + ':work')",
        (
            "@endpoint(http='POST /x', websocket='/x')\ndef ask(a: A) -> B: ...\n"
            "@endpoint(http='PUT /x')\ndef put(a: A) -> B: ..."
        ),
        "@endpoint(websocket='/x/{n}/y')\ndef ask(a: A) -> B: ...",
        "@endpoint(websocket='/x', media_types=('a/b',))\ndef ask(blob: Blob) -> B: ...",
        "@endpoint\ndef ask(a: Annotated[A | B, 'either']) -> list[C]: ...",
        "",
    ],
)
def test_not_refused(load, source):
    assert load(source) is not None
