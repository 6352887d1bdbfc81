"""Ray's job API, as rlft uses it: a connection that says what is wrong with it, and the jobs that are runs of rlft."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from rlft_core.errors import ConfigError, ResourceError

RUN, RUNS_DIR, COMMAND = "rlft_run", "rlft_runs_dir", "rlft_command"
"""Keys of a job's metadata: the run's name, the folder of runs on the cluster, and how the run is started there."""
CPUS, MEMORY = "rlft_cpus", "rlft_memory_bytes"
"""And what is reserved for its coordinator, which Ray does not tell afterwards."""
_NOT_READY = "No available agent"  # for some seconds after a cluster has started
_READY_S = 60.0
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"


@dataclass(frozen=True, slots=True)
class RunJob:
    """One attempt at a run. `state` is Ray's: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; times in ms since the epoch."""

    run: str
    attempt: int
    id: str
    state: str
    message: str
    start_ms: int | None
    end_ms: int | None
    metadata: dict[str, str]

    @property
    def ended(self) -> bool:
        """Is it over, however it went?"""
        return JobStatus(self.state).is_terminal()


class Cluster:
    """A cluster's job API. Raises ResourceError when nobody answers, ConfigError for another version or a missing token."""

    def __init__(self, address: str | None) -> None:
        self.address = address or os.environ.get(ADDRESS_VARIABLE) or "http://127.0.0.1:8265"
        if not self.address.startswith(("http://", "https://")):
            raise ConfigError(
                f"--address {self.address}: the address of a cluster's dashboard is wanted, such as http://head:8265; it takes "
                "the jobs too"
            )
        try:
            self._client = JobSubmissionClient(self.address)
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise ResourceError(
                f"no Ray cluster answers at {self.address} ({type(error).__name__}); give the address of its dashboard with "
                f"--address or in {ADDRESS_VARIABLE}"
            ) from error
        except AuthenticationError as error:
            raise ConfigError(
                f"the cluster at {self.address} wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            ) from error
        except RuntimeError as error:
            raise ResourceError(f"what answers at {self.address} is no Ray cluster: {error}") from error
        logging.getLogger("ray").setLevel(logging.WARNING)  # how a package is made and sent is Ray's business
        check_versions(self._client._server_ray_version, ray.__version__, self.address)

    def jobs(self, run: str | None = None) -> list[RunJob]:
        """Attempts at runs, the newest last; of one run, if it is named."""
        found = [run_job(details) for details in self._client.list_jobs() if RUN in (details.metadata or {})]
        return sorted(
            (job for job in found if run in (None, job.run)), key=lambda job: (job.start_ms or 0, job.attempt)
        )

    def newest(self, run: str) -> RunJob:
        """The last attempt at a run. Raises ConfigError when there was none."""
        found = self.jobs(run)
        if not found:
            known = ", ".join(sorted({job.run for job in self.jobs()})) or "none"
            raise ConfigError(f"the cluster at {self.address} knows no run '{run}'; it knows: {known}")
        return max(found, key=lambda job: job.attempt)

    def submit(self, job_id: str, entrypoint: str, **options: Any) -> str:
        """Hand in a job. Raises ConfigError when there is one of this id, ResourceError when the cluster does not take it."""
        end = time.monotonic() + _READY_S
        while True:
            try:
                return str(self._client.submit_job(entrypoint=entrypoint, submission_id=job_id, **options))
            except RuntimeError as error:
                if "already exists" in str(error):
                    raise ConfigError(f"there is a job {job_id} already; `rlft jobs` lists them") from error
                if _NOT_READY not in str(error) or time.monotonic() > end:
                    raise ResourceError(f"the cluster did not take the job: {error}") from error
            time.sleep(1.0)

    def details(self, job_id: str) -> JobDetails:
        """What Ray knows of a job."""
        return self._client.get_job_info(job_id)

    def log(self, job_id: str) -> str:
        """All that a job printed."""
        return str(self._client.get_job_logs(job_id))

    async def follow(self, job_id: str) -> AsyncIterator[str]:
        """What a job prints, as it does, until it ends."""
        async for chunk in self._client.tail_job_logs(job_id):
            yield chunk

    def stop(self, job_id: str) -> None:
        """End a job's processes: SIGTERM, and SIGKILL three seconds later."""
        self._client.stop_job(job_id)

    def forget(self, job_id: str) -> None:
        """Remove an ended job from the list."""
        self._client.delete_job(job_id)


def run_job(details: JobDetails) -> RunJob:
    """A job of Ray as an attempt at a run."""
    metadata = dict(details.metadata or {})
    attempt = str(details.submission_id).rsplit("-", 1)[-1]
    return RunJob(
        metadata[RUN],
        int(attempt) if attempt.isdigit() else 0,
        str(details.submission_id),
        details.status.value,
        str(details.message or ""),
        details.start_time,
        details.end_time,
        metadata,
    )


def check_versions(there: str | None, here: str, address: str) -> None:
    """Ray promises nothing between releases. Raises ConfigError naming both versions."""
    if there is None or there.split(".")[:2] != here.split(".")[:2]:
        raise ConfigError(
            f"the cluster at {address} runs Ray {there}, and here is Ray {here}; both must be of one release: install "
            f"ray=={there} here, or use an image of the cluster with Ray {here}"
        )
