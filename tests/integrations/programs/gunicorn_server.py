"""gunicorn, as its command runs it."""

from __future__ import annotations

import os
import sys

from gunicorn.app.wsgiapp import run

os.environ["TASK"] = sys.argv[1]
_CONF = "tests.integrations.programs.gunicorn_conf"
sys.argv = ["gunicorn", "--config", f"python:{_CONF}", f"{_CONF}:application"]
run()
