"""What a running snakemake shows of its jobs, in plain lines: epochs, ends, and the time left for all.

They replace Snakemake's lines on single jobs, which name files instead of progress; its log in .snakemake/log
keeps those.
"""

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from hlrs.artifacts.jobs import Job
from hlrs.errors import INTERRUPTED, HlrsError
from hlrs.pipeline import plan
from hlrs.pipeline.locks import leased
from hlrs.pipeline.plan_view import duration
from hlrs.pipeline.status import State, in_queue, line, says_why, state_of, summary, survey, waiting

EVERY = 10.0  # seconds between two looks at the logs of the running jobs
SILENT = 60.0  # seconds after which a job with nothing new is shown again, and the time left
MOST = 6  # jobs per look, first those not shown for longest

EVENTS = LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS
SELECTING = "Select jobs to execute..."
STATUS = re.compile(rf"non-zero exit status (1|2|{INTERRUPTED})\b")  # of hlrs, which has said why
STOPPING = "Terminating processes on user request"
RESUMES = "stopped; results and saved states are kept, and the same command resumes"
INCOMPLETE = "At least one job did not complete successfully."


@dataclass
class Running:
    """A job since its start or submission, and what was last shown of it."""

    job: Job
    since: float
    says: str = ""
    at: float = 0.0


class Live(logging.Handler):
    """Follows the events of Snakemake's logger and the logs of the jobs."""

    def __init__(self, jobs: list[Job], terminal: "logging.StreamHandler[Any]") -> None:
        super().__init__()
        self.jobs, self.terminal = jobs, terminal
        self.running: dict[int, Running] = {}
        self.queued: set[tuple[str, str]] = set()  # stages and reasons that were shown
        self.began, self.summed = time.time(), time.monotonic()
        self.ended, self.stopped, self.interrupted = threading.Event(), False, False
        terminal.addFilter(self.passes)
        threading.Thread(target=self._follow, daemon=True).start()

    def passes(self, record: logging.LogRecord) -> bool:
        """Whether Snakemake's own line is shown."""
        text, event = str(record.msg), getattr(record, "event", None)
        if event == LogEvent.JOB_ERROR:
            one = self.running.get(vars(record)["jobid"])
            return one is None or not says_why(one.job)
        replaced = event in EVENTS or text == SELECTING or STATUS.search(text)
        return not (replaced or (self.stopped and INCOMPLETE in text))

    def emit(self, record: logging.LogRecord) -> None:
        """Note that a job starts; show that one ends."""
        facts = vars(record)
        self.interrupted = self.interrupted or str(record.msg).startswith(STOPPING)
        match facts.get("event"):
            case LogEvent.JOB_INFO if key := facts["wildcards"].get("key"):
                self.running[facts["jobid"]] = Running(plan.spec(key), time.monotonic())
            case LogEvent.JOB_FINISHED if one := self.running.pop(facts["job_id"], None):
                plan.discard_states([one.job])
                self._show(line(State(one.job, "done", f"in {duration(time.monotonic() - one.since)}")))
            case LogEvent.JOB_ERROR if one := self.running.pop(facts["jobid"], None):
                if (state := state_of(one.job)).what == "failed":
                    self._show(f"{line(state)}; {one.job.log}")

    def stop(self) -> None:
        """Show, after a failure or Ctrl-C, which jobs saved their state."""
        self.ended.set()
        begun = [
            state for state in survey(self.jobs) if state.what != "done" and _touched(state.job, self.began)
        ]
        for state in begun:
            if state.what == "stopped":
                self._show(line(state))
        self.stopped = (self.interrupted or bool(begun)) and all(state.what != "failed" for state in begun)
        if self.stopped:
            self._show(RESUMES)

    def close(self) -> None:
        """End the thread that reads the logs."""
        self.ended.set()
        super().close()

    def _follow(self) -> None:
        while not self.ended.wait(EVERY):
            with suppress(HlrsError, OSError):  # what is being written can be read at the next look
                for text in self._news(time.monotonic()):
                    self._show(text)

    def _news(self, now: float) -> Iterator[str]:
        """Yield what is new of the running jobs, and now and then the time left for all."""
        held = [one for one in [*self.running.values()] if leased(one.job.key)]  # others wait in a queue
        states = [(one, state_of(one.job)) for one in held]
        found = [(one, state) for one, state in states if state.what == "running"]  # none that ended now
        new = [(one, state) for one, state in found if state.says != one.says or now - one.at >= SILENT]
        for one, state in sorted(new, key=lambda each: each[0].at)[:MOST]:
            one.says, one.at = state.says, now
            yield line(state if state.says else replace(state, says=f"for {duration(now - one.since)}"))
        if now - self.summed >= SILENT:
            self.summed = now
            surveyed = survey(self.jobs, in_queue(self.jobs))
            yield summary(surveyed)
            for (stage, reason), text in waiting(surveyed).items():
                if reason and (stage, reason) not in self.queued:
                    self.queued.add((stage, reason))
                    yield text

    def _show(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=self.terminal.stream, flush=True)


def _touched(job: Job, since: float) -> bool:
    return job.log.exists() and job.log.stat().st_mtime >= since


def show(jobs: list[Job], workflow: Any) -> Live | None:
    """Begin to show what becomes of the jobs; None with --quiet all, --verbose or another display."""
    settings = workflow.output_settings
    terminal = next((own for own in logger.handlers if own.name == "DefaultStreamHandler"), None)
    if terminal is None or settings.verbose or Quietness.ALL in (settings.quiet or ()):
        return None
    live = Live(jobs, terminal)
    logger.addHandler(live)
    return live
