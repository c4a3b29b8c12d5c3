"""A job over several hosts, which are network namespaces. Needs root."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from conftest import program_text, run_job

HOSTS = Path(__file__).parents[2] / "ci" / "hosts"

#: Runs a command on a host, in place of ssh.
SHELL = """#!/bin/bash
name=$1
shift
exec "$CHARM4RS_ON" on "${name##*h}" sh -c "$*"
"""

JOB = """
tr ' ' '\\n' <<<"$CHARM4RS_HOSTS" >nodelist
"$CHARM4RS_ON" on 0 "$0" -m charmrun.start +p4 ++quiet ++nodelist nodelist ++remote-shell "bash shell" prog.py a "b c"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")
def test_a_job_over_two_hosts_has_the_folder_the_environment_and_the_modules_of_its_start(tmp_path: Path) -> None:
    program = """
    import socket
    from there import mine
    class Node(Chare):
        def where(self, done):
            self.reduce(done, (charm.myPe(), socket.gethostname(), mine(self.thisIndex)), Reducer.gather)
    def main(args):
        done = Future()
        Group(Node).where(done)
        hosts = [host for _, host, _ in done.get()]
        print(len(set(hosts)), hosts[0] == hosts[1] != hosts[2] == hosts[3], sorted(n for _, _, n in done.get()), args[1:])
        exit()
    charm.start(main)
    """
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "there.py").write_text("import os\ndef mine(n): return os.environ['MARK'] + str(n)\n")
    (tmp_path / "prog.py").write_text(program_text(program))
    (tmp_path / "shell").write_text(SHELL)
    env = {**os.environ, "PYTHONPATH": "modules", "MARK": "m"}
    job = run_job([str(HOSTS), "2", "bash", "-c", JOB, sys.executable], env, cwd=tmp_path)
    assert job.returncode == 0, job.stderr
    assert job.stdout == "2 True ['m0', 'm1', 'm2', 'm3'] ['a', 'b c']\n"
