"""Commands of rlft carried out on the cluster, where a run's folder is: small jobs whose output comes back.

The job API is the only door that a cluster needs to open: no port of ours, and Ray's token guards it.
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Sequence

from ray.job_submission import JobStatus

from rlft_core.errors import DeadlineError, UserError
from services.jobs.client import Cluster

MARK = "rlft-answer:"
"""Begins the line of a job's output that is the answer; the rest is Ray's and the libraries'."""
_LOOK_EVERY_S = 0.3


def run_there(cluster: Cluster, words: Sequence[str], *, deadline_s: float) -> str:
    """The answer of `rlft WORDS --answer` on the cluster. Raises UserError with what it refused, DeadlineError."""
    job_id = f"rlft-ask-{secrets.token_hex(6)}"
    cluster.submit(job_id, shlex.join(["rlft", *words, "--answer"]), metadata={"rlft_ask": words[0]})
    end = time.monotonic() + deadline_s
    while not JobStatus(cluster.details(job_id).status).is_terminal():
        if time.monotonic() > end:
            cluster.stop(job_id)
            raise DeadlineError(
                f"the cluster did not carry out 'rlft {words[0]}' within {deadline_s:g} s; job {job_id} was to do it"
            )
        time.sleep(_LOOK_EVERY_S)
    log, state = cluster.log(job_id), JobStatus(cluster.details(job_id).status)
    cluster.forget(job_id)
    answers = [line.removeprefix(MARK) for line in log.splitlines() if line.startswith(MARK)]
    if state is JobStatus.SUCCEEDED and answers:
        return answers[-1].strip()
    told = [line for line in log.splitlines() if line.startswith("Error:")]
    raise UserError(
        told[-1].removeprefix("Error: ") if told else f"'rlft {words[0]}' failed on the cluster:\n{log.strip()}"
    )
