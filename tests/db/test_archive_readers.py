"""The same question to an archive, asked of DuckDB, PyArrow and Spark, has the same answer as in the database."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow.compute as pc
import pytest
from pyarrow import dataset

from provenance import Trail
from provenance.archive import archive_month
from tests.support import databases, months
from tests.support.months import first_of, insert

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn

Answer = list[list[Any]]

# By whom and how often, how long it took, and since when, in one month of the archive.
QUESTION = """
SELECT user_id, count(*) AS actions, sum(duration_ms) AS took, min(started_at) AS since
  FROM {actions}
 WHERE {in_april} AND status = 'completed'
 GROUP BY user_id ORDER BY user_id
"""


@pytest.fixture
def archived(provenance_dsn: str, tmp_path: Path) -> tuple[Path, Answer]:
    """An archive of three months, and what the database had answered."""
    with psycopg.connect(provenance_dsn, autocommit=True) as owner, Trail(provenance_dsn) as trail:
        for number in (3, 4, 5):
            months.make(owner, "actions", first_of(2021, number))
            for hour in range(60):
                moment = first_of(2021, number) + timedelta(hours=hour, microseconds=hour)
                insert(
                    owner,
                    "actions",
                    moment,
                    tenant_id=f"t{hour % 7}",
                    user_id=f"u{hour % 5}",
                    duration_ms=hour / 2,
                    status="failed" if hour % 11 == 0 else "completed",
                )
        rows = owner.execute(
            QUESTION.format(
                actions="provenance.actions", in_april="tableoid = 'provenance.actions_2021_04'::regclass"
            ).encode()
        ).fetchall()
        for number in (3, 4, 5):
            archive_month(trail, tmp_path / "archive", "actions", first_of(2021, number).date())
    return tmp_path / "archive", [[user, count, took, _microseconds(since)] for user, count, took, since in rows]


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_duckdb(archived: tuple[Path, Answer]) -> None:
    """The directories are columns of the files in them."""
    root, expected = archived
    question = QUESTION.format(
        actions=f"read_parquet('{root}/actions/*/*/*.parquet', hive_partitioning = true)", in_april="month = '2021-04'"
    )
    found = duckdb.sql(f"SELECT user_id, actions, took, epoch_us(since) FROM ({question}) ORDER BY user_id").fetchall()  # noqa: S608
    assert expected == [list(row) for row in found]


def test_pyarrow(archived: tuple[Path, Answer]) -> None:
    """Without a query engine."""
    root, expected = archived
    actions = dataset.dataset(root / "actions", partitioning="hive")
    wanted = (pc.field("month") == "2021-04") & (pc.field("status") == "completed")
    table = actions.to_table(filter=wanted).group_by("user_id")
    found = table.aggregate([([], "count_all"), ("duration_ms", "sum"), ("started_at", "min")]).sort_by("user_id")
    columns = ("user_id", "count_all", "duration_ms_sum", "started_at_min")
    assert expected == [
        [user, count, took, _microseconds(since)]
        for user, count, took, since in zip(*(found[name].to_pylist() for name in columns), strict=True)
    ]


SPARK = textwrap.dedent("""
    import json, sys
    from pyspark.sql import SparkSession

    master, root, question = sys.argv[1:]
    spark = (SparkSession.builder.master(master).config("spark.driver.host", "127.0.0.1")
             .config("spark.driver.bindAddress", "127.0.0.1").config("spark.ui.enabled", "false")
             .config("spark.sql.session.timeZone", "UTC").config("spark.executor.memory", "600m").getOrCreate())
    spark.read.parquet(f"{root}/actions").createOrReplaceTempView("actions")
    found = spark.sql(f"SELECT user_id, actions, took, unix_micros(since) AS since FROM ({question}) ORDER BY user_id")
    print("ANSWER", json.dumps([list(row) for row in found.collect()]))
    print("EXECUTORS", len(spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos()) - 1)
    spark.stop()
""")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def spark_cluster(directory: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a standalone master and two workers; yield where the master is, and the environment of its clients."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None or shutil.which("java") is None:
        pytest.skip("Spark is not here: it takes the package pyspark and Java 17")
    home = Path(spec.origin).parent
    environment = os.environ | {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
    }
    master = f"spark://127.0.0.1:{(port := _free_port())}"
    quietly = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    here = ["--host", "127.0.0.1", "--webui-port", "0"]
    commands = [["master.Master", *here, "--port", str(port)]]
    for number in range(2):
        limits = ["--cores", "1", "--memory", "700m", "--work-dir", str(directory / f"worker-{number}")]
        commands.append(["worker.Worker", *here, *limits, master])
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name, *options in commands:
            command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *options]
            processes.append(subprocess.Popen(command, **quietly))
        yield master, environment
    finally:
        for process in processes:
            process.terminate()
            process.wait()


@pytest.mark.spark
def test_spark(archived: tuple[Path, Answer], tmp_path: Path) -> None:
    """On a master and two workers."""
    root, expected = archived
    with spark_cluster(tmp_path) as (master, environment):
        question = QUESTION.format(actions="actions", in_april="month = '2021-04'")
        done = subprocess.run(
            [sys.executable, "-c", SPARK, master, str(root), question],
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stderr[-2_000:]
    assert expected == json.loads(answers[0].removeprefix("ANSWER "))
    assert "EXECUTORS 2" in done.stdout
