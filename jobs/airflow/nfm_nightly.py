"""Every night: features, a training if one is due, promotion of a better model, scores, a report.

For Airflow 3: link this file into its folder of DAGs. It imports Airflow alone; a task runs one of
our jobs with the Python of our environment. These variables of Airflow's processes say where:

- `NFM_CONFIG`: YAML file of the run, with the section `nightly`; relative to `NFM_HOME`
- `NFM_HOME`: our checkout; default: where the link leads
- `NFM_PYTHON`: default: `.venv/bin/python` in `NFM_HOME`

docs/nightly.md says how tasks end and what to do then.
"""

import os
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pendulum
import yaml
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, BaseOperator, Context, Param, TriggerRule, chain, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.timetables.interval import CronDataIntervalTimetable

HOME = Path(os.environ.get("NFM_HOME", Path(__file__).resolve().parents[2]))
PYTHON = os.environ.get("NFM_PYTHON", f"{HOME}/.venv/bin/python")
CONFIG = HOME / os.environ["NFM_CONFIG"]
# Exit codes of our jobs (docs/architecture.md): to try again mends neither of the first two.
CONFIG_IS_WRONG, DATA_IS_WRONG, NOT_DUE = 2, 3, 99
TASK_HOURS = 24  # else a task that hangs keeps all later nights from starting, without a word


class Job(BaseOperator):
    """Runs one of our jobs.

    Args:
        job: Its name.
        arguments: Of its command line, after --config.
    """

    template_fields = ("arguments",)

    def __init__(self, *, job: str, arguments: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.job, self.arguments = job, arguments

    @cached_property
    def hook(self) -> SubprocessHook:
        """The process."""
        return SubprocessHook()

    def execute(self, context: Context) -> None:
        """Run it, and end as it ends."""
        command = [PYTHON, "-m", f"jobs.{self.job}", "--config", str(CONFIG), *self.arguments]
        code = self.hook.run_command(command, cwd=str(HOME)).exit_code
        if code == NOT_DUE:
            raise AirflowSkipException("not due")
        if code in (CONFIG_IS_WRONG, DATA_IS_WRONG):
            raise AirflowFailException(f"exit code {code}: not tried again; the log says why")
        if code:
            raise AirflowException(f"exit code {code}; the log says why")

    def on_kill(self) -> None:
        """Tell it to end: it leaves what is published as it is."""
        self.hook.send_sigterm()


def days_of_features(days: int | None) -> list[str]:
    """The arguments for the days up to that of the run, or none for all rows."""
    if days is None:
        return []
    return ["--ds-from", f"{{{{ macros.ds_add(ds, {1 - days}) }}}}", "--ds-to", "{{ ds }}"]


nightly = yaml.safe_load(CONFIG.read_text())["nightly"]
base = ["--base", nightly["base"]] if nightly.get("base") else []
# A run is for the day that its interval begins on, and all its tasks take that day from `ds`.
schedule = CronDataIntervalTimetable(nightly["schedule"], timezone="UTC")

with DAG(
    "nfm_nightly",
    doc_md=__doc__,
    schedule=schedule,
    start_date=datetime.fromisoformat(str(nightly["start"])).replace(tzinfo=UTC),
    catchup=True,
    max_active_runs=1,
    params={
        "build": Param(
            False,
            type="boolean",
            description="Build features, train and promote also if the day is not the newest.",
        )
    },
    default_args={
        "execution_timeout": timedelta(hours=nightly.get("task_hours") or TASK_HOURS),
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(hours=1),
    },
):
    # Not Airflow's LatestOnlyOperator: it takes any run that a person triggers for the latest. Only
    # what follows at once is skipped, not the scores, which have a trigger rule of their own.
    @task.short_circuit(ignore_downstream_trigger_rules=False, retries=0)
    def newest_day(params: dict[str, Any], ds: str | None = None) -> bool:
        """Whether features and aliases are to change: they are those of the newest whole day.

        A run for another day (caught up, a backfill, a cleared or a triggered one) leaves them
        alone and scores with the model that serves.
        """
        if ds is None:
            raise AirflowFailException("a run is for a day: trigger it with a logical date")
        newest = schedule.infer_manual_data_interval(run_after=pendulum.now("UTC")).start
        return params["build"] or ds == newest.to_date_string()

    alone: dict[str, Any] = {"max_active_tis_per_dag": 1}
    build = Job(
        task_id="build_features",
        job="build_features",
        arguments=["--overwrite", *base, *days_of_features(nightly.get("days"))],
        **alone,
    )
    # Ends with NOT_DUE, which skips it and with it the three that follow.
    due = Job(task_id="due", job="models", arguments=["due"])
    train = Job(task_id="train", job="train", arguments=[], **alone)
    candidate = Job(
        task_id="candidate",
        job="models",
        arguments=["promote", "latest", "--to", "candidate"],
        **alone,
    )
    promote = Job(task_id="promote", job="models", arguments=["promote", "candidate"], **alone)
    # All done, not all well: whether nothing was due, the candidate was refused or the features
    # could not be built, the day is scored with the model that serves.
    score = Job(
        task_id="score",
        job="score",
        arguments=["--bundle", "serving", "--ds", "{{ ds }}"],
        trigger_rule=TriggerRule.ALL_DONE,
    )
    report = Job(task_id="report", job="lake", arguments=["show", "--ds", "{{ ds }}"])

    @task(trigger_rule=TriggerRule.ONE_FAILED, retries=0)
    def failed() -> None:
        """Fail the run, which is otherwise as good as its last task: the report.

        Not for `promote`: a refused candidate is no fault of the run. Its task fails, to be seen.
        """
        raise AirflowFailException("a task before the scores failed; they are the old model's")

    chain(newest_day(), build, due, train, candidate, promote, score, report)
    chain([build, due, train, candidate], failed())
