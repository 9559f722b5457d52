import msgspec
import pytest

from offloop import errors
from offloop.core.policy import Policy
from offloop.ingress.outcomes import error_of
from offloop.messages import Outcome

POLICY = Policy(name="read")
ERRORS = [
    {"type": "missing", "loc": ["body", "title"], "msg": "Field required", "input": {}},
]


class TooManyPages(errors.Problem):
    status, title = 422, "The document has too many pages"

    def __init__(self, only_by_name: int) -> None:
        super().__init__(pages=only_by_name)

    @property
    def most(self) -> int:
        return 800


def refused(**members: object) -> Outcome:
    said = {"title": "The document has too many pages", "detail": "900 pages", "members": members}
    return Outcome(rid="r1", reason="too-many-pages", status=422, payload=msgspec.json.encode(said), debug="trace")


@pytest.mark.parametrize("reason", [reason for reason in errors.BY_REASON if reason != "invalid-payload"])
def test_every_reason_becomes_the_error_that_names_it(reason: str) -> None:
    error = error_of(Outcome(rid="r1", reason=reason, debug="trace"), POLICY, "label", retry_after=7)
    assert type(error) is errors.BY_REASON[reason]
    assert (error.endpoint, error.request_id, error.started, error.debug) == ("read", "label", True, "trace")
    assert error.retry_after == (7 if error.status in (429, 503) else None)


@pytest.mark.parametrize(("started", "status", "retry_after"), [(False, 503, 7), (True, 504, None), (None, 504, None)])
def test_a_cut_is_a_503_only_for_what_had_not_begun(started: bool | None, status: int, retry_after: int | None) -> None:
    error = error_of(Outcome(rid="r1", reason="drain-cut", started=started), POLICY, "", retry_after=7)
    assert (error.status, error.retry_after) == (status, retry_after)


@pytest.mark.parametrize(
    ("started", "idempotent", "safe"),
    [(False, False, True), (True, False, False), (None, False, False), (True, True, True)],
)
def test_it_is_safe_to_try_again_what_never_began_or_may_begin_twice(
    started: bool | None, idempotent: bool, safe: bool
) -> None:
    outcome = Outcome(rid="r1", reason="deadline-exceeded", started=started)
    assert error_of(outcome, Policy(name="read", idempotent=idempotent), "").retry_safe is safe


def test_an_invalid_payload_carries_the_list_of_errors() -> None:
    outcome = Outcome(rid="r1", reason="invalid-payload", payload=msgspec.json.encode(ERRORS), started=False)
    error = error_of(outcome, POLICY, "label")
    assert isinstance(error, errors.InvalidPayload)
    assert error.errors == ERRORS
    assert error.retry_safe


def test_a_declared_problem_comes_back_as_its_own_class_without_its_own_init() -> None:
    error = error_of(refused(pages=900, most=3), POLICY, "label", TooManyPages)
    assert isinstance(error, TooManyPages)
    assert (error.members, error.pages, error.most) == ({"pages": 900, "most": 3}, 900, 800)  # type: ignore[attr-defined]
    assert (error.status, error.reason, error.detail) == (422, "too-many-pages", "900 pages")
    assert (error.started, error.retry_safe, error.debug) == (True, False, "trace")
    assert (error.endpoint, error.request_id) == ("read", "label")


def test_a_problem_that_this_process_does_not_know_keeps_what_it_said() -> None:
    error = error_of(refused(pages=900), POLICY, "")
    assert isinstance(error, errors.Problem)
    assert (error.status, error.reason, error.title) == (422, "too-many-pages", "The document has too many pages")
    assert error.members == {"pages": 900}
