#!/usr/bin/env bash
# Make .venv-airflow exactly as tools/airflow-requirements.txt says. `make test-airflow` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-airflow
pins=tools/airflow-requirements.txt
cmp -s $pins $venv/.ready && exit # a copy of the pins, written last

printf '==> Airflow: %s (300 MB, 1 minute)\n' $venv
.venv/bin/python -m venv --clear $venv
$venv/bin/python -m pip --disable-pip-version-check install -q --no-deps -r $pins
cp $pins $venv/.ready
