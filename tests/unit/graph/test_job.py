from offloop import Job
from offloop.messages import Envelope


def test_a_job_tells_of_its_request_and_of_the_time_that_is_left():
    now, gone = [10.0], [False]
    envelope = Envelope(rid="r1", endpoint="read", payload=b"", deadline=12.5, request_id="label")
    job = Job(envelope, clock=lambda: now[0], cancelled=lambda: gone[0])

    assert (job.rid, job.request_id, job.remaining, job.cancelled) == ("r1", "label", 2.5, False)

    now[0], gone[0] = 13.0, True
    assert (job.remaining, job.cancelled) == (-0.5, True)
    assert repr(job) == "Job(rid='r1', request_id='label')"


def test_progress_reaches_whoever_listens_and_is_passed_over_otherwise():
    told = []
    Job.fake(progress=lambda *what: told.append(what)).progress(1, 3, "page")
    Job.fake().progress(1)

    assert told == [(1, 3, "page")]


def test_a_fake_job_stands_still():
    job = Job.fake(rid="r2", request_id="x", remaining=0.0, cancelled=True)

    assert (job.rid, job.request_id, job.remaining, job.cancelled) == ("r2", "x", 0.0, True)
